"""Sharded head: every process has all of the body and a part of the classes (An et al., Partial FC, arXiv 2203.15565).

The processes take different rows; the body's gradients are averaged as by DDP, the head's belong to whoever has the class.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.core.errors import ConfigError, DataError
from components.train.parallel.clip import clip_gradient
from components.train.parallel.mesh import Mesh
from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Batch, Strategy, Work, build, parts_of, set_rate
from components.train.parallel.strategies.whole import Whole

__all__ = ["make"]


def make(parallel: Parallel, mesh: Mesh, work: Work, device: torch.device) -> Strategy:
    """Return the strategy: the work's model must be a chain of `body` and `head`.

    Raises:
        ConfigError: The world is not the mesh, or the work has no head that can be shared.
    """
    classes = mesh.device_mesh(device.type)["tensor"]
    model = build(work)
    names = [name for name, _ in model.named_children()]
    if work.head is None or not isinstance(model, nn.Sequential) or names != ["body", "head"]:
        raise ConfigError("this model has no head whose classes can be shared", do="use another strategy, such as ddp")
    body = DistributedDataParallel(model[0].to(device), process_group=classes.get_group(), bucket_cap_mb=parallel.bucket_mb)
    whole = nn.Sequential(OrderedDict(body=body, head=work.head(classes)))
    return _Sharded(
        whole,
        work.optimiser(whole.parameters()),
        work,
        device,
        place=classes.get_local_rank(),
        places=mesh.tensor,
        group=classes.get_group(),
        parts=parallel.micro_batches,
    )


@dataclass
class _Sharded(Whole):
    def step(self, batch: Batch, rate: float = 1.0) -> float:
        """Accumulate over the micro-batches, then step. The head's loss is already that of all processes' rows."""
        body, head = self.model.get_submodule("body"), self.model.get_submodule("head")
        self.model.train()
        rows = len(batch[0])
        if rows // self.places < self.parts:
            raise DataError(
                f"a batch of {rows} rows is too small for {self.parts} micro-batches on {self.places} processes",
                do=f"use batches of {self.parts * self.places} rows or more, or fewer micro_batches",
            )
        losses: list[Tensor] = []
        for number, (x, y, _) in enumerate(parts_of(batch, self.place, self.places, self.parts, self.device), start=1):
            body.require_backward_grad_sync = number == self.parts  # type: ignore[assignment]  # what `no_sync` sets
            loss = head(body(x), y) * _share(rows, self.places, self.parts, number - 1)
            torch.autograd.backward(loss)
            losses.append(loss.detach())
        if self.work.clip is not None:
            clip_gradient(self.model.parameters(), self.work.clip)
        set_rate([self.optimiser], self.rates, rate)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(torch.stack(losses).sum())


def _share(rows: int, places: int, parts: int, part: int) -> float:
    """Return which share of a global batch the micro-batches of one number are, on all places together; see `parts_of`."""
    each, longer = divmod(rows, places)
    sizes = [each + (place < longer) for place in range(places)]
    return sum(size // parts + (part < size % parts) for size in sizes) / rows
