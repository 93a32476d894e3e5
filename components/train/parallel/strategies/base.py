"""What a strategy is, what it is given, and what all of them share.

A strategy takes a model that knows nothing of it and changes it from outside, in this order (the one of pytorch/torchtitan):

    recompute -> pipeline split -> tensor / sharded head -> FSDP, ZeRO or DDP

A *global batch* has B rows, the same whatever the number of processes; each of `data` places takes a slice of it. Gradients and losses
are those of the mean over all B rows, so the loss curve is the single process's as long as a row's loss depends on that row alone: no
batch statistics, no dropout (its random numbers differ between processes). Slices may be uneven, but none may be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from components.core.errors import DataError

__all__ = ["Batch", "State", "Strategy", "Work", "base_rates", "build", "layers_of", "mean_loss", "parts_of", "set_rate"]

Batch = tuple[Tensor, Tensor]
"""A global batch: inputs and targets; the first dimension of both is its B rows."""
State = dict[str, Tensor]
"""Name -> tensor, some of them shards; the names do not depend on the strategy."""
Change = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        model: Makes the model on the CPU; the same weights at every call in every process (it seeds what it draws).
        loss: (outputs, targets) -> the mean loss over the rows given, a scalar.
        optimiser: Makes the optimizer of some parameters.
        recompute: Wraps what is computed again in the backward pass, before anything else is applied; None: nothing.
        tensor: Splits layers over a one-dimensional mesh in place (`parallelize_module`, a sharded head); None: it can't be split.
        clip: Norm to which the gradient is clipped; None: not at all.
        head: Makes what takes the place of a chain's `head` under strategy `sharded_head`: a module (embeddings, targets) -> the mean loss
            over the rows of all ranks, its classes shared over a one-dimensional mesh; None: it can't be shared.
        blocks: Names of the model's blocks, which can be recomputed (`*` stands for a part of a name); none: those of its `ModuleList`.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimiser: Callable[[Iterable[nn.Parameter]], Optimizer]
    recompute: Change | None = None
    tensor: Callable[[nn.Module, DeviceMesh], None] | None = None
    clip: float | None = None
    head: Callable[[DeviceMesh], nn.Module] | None = None
    blocks: Sequence[str] = ()


class Strategy(Protocol):
    """One way to train a model with several processes. Every method is a collective: all ranks call it."""

    def step(self, batch: Batch, rate: float = 1.0) -> float:
        """Take one optimizer step and return the mean loss over the global batch, on every rank.

        Args:
            batch: The global batch, the same on every rank; a rank reads its own rows only.
            rate: The share of the optimizer's learning rates that is used.

        Raises:
            DataError: There are too few rows, or they can't be divided as the strategy needs.
        """

    def state(self) -> State:
        """Return the weights (`model.*`) and the optimizer's state (`optim.*`); writing into these tensors is not yet loading."""

    def load(self, state: State) -> None:
        """Go on from a state: one that `state` returned and `checkpoint.load` filled."""

    def full_state(self) -> State:
        """Return the whole model's weights, buffers included, on the CPU of rank 0; nothing on other ranks."""


def build(work: Work) -> nn.Module:
    """Make the model and apply what comes first."""
    model = work.model()
    return work.recompute(model) if work.recompute else model


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that are sharded one by one: the children of a chain, else those of every `ModuleList`."""
    if isinstance(model, nn.Sequential):
        return list(model)
    return [layer for part in model.modules() if isinstance(part, nn.ModuleList) for layer in part]


def parts_of(batch: Batch, place: int, places: int, parts: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield one place's micro-batches: inputs, targets, and the share of the global batch's rows that they are.

    Args:
        batch: B rows.
        place: Which slice.
        places: Slices; the first B mod `places` of them are one row longer.
        parts: Micro-batches that the slice is cut into; fewer when it has fewer rows.
        device: Where they are put.

    Raises:
        DataError: A slice would be empty, or inputs and targets differ in length.
    """
    x, y = batch
    rows = len(x)
    if len(y) != rows:
        raise DataError(f"a batch has {rows} inputs and {len(y)} targets", do="give one target a row")
    if rows < places:
        raise DataError(f"a batch of {rows} rows can't be divided among {places} processes", do=f"use batches of {places} rows or more")
    begin, end = _cut(rows, place, places)
    parts = min(parts, end - begin)
    for part in range(parts):
        first, last = _cut(end - begin, part, parts)
        chosen = slice(begin + first, begin + last)
        yield x[chosen].to(device), y[chosen].to(device), (last - first) / rows


def _cut(rows: int, place: int, places: int) -> tuple[int, int]:
    each, longer = divmod(rows, places)
    begin = place * each + min(place, longer)
    return begin, begin + each + (place < longer)


def mean_loss(share: Tensor, group: dist.ProcessGroup | None) -> float:
    """Add up each rank's share of the mean loss."""
    total = share.detach().clone()
    if group is not None:
        dist.all_reduce(total, group=group)
    return float(total)


def base_rates(optimisers: Sequence[Any]) -> list[list[Any]]:
    """Return every parameter group's learning rate, to which `set_rate` refers."""
    return [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]


def set_rate(optimisers: Sequence[Any], base: Sequence[Sequence[Any]], rate: float) -> None:
    """Set every learning rate to a share of its base."""
    for optimiser, rates in zip(optimisers, base, strict=True):
        for group, usual in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = usual * rate
