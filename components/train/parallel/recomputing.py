"""Recomputation as a job's section asks for it, put into its work before any strategy is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from components.core.errors import ConfigError
from components.train.memory.blocks import find
from components.train.memory.plan import auto, every
from components.train.memory.recompute import Mode, apply
from components.train.parallel.section import Parallel
from components.train.parallel.works import Training

__all__ = ["with_recomputation"]


def with_recomputation(what: Training, parallel: Parallel) -> Training:
    """Return the training with recomputation in its work. A collective, where the mode is `auto`: all ranks follow rank 0's measurements.

    Raises:
        ConfigError: The work's model has no blocks to recompute, or no plan fits the budget.
    """
    section = parallel.recompute
    if section.mode == "none":
        return what
    blocks = tuple(find(what.work.model(), what.work.blocks))
    modes = _planned(what, parallel, blocks) if section.mode == "auto" else every(blocks, section.every, section.mode)

    def recompute(model: nn.Module) -> nn.Module:
        apply(model, modes)
        return model

    return replace(what, work=replace(what.work, recompute=recompute))


def _planned(what: Training, parallel: Parallel, blocks: tuple[str, ...]) -> Mapping[str, Mode]:
    x, y = what.batch(0)
    rows = -(-len(x) // (parallel.rows_apart * parallel.micro_batches))
    found: list[Any] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        model = what.work.model()

        def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return what.work.loss(model(batch[0]), batch[1])

        try:
            found = [dict(auto(model, loss, (x[:rows], y[:rows]), int(parallel.recompute.budget_mb * 1e6), blocks=blocks).modes)]
        except ConfigError as error:
            found = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], ConfigError):
        raise found[0]
    modes: Mapping[str, Mode] = found[0]
    return modes
