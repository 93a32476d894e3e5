"""Random search: what every claim has to beat at equal cost (Li & Talwalkar, UAI 2019, arXiv 1902.07638)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from components.automl.nas.strategies.base import Budget, Found, Meter, Moment, SearchTask, drawn
from components.automl.nas.training import Fitting, standalone
from components.train.spaces.space import Architecture

__all__ = ["Evaluate", "Random", "trained"]

Evaluate = Callable[[SearchTask, Architecture, Meter], float]
"""Return the validation score of an architecture; what its look-up stands for is charged to the meter."""
_TRIES = 500
"""Draws in a row that were known, until the space within the limits is taken for exhausted."""


def trained(fitting: Fitting) -> Evaluate:
    """Return the evaluation that trains a network from nothing."""
    return lambda task, architecture, _: standalone(task.space, architecture, task.problem, fitting, task.seed)[1]


@dataclass(frozen=True)
class Random:
    """Train architectures within the limits, drawn at random and each once; the best on validation items is found.

    Attributes:
        evaluate: Trains and judges one.
        judged: At most so many.
        draw: Draws one.
    """

    evaluate: Evaluate = field(default_factory=lambda: trained(Fitting()))
    judged: int = 1000
    draw: Callable[[SearchTask, random.Random], Architecture] = drawn
    name: str = "random"

    def search(self, task: SearchTask, budget: Budget) -> Found:
        """Draw and train until the budget is spent, but at least one; see `Strategy`."""
        meter, rng = Meter(budget), random.Random(task.seed)
        known: dict[Architecture, float] = {}
        moments: list[Moment] = []
        while len(known) < self.judged and not (moments and meter.over):
            fresh = (self.draw(task, rng) for _ in range(_TRIES))
            candidate = next((architecture for architecture in fresh if architecture not in known), None)
            if candidate is None:
                break
            known[candidate] = self.evaluate(task, candidate, meter)
            moments.append(Moment(meter.spent_s, max(known, key=lambda architecture: known[architecture])))
        ranking = dict(sorted(known.items(), key=lambda entry: -entry[1]))
        return Found(moments[-1].architecture, tuple(moments), meter.spent_s, ranking)
