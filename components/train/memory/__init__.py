"""Memory of a training step: what it takes, which blocks to recompute, how large a micro-batch may be.

Order of application, each from outside, the model's code untouched:

1. build the model, move it to its device;
2. plan and measure (`plan`, `measure`, `micro_batch`), which need plain parameters;
3. `recompute.apply`;
4. DDP or `fully_shard`, whose hooks then lie outside the recomputed part and gather a block's weights before its recomputation;
5. make the optimiser.
"""
