"""What strategies share that train a supernet by paths once and then judge architectures with inherited weights."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from components.automl.nas.problem import stream
from components.automl.nas.strategies.base import Budget, Found, Meter, Moment, SearchTask
from components.automl.nas.supernet import Supernet
from components.automl.nas.training import Fitting, Rule, inherited_score, sandwich, train_supernet
from components.train.spaces.space import Architecture

__all__ = ["TRIES", "OnSupernet", "calibration"]

TRIES = 20
"""Proposals in a row that were judged before, until a search takes the space within the limits for exhausted."""


@dataclass(frozen=True)
class OnSupernet(ABC):
    """Train a supernet by paths, then judge what `candidate` proposes and answer what `answer` makes of it.

    Attributes:
        fitting: Of the supernet.
        rule: What a step of its training is.
        judged: Architectures judged in all, at most.
        batches: Validation batches to judge by; None: all.
        calibrating: Training batches for the batch norms' statistics of each.
    """

    fitting: Fitting = field(default_factory=lambda: Fitting(epochs=4.0))
    rule: Rule = sandwich
    judged: int = 80
    batches: int | None = None
    calibrating: int = 4

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
            candidate = self.candidate(task, known, rng)
            if candidate is None:
                break
            known[candidate] = inherited_score(supernet, candidate, task.problem, batches, self.batches)
            answer = self.answer(task, known)
            moments.append(Moment(meter.spent_s, answer))
        ranking = dict(sorted(known.items(), key=lambda entry: -entry[1]))
        return Found(moments[-1].architecture, tuple(moments), meter.spent_s, ranking, supernet)

    @abstractmethod
    def candidate(self, task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Architecture | None:
        """Return one within the limits that was not judged yet; None when there seems to be none."""

    @abstractmethod
    def answer(self, task: SearchTask, known: Mapping[Architecture, float]) -> Architecture:
        """Return what the search would find if it ended now."""


def calibration(task: SearchTask, batches: int) -> list[Tensor]:
    """Return batches of training inputs, always the same, to compute batch norms' statistics from."""
    return [x for x, _ in islice(stream(task.problem, "train", torch.Generator().manual_seed(0)), batches)]
