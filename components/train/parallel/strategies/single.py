"""One process: what every other strategy is compared with."""

from __future__ import annotations

import torch

from components.train.parallel.mesh import Mesh
from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Strategy, Work, build
from components.train.parallel.strategies.whole import Whole

__all__ = ["make"]


def make(parallel: Parallel, mesh: Mesh, work: Work, device: torch.device) -> Strategy:
    """Return the strategy; no process group is needed."""
    model = build(work).to(device)
    return Whole(model, work.optimiser(model.parameters()), work, device, parts=parallel.micro_batches)
