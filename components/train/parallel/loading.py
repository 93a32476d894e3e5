"""The batches of a job: made when they are asked for, or by threads beside the step, if the section or a preflight says so."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeCopyMode

from components.core.errors import DataError
from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Batch, build, parts_of
from components.train.parallel.works import Training
from components.train.watch import MemoryForecast, Prefetch, Preflight, forecast_memory, preflight, twice

__all__ = ["batches", "flown", "needed"]

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
    model = build(what.work).to(device)

    def step(batch: Any) -> None:
        model.zero_grad()
        for x, y, share in parts_of(batch, 0, parallel.rows_apart, parallel.micro_batches, device):
            torch.autograd.backward(what.work.loss(model(x), y) * share)

    source = Prefetch(steps, what.batch, workers=0)
    measured: dict[str, Any] = {"batches": _MEASURED, "budget_s": _BUDGET_S, "epoch_batches": len(steps)}
    return preflight(source, step, device=device, parallel=2, double=twice, forecast=needed(what, parallel, model, device), **measured)


def needed(what: Training, parallel: Parallel, model: nn.Module, device: torch.device) -> MemoryForecast | None:
    """Forecast the memory of a step with this whole model; None: the step reads values, so only running it tells."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        with FakeCopyMode(detect_fake_mode()):  # type: ignore[no-untyped-call, arg-type]
            fake = copy.deepcopy(model)  # made among fake tensors, a model could not be converted (`.double()`)
        return fake, what.work.optimiser(fake.parameters())

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return what.work.loss(model(batch[0]), batch[1])

    x, y, _ = next(parts_of(what.batch(0), 0, parallel.rows_apart, parallel.micro_batches, torch.device("cpu")))
    try:
        found = forecast_memory(made, (x, y), loss, device=device)
    except DataError:
        return None
    if device.type != "cpu":
        return found
    # The limit is the whole process'. What is there already, the strategy's weights too, is counted once.
    there = psutil.Process().memory_info().rss - found.parts.get("Parameter", 0)
    return replace(found, peak_bytes=found.peak_bytes + there, parts={**found.parts, "Process": there})
