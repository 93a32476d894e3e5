"""Pipeline parallel by torch.distributed.pipelining: each rank holds stages of a chain of layers, micro-batches pass through them.

With data > 1 each place has a pipeline of its own, and gradients are averaged between them after the last micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import pipelining
from torch.distributed.pipelining import PipelineStage, schedules
from torch.optim import Optimizer

from components.core.errors import ConfigError, DataError
from components.train.parallel.clip import clip_gradient
from components.train.parallel.mesh import Mesh
from components.train.parallel.section import STAGES_A_RANK, Parallel, Schedule
from components.train.parallel.stages import places_of, split
from components.train.parallel.state import Part, load_state, state_of
from components.train.parallel.strategies.base import Batch, State, Strategy, Work, base_rates, build, mean_loss, set_rate

__all__ = ["SCHEDULES", "make"]

SCHEDULES: Mapping[Schedule, Any] = {
    "gpipe": pipelining.ScheduleGPipe,
    "1f1b": pipelining.Schedule1F1B,
    "interleaved": pipelining.ScheduleInterleaved1F1B,
    "zero_bubble": pipelining.ScheduleInterleavedZeroBubble,
    "zbv": pipelining.ScheduleZBVZeroBubble,
}


def make(parallel: Parallel, mesh: Mesh, work: Work, device: torch.device) -> Strategy:
    """Return the strategy; each rank keeps its stages only.

    Raises:
        ConfigError: The world is not the mesh, the model is no chain, or it has fewer layers than stages.
    """
    whole = mesh.device_mesh(device.type)
    rank, group = whole["pipeline"].get_local_rank(), whole["pipeline"].get_group()
    stages = split(build(work), mesh.pipeline * STAGES_A_RANK[parallel.schedule])
    held = [(number, stages[number].to(device)) for number in places_of(parallel.schedule, rank, mesh.pipeline)]
    for number, stage in held:
        if not any(p.requires_grad for p in stage.parameters()):
            raise ConfigError(f"stage {number} of {len(stages)} has nothing to train", do="use fewer processes, or another schedule")
    pieces = [PipelineStage(stage, number, len(stages), device, group=group) for number, stage in held]
    given = pieces if issubclass(SCHEDULES[parallel.schedule], schedules.PipelineScheduleMulti) else pieces[0]
    return _Pipeline(
        schedule=SCHEDULES[parallel.schedule](given, parallel.micro_batches, loss_fn=work.loss),
        parts=[(stage, work.optimiser(stage.parameters())) for _, stage in held],
        numbers=[number for number, _ in held],
        last=len(stages) - 1,
        work=work,
        device=device,
        data=whole["data"].get_group(),
        place=whole["data"].get_local_rank(),
        mesh=mesh,
        pipeline=group,
        micro_batches=parallel.micro_batches,
    )


@dataclass
class _Pipeline:
    """`strategies.base.Strategy` says what the methods do."""

    schedule: Any
    parts: list[Part]
    numbers: list[int]
    last: int
    work: Work
    device: torch.device
    data: dist.ProcessGroup
    place: int
    mesh: Mesh
    pipeline: dist.ProcessGroup
    micro_batches: int

    def __post_init__(self) -> None:
        self.rates = base_rates(self._optimisers)

    @property
    def _optimisers(self) -> list[Optimizer]:
        return [optimiser for _, optimiser in self.parts]

    def step(self, batch: Batch, rate: float = 1.0) -> float:
        """Run the schedule, average over the places, step."""
        x, y = self._rows(batch)
        losses: list[Tensor] = []
        given = {"target": y, "losses": losses} if self.last in self.numbers else {}
        for stage, _ in self.parts:
            stage.train()
        self.schedule.step(*([x] if 0 in self.numbers else []), return_outputs=False, **given)
        params = [p for stage, _ in self.parts for p in stage.parameters()]
        self._average([p.grad for p in params if p.grad is not None])
        if self.work.clip is not None:
            clip_gradient(params, self.work.clip, self.pipeline)
        set_rate(self._optimisers, self.rates, rate)
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        share = torch.stack(losses).mean() / self.mesh.data if losses else torch.zeros((), device=self.device)
        return mean_loss(share.detach().double(), dist.group.WORLD)

    def _rows(self, batch: Batch) -> Batch:
        """Stages agree on the shape of what they pass on once: every micro-batch has equally many rows."""
        x, y = batch
        parts = self.mesh.data * self.micro_batches
        if len(x) != len(y) or not len(x) or len(x) % parts:
            raise DataError(
                f"a batch of {len(x)} inputs and {len(y)} targets can't be divided into {parts} equal micro-batches",
                do=f"use batches of a multiple of {parts} rows, or leave the last one out",
            )
        each = len(x) // self.mesh.data
        chosen = slice(self.place * each, (self.place + 1) * each)
        return x[chosen].to(self.device), y[chosen].to(self.device)

    def _average(self, gradients: list[Tensor]) -> None:
        if self.mesh.data == 1:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat, group=self.data)
        flat /= self.mesh.data
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def state(self) -> State:
        """Return this rank's stages."""
        return state_of(self.parts)

    def load(self, state: State) -> None:
        """Go on from a state that holds this rank's stages."""
        load_state(self.parts, state)

    def full_state(self) -> State:
        """Send every stage's weights to rank 0."""
        mine = {name: value.detach().cpu() for stage, _ in self.parts for name, value in stage.state_dict().items()}
        return gathered(mine if self.place == 0 else {})


def gathered(mine: State) -> State:
    """Collect what the ranks hold, on rank 0, one rank at a time."""
    names = [(name, tuple(value.shape), value.dtype) for name, value in mine.items()]
    listed: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(listed, names)
    rank = dist.get_rank()
    found = dict(mine) if rank == 0 else {}
    for source, entries in enumerate(listed[1:], start=1):
        for name, shape, dtype in entries:
            if rank == source:
                dist.send(mine[name].contiguous(), 0)
            elif rank == 0:
                found[name] = torch.empty(shape, dtype=dtype)
                dist.recv(found[name], source)
    return found
