"""Graphs larger than one process: ids, relabelling, partitions, sampling, and GraphSAGE trained data-parallel.

The order of things: `partition` says which part owns a node, `relabel` writes the new ids, `files` one folder a part; each process
then opens its own part (`files.read_partition`), samples (`sampler`) and trains (`training`).
"""
