"""Strategies by name. A new one is a file here, a line below, and a line in `components.train.parallel.section`."""

from __future__ import annotations

from importlib import import_module

import torch

from components.core.errors import ConfigError
from components.train.parallel.mesh import Mesh
from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Batch, Strategy, Work

__all__ = ["Batch", "Strategy", "Work", "make"]

_FILES = {name: name for name in ("single", "ddp", "fsdp2", "pipeline", "sharded_head")} | {f"zero{stage}": "zero" for stage in (1, 2, 3)}


def make(parallel: Parallel, work: Work, device: torch.device) -> Strategy:
    """Build a model and apply the strategy to it from outside; its libraries are imported only now.

    Every rank calls it, in the same order relative to other collectives.

    Args:
        parallel: The section; its degrees were checked.
        work: What is trained.
        device: This rank's.

    Raises:
        ConfigError: The world is not what the degrees ask for, or the work can't be trained this way.
    """
    if parallel.strategy not in _FILES:
        raise ConfigError(f"strategy '{parallel.strategy}' is for learner 'sage' only", do=f"use one of: {', '.join(_FILES)}")
    mesh = Mesh(parallel.data, parallel.tensor, parallel.pipeline)
    made: Strategy = import_module(f"components.train.parallel.strategies.{_FILES[parallel.strategy]}").make(parallel, mesh, work, device)
    return made
