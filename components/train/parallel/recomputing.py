"""Recomputation, and the micro-batch that a budget allows, as a job's section asks for them: put in before any strategy is applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from components.core.errors import ConfigError
from components.train.memory.blocks import find
from components.train.memory.measure import forecast
from components.train.memory.micro_batch import largest
from components.train.memory.plan import auto, every
from components.train.memory.recompute import Mode, apply
from components.train.parallel.section import Parallel
from components.train.parallel.works import Training

__all__ = ["with_recomputation"]


def with_recomputation(what: Training, parallel: Parallel) -> tuple[Training, Parallel]:
    """Return the training with recomputation in its work, and the section with its number of micro-batches.

    A collective, where the mode is `auto`: all ranks follow rank 0's measurements.

    Raises:
        ConfigError: The work's model has no blocks to recompute, or no plan fits the budget.
    """
    section = parallel.recompute
    if section.mode == "none":
        return what, parallel
    blocks = tuple(find(what.work.model(), what.work.blocks))
    if section.mode == "auto":
        modes, parts = _planned(what, parallel, blocks)
    else:
        modes, parts = every(blocks, section.every, section.mode), parallel.micro_batches

    def recompute(model: nn.Module) -> nn.Module:
        apply(model, modes)
        return model

    return replace(what, work=replace(what.work, recompute=recompute)), parallel.model_copy(update={"micro_batches": parts})


def _planned(what: Training, parallel: Parallel, blocks: tuple[str, ...]) -> tuple[dict[str, Mode], int]:
    found: list[Any] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            found = [_fitted(what, parallel, blocks)]
        except ConfigError as error:
            found = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], ConfigError):
        raise found[0]
    planned: tuple[dict[str, Mode], int] = found[0]
    return planned


def _fitted(what: Training, parallel: Parallel, blocks: tuple[str, ...]) -> tuple[dict[str, Mode], int]:
    """Return the modes and the number of micro-batches: with 0 given, as few as fit where every block is recomputed."""
    x, y = what.batch(0)
    most, budget = -(-len(x) // parallel.rows_apart), int(parallel.recompute.budget_mb * 1e6)
    model, parts = what.work.model(), parallel.micro_batches

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return what.work.loss(model(batch[0]), batch[1])

    if not parts:
        _, parts = largest(lambda rows: forecast(model, loss, (x, y), every(blocks), rows=rows).peak_bytes, budget, most)
    rows = -(-most // parts)
    return dict(auto(model, loss, (x[:rows], y[:rows]), budget, blocks=blocks).modes), parts
