"""Evolution on a supernet trained by paths: the sandwich rule once, then regularised search among inherited weights (OFA, BigNAS, SPOS)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from components.automl.nas.problem import stream
from components.automl.nas.strategies.base import Budget, Found, Meter, Moment, SearchTask, drawn, nearest
from components.automl.nas.supernet import Supernet
from components.automl.nas.training import Fitting, Rule, inherited_score, sandwich, train_supernet
from components.train.spaces.space import Architecture

__all__ = ["Evolutionary", "calibration"]

_TRIES = 20
"""Children in a row that were judged before, until the search takes the space within the limits for exhausted."""


@dataclass(frozen=True)
class Evolutionary:
    """Train a supernet by paths, then let architectures within the limits mutate and cross.

    Attributes:
        fitting: Of the supernet.
        rule: What a step of its training is.
        population: Parents; the first ones are drawn.
        judged: Architectures judged in all, at most.
        batches: Validation batches to judge by; None: all.
        calibrating: Training batches for the batch norms' statistics of each.
    """

    fitting: Fitting = field(default_factory=lambda: Fitting(epochs=4.0))
    rule: Rule = sandwich
    population: int = 16
    judged: int = 80
    batches: int | None = None
    calibrating: int = 4
    name: str = "evolutionary"

    def search(self, task: SearchTask, budget: Budget) -> Found:
        """Train the supernet, select on it; see `Strategy`."""
        meter = Meter(budget)
        return self.select(task, self.trained(task, meter), meter)

    def trained(self, task: SearchTask, meter: Meter) -> Supernet:
        """Return the trained supernet; it serves any limits."""
        supernet = task.supernet()
        train_supernet(supernet, task.problem, self.fitting, task.seed, rule=self.rule, stop=lambda _: meter.over)
        return supernet

    def select(self, task: SearchTask, supernet: Supernet, meter: Meter) -> Found:
        """Search a trained supernet; at least one architecture is judged, even if the budget is spent."""
        rng = random.Random(task.seed)
        batches = calibration(task, self.calibrating)
        known: dict[Architecture, float] = {}
        moments: list[Moment] = []
        while len(known) < self.judged and not (moments and meter.over):
            candidate = self._candidate(task, known, rng)
            if candidate is None:
                break
            known[candidate] = inherited_score(supernet, candidate, task.problem, batches, self.batches)
            best = max(known, key=lambda architecture: known[architecture])
            moments.append(Moment(meter.spent_s, best))
        ranking = dict(sorted(known.items(), key=lambda entry: -entry[1]))
        return Found(moments[-1].architecture, tuple(moments), meter.spent_s, ranking, supernet)

    def _candidate(self, task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Architecture | None:
        """Return one that was not judged yet: drawn at first, then a child of the best; None when there seems to be none."""
        parents = sorted(known, key=lambda architecture: -known[architecture])[: self.population]
        for _ in range(_TRIES):
            if len(known) < self.population:
                child = drawn(task, rng)
            elif rng.random() < 0.5:
                child = nearest(task.space.crossed(rng.choice(parents), rng.choice(parents), rng), task, rng)
            else:
                child = nearest(task.space.mutated(rng.choice(parents), rng, _share(task)), task, rng)
            if child not in known:
                return child
        return None


def calibration(task: SearchTask, batches: int) -> list[Tensor]:
    """Return batches of training inputs, always the same, to compute batch norms' statistics from."""
    return [x for x, _ in islice(stream(task.problem, "train", torch.Generator().manual_seed(0)), batches)]


def _share(task: SearchTask) -> float:
    """Return the probability that a decision mutates: two of them in the mean, but at least one in ten."""
    return max(0.1, min(0.5, 2 / (1 + len(task.space.blocks))))
