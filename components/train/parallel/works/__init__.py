"""What can be trained by a job, by name. A new one is a file here with `make(options) -> Training`, and its name below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from components.core.errors import ConfigError, nearest
from components.train.parallel.strategies.base import Batch, Work

__all__ = ["WORKS", "Training", "training"]

WORKS = ("metric", "probe")


@dataclass(frozen=True)
class Training:
    """A work and its data.

    Attributes:
        work: What is trained.
        batch: Step, from 0 -> the global batch; the same on every rank and in every run. Rows may be read only when they are sliced.
        rate: Step -> the share of the learning rate.
        steps: How many there are to take; None: as many as the job says.
    """

    work: Work
    batch: Callable[[int], Batch]
    rate: Callable[[int], float] = lambda step: 1.0
    steps: int | None = None


def training(name: str, options: Mapping[str, Any]) -> Training:
    """Return a work by its name; its libraries are imported only now.

    Raises:
        ConfigError: There is no such work, or its options are wrong.
    """
    if name not in WORKS:
        raise ConfigError(f"there is no work '{name}' to train", do=nearest(name, WORKS))
    made: Training = import_module(f"components.train.parallel.works.{name}").make(options)
    return made
