"""What strategies share that train supernets by paths once and then judge architectures with inherited weights.

What a supernet says of an architecture depends on its first weights and on the order of its paths as much as on how long it is trained. So
several short trainings, whose judgements are averaged, say more than a long one: few-shot NAS (Zhao et al., arXiv 2006.06863) splits a
space for that, an ensemble needs no split.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from components.automl.nas.problem import Problem, stream
from components.automl.nas.strategies.base import Budget, Found, Meter, Moment, SearchTask
from components.automl.nas.supernet import Supernet
from components.automl.nas.training import Fitting, Rule, inherited_score, sandwich, train_supernet
from components.train.spaces.space import Architecture

__all__ = ["TRIES", "OnSupernet", "calibration", "mean_score"]

_APART = 7919
"""Between the seeds of a search's supernets, so that they are not another search's."""
TRIES = 20
"""Proposals in a row that were judged before, until a search takes the space within the limits for exhausted."""


@dataclass(frozen=True)
class OnSupernet(ABC):
    """Train supernets by paths, then judge what `candidate` proposes and answer what `answer` makes of it.

    Attributes:
        fitting: Of a supernet.
        rule: What a step of its training is.
        judged: Architectures judged in all, at most.
        batches: Validation batches to judge by; None: all.
        calibrating: Training batches for the batch norms' statistics of each.
        supernets: How many are trained.
    """

    fitting: Fitting = field(default_factory=lambda: Fitting(epochs=4.0))
    rule: Rule = sandwich
    judged: int = 80
    batches: int | None = None
    calibrating: int = 4
    supernets: int = 1

    def search(self, task: SearchTask, budget: Budget) -> Found:
        """Train the supernets, select on them; see `Strategy`."""
        meter = Meter(budget)
        return self.select(task, self.trained(task, meter), meter)

    def trained(self, task: SearchTask, meter: Meter) -> list[Supernet]:
        """Return the trained supernets, the first one from `task.start`; they serve any limits. Of others, none that the budget cut off."""
        found: list[Supernet] = []
        for number in range(self.supernets):
            one = replace(task, seed=task.seed + number * _APART, start=None) if number else task
            supernet = one.supernet()
            train_supernet(supernet, one.problem, self.fitting, one.seed, rule=self.rule, stop=lambda _: meter.over)
            if found and meter.over:
                break  # its learning rate has not come down: in a mean it would only add noise
            found.append(supernet)
        return found

    def select(self, task: SearchTask, supernets: Sequence[Supernet], meter: Meter) -> Found:
        """Search trained supernets; at least one architecture is judged, even if the budget is spent."""
        rng = random.Random(task.seed)
        batches = calibration(task, self.calibrating)
        known: dict[Architecture, float] = {}
        moments: list[Moment] = []
        while len(known) < self.judged and not (moments and meter.over):
            candidate = self.candidate(task, known, rng)
            if candidate is None:
                break
            known[candidate] = mean_score(supernets, candidate, task.problem, batches, self.batches)
            answer = self.answer(task, known)
            moments.append(Moment(meter.spent_s, answer))
        ranking = dict(sorted(known.items(), key=lambda entry: -entry[1]))
        return Found(moments[-1].architecture, tuple(moments), meter.spent_s, ranking, supernets[0])

    @abstractmethod
    def candidate(self, task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Architecture | None:
        """Return one within the limits that was not judged yet; None when there seems to be none."""

    @abstractmethod
    def answer(self, task: SearchTask, known: Mapping[Architecture, float]) -> Architecture:
        """Return what the search would find if it ended now."""


def mean_score(
    supernets: Sequence[Supernet], architecture: Architecture, problem: Problem, calibration: Sequence[Tensor], batches: int | None = None
) -> float:
    """Return the mean over supernets of an architecture's `inherited_score`."""
    scores = [inherited_score(supernet, architecture, problem, calibration, batches) for supernet in supernets]
    return sum(scores) / len(scores)


def calibration(task: SearchTask, batches: int) -> list[Tensor]:
    """Return batches of training inputs, always the same, to compute batch norms' statistics from."""
    return [x for x, _ in islice(stream(task.problem, "train", torch.Generator().manual_seed(0)), batches)]
