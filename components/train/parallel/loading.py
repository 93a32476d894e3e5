"""The batches of a job: made when they are asked for, or by threads beside the step, if the section or a preflight says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Batch, parts_of
from components.train.parallel.works import Training
from components.train.watch import Prefetch, Preflight, preflight

__all__ = ["batches", "flown"]

_MEASURED, _BUDGET_S = 10, 1.0


def batches(what: Training, parallel: Parallel, steps: range, before: Preflight | None) -> Iterable[Batch]:
    """Return the batches of some steps.

    Args:
        what: Makes them.
        parallel: The section.
        steps: Which.
        before: The preflight, if there was one: its plan is followed.
    """
    workers = before.plan.workers if before else int(parallel.prefetch == "on")
    return Prefetch(steps, what.batch, workers=workers)


def flown(what: Training, parallel: Parallel, steps: range, device: torch.device) -> Preflight | None:
    """Measure this rank's part of the job for a moment: a load, and a step on a model of its own without the other ranks.

    None: the section does not ask for it, or there are too few steps.
    """
    if parallel.prefetch != "auto" or len(steps) < _MEASURED:
        return None
    model = what.work.model().to(device)

    def step(batch: Any) -> None:
        x, y, _ = next(parts_of(batch, 0, parallel.rows_apart, 1, device))
        model.zero_grad()
        torch.autograd.backward(what.work.loss(model(x), y))

    source = Prefetch(steps, what.batch, workers=0)
    return preflight(source, step, device=device, batches=_MEASURED, budget_s=_BUDGET_S, parallel=2, epoch_batches=len(steps))
