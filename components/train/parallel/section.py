"""The scenario's `train.parallel` section: how many processes train, and how they share the work. Light: imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from components.core.params import Frozen

__all__ = ["STAGES_A_RANK", "Parallel", "Recompute", "Schedule", "Strategy"]

Strategy = Literal["single", "ddp", "fsdp2", "zero1", "zero2", "zero3", "pipeline", "sharded_head", "graph"]
Schedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble", "zbv"]

STAGES_A_RANK: Mapping[Schedule, int] = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "zero_bubble": 2, "zbv": 2}
"""How many stages of the model each process of a pipeline holds."""


class Recompute(Frozen):
    """Which blocks are computed again in the backward pass; see `components.train.memory`.

    Attributes:
        mode: `none`; `full`, a block keeps its inputs only; `selective`, also what its matrix products gave; `auto`, a mode for each
            block, so that the step's activations fit the budget and the least time is lost.
        every: With `full` and `selective`: every n-th block.
        budget_mb: With `auto`: MB of activations and temporaries of a process.
    """

    mode: Literal["none", "full", "selective", "auto"] = "none"
    every: int = Field(1, ge=1)
    budget_mb: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Recompute:
        if (self.mode == "auto") != (self.budget_mb > 0):
            raise ValueError("recompute.budget_mb goes with mode 'auto', and 'auto' needs it: give both or neither")
        return self


class Parallel(Frozen):
    """How a model is trained by several processes.

    Attributes:
        strategy: `single`; `ddp`, whole models, gradients averaged; `fsdp2`, weights, gradients and optimizer state in shards; `zero1` to
            `zero3`, DeepSpeed's shards of the optimizer state, also of the gradients, also of the weights; `pipeline`, layers apart;
            `sharded_head`, the body as with `ddp`, the classes of the last layer apart; `graph`, the nodes of a graph apart.
        data: Processes that take different rows of each global batch.
        tensor: Processes that share each layer (with `fsdp2`; the model's work must say how its layers are split), or the classes (with
            `sharded_head`, whose processes also take different rows).
        pipeline: Processes that hold different layers.
        micro_batches: Parts into which a process cuts its rows: what fills a pipeline; for other strategies, gradient accumulation.
            0, with recomputation `auto`: as few as fit its budget.
        schedule: Of a pipeline: `gpipe`; `1f1b` (Narayanan et al. 2019); `interleaved` (arXiv 2104.04473), two stages a process;
            `zero_bubble` (ZB1P) and `zbv` (arXiv 2401.10241), which put the weights' gradients into the idle time.
        bucket_mb: MiB of gradients that `ddp` sends at a time: small ones start earlier, large ones cost less each.
        checkpoint_every: Steps; 0: only after the last one.
        recompute: Memory for time.
        prefetch: Whether batches are made by a thread beside the step; `auto`: if a preflight finds that it is worth it.
        partitioner: With `graph`: which process has which nodes; see `components.train.graph.partition`.
    """

    strategy: Strategy = "single"
    data: int = Field(1, ge=1, le=65536)
    tensor: int = Field(1, ge=1, le=1024)
    pipeline: int = Field(1, ge=1, le=1024)
    micro_batches: int = Field(1, ge=0, le=4096)
    schedule: Schedule = "1f1b"
    bucket_mb: float = Field(25.0, gt=0, le=4096)
    checkpoint_every: int = Field(100, ge=0)
    recompute: Recompute = Recompute()
    prefetch: Literal["auto", "on", "off"] = "off"
    partitioner: Literal["metis", "hash", "range"] = "metis"

    @property
    def world(self) -> int:
        """The number of processes: the product of the degrees."""
        return self.data * self.tensor * self.pipeline

    @property
    def rows_apart(self) -> int:
        """Into how many slices a global batch is cut."""
        return self.tensor if self.strategy == "sharded_head" else self.data

    @model_validator(mode="after")
    def _fits(self) -> Parallel:
        if self.strategy == "single" and self.world > 1:
            raise ValueError(f"strategy 'single' is one process, the degrees ask for {self.world}: set data, tensor and pipeline to 1")
        if self.tensor > 1 and self.strategy not in ("fsdp2", "sharded_head"):
            raise ValueError(f"tensor {self.tensor} goes with strategy 'fsdp2', not with '{self.strategy}': set tensor to 1, or use fsdp2")
        if self.strategy == "sharded_head" and self.data > 1:
            raise ValueError(f"processes of strategy 'sharded_head' share rows and classes: set tensor to {self.data}, and data to 1")
        if self.pipeline > 1 and self.strategy != "pipeline":
            raise ValueError(f"pipeline {self.pipeline} goes with strategy 'pipeline', not with '{self.strategy}': set pipeline to 1")
        if self.strategy == "pipeline":
            self._check_pipeline()
        if not self.micro_batches and self.recompute.mode != "auto":
            raise ValueError("micro_batches 0 lets a memory budget decide: give recompute.mode 'auto' with budget_mb, or 1 or more")
        for name, strategies in (("schedule", ("pipeline",)), ("bucket_mb", ("ddp", "sharded_head")), ("partitioner", ("graph",))):
            # By value: an engine hands on every default, written out.
            if getattr(self, name) != type(self).model_fields[name].default and self.strategy not in strategies:
                raise ValueError(f"{name} goes with strategy '{strategies[0]}', not with '{self.strategy}': leave it out")
        return self

    def _check_pipeline(self) -> None:
        if self.pipeline < 2:
            raise ValueError("strategy 'pipeline' needs at least 2 processes in a row: set pipeline to 2 or more")
        if self.micro_batches < self.pipeline:
            raise ValueError(
                f"{self.micro_batches} micro-batches leave processes of a pipeline of {self.pipeline} idle: use {self.pipeline} or more"
            )
        rounds = self.micro_batches // self.pipeline
        if self.schedule in ("interleaved", "zero_bubble") and self.micro_batches % rounds:
            raise ValueError(
                f"schedule '{self.schedule}' runs {rounds} rounds of {self.pipeline} or more micro-batches: {self.micro_batches} is no "
                f"multiple of {rounds}, {rounds * self.pipeline} is"
            )
