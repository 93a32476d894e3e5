"""Evolution on a supernet trained by paths: the sandwich rule once, then regularised search among inherited weights (OFA, BigNAS, SPOS)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from components.automl.nas.strategies.base import SearchTask, drawn, nearest
from components.automl.nas.strategies.on_supernet import TRIES, OnSupernet
from components.train.spaces.space import Architecture

__all__ = ["Evolutionary"]


@dataclass(frozen=True)
class Evolutionary(OnSupernet):
    """Architectures within the limits mutate and cross; the best one judged is found.

    Attributes:
        population: Parents; the first ones are drawn.
    """

    population: int = 16
    name: str = "evolutionary"

    def candidate(self, task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Architecture | None:
        """Return one that was not judged yet: drawn at first, then a child of the best; None when there seems to be none."""
        parents = sorted(known, key=lambda architecture: -known[architecture])[: self.population]
        for _ in range(TRIES):
            if len(known) < self.population:
                child = drawn(task, rng)
            elif rng.random() < 0.5:
                child = nearest(task.space.crossed(rng.choice(parents), rng.choice(parents), rng), task, rng)
            else:
                child = nearest(task.space.mutated(rng.choice(parents), rng, _share(task)), task, rng)
            if child not in known:
                return child
        return None

    def answer(self, task: SearchTask, known: Mapping[Architecture, float]) -> Architecture:
        """Return the best one."""
        return max(known, key=lambda architecture: known[architecture])


def _share(task: SearchTask) -> float:
    """Return the probability that a decision mutates: two of them in the mean, but at least one in ten."""
    return max(0.1, min(0.5, 2 / (1 + len(task.space.blocks))))
