"""Random budgets in the spaces that are shipped: kept always, used up nearly, and counted exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.automl.nas.budget import Limits, cost
from components.automl.nas.knapsack import best_architecture
from components.automl.nas.latency import measured, table
from components.train.spaces import SPACES
from components.train.spaces.network import network
from components.train.spaces.space import Architecture, Space
from pipelines.bench.row import Row, row

__all__ = ["budget_rows"]

_INPUT, _CLASSES = (3, 32, 32), 10
_USED, _LATENCY = 0.95, 0.10
_SEED = 0


def budget_rows(count: int, *, networks: int) -> Iterator[Row]:
    """Yield rows of both image spaces.

    Args:
        count: Random budgets a space, with random scores of options.
        networks: Random architectures whose latency is measured.
    """
    for name in ("mobilenet", "resnet"):
        space, rng = SPACES[name](_INPUT, _CLASSES), random.Random(_SEED)
        used, unfilled, broken, wrong = [], [], 0, 0
        for _ in range(count):
            limits = _limits(space, rng)
            scores = [[rng.random() for _ in block.options] for block in space.blocks]
            widths = [0.0] * len(space.widths)
            found = best_architecture(space, scores, widths, limits, fill=float(len(space.blocks)))
            spent = cost(space, found)
            broken += not limits.allow(spent)
            wrong += (spent.params, spent.macs) != _counted(space, found)
            used.append(limits.used(spent))
            unfilled.append(limits.used(cost(space, best_architecture(space, scores, widths, limits))))
        case = f"{name}: {count} random budgets"
        yield row(f"{case}, violations", float(broken), "count", "limit", 0.0, "<=", seed=_SEED)
        yield row(f"{case}, share used, median", float(np.median(used)), "share", "limit", _USED, ">=", seed=_SEED)
        yield row(
            f"{case}, share used, median, using it being worth nothing", float(np.median(unfilled)), "share", "limit", _USED, "", seed=_SEED
        )
        yield row(f"{case}, parameters or MACs that differ from the network's", float(wrong), "count", "limit", 0.0, "<=", seed=_SEED)
        yield from _latency_rows(space, networks, rng)


def _latency_rows(space: Space, networks: int, rng: random.Random) -> Iterator[Row]:
    latency = table(space)
    sample = [space.sample(rng) for _ in range(networks)]
    predicted = [cost(space, architecture, latency).latency_ms for architecture in sample]
    errors = [abs(ms / real - 1) for ms, real in zip(predicted, measured(space, sample), strict=True)]
    case = f"{space.name}: predicted latency of {networks} networks"
    yield row(f"{case}, median error", float(np.median(errors)), "share", "limit", _LATENCY, "<=", seed=_SEED)
    yield row(f"{case}, largest error", max(errors), "share", "limit", _LATENCY, "<=", seed=_SEED)


def _limits(space: Space, rng: random.Random) -> Limits:
    """Draw limits of parameters, of MACs, or of both, between the smallest and the largest architecture."""
    least, most = cost(space, space.smallest()), cost(space, space.largest())
    params, macs = (int(low + rng.random() * (high - low)) for low, high in ((least.params, most.params), (least.macs, most.macs)))
    kind = rng.randrange(3)
    return Limits(max_params=None if kind == 1 else params, max_macs=None if kind == 0 else macs)


def _counted(space: Space, architecture: Architecture) -> tuple[int, int]:
    """Count parameters, and multiplications while a network runs: independent of `cost`."""
    with torch.device("meta"):
        net = network(space, architecture).eval()
    macs = 0

    def count(module: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += out[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs += out[0].numel() * module.in_features

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, *space.input, device="meta"))
    return sum(param.numel() for param in net.parameters()), macs
