"""Ensemble selection from libraries of models (Caruana et al., ICML 2004), within limits of size and latency.

Members are judged on answers to rows that their models have not seen, so adding one more can't flatter itself by over-fitting the
training rows; the few choices made here are the only thing that is fitted to those answers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.automl.genesis.scoring import mean_over_folds

__all__ = ["Candidate", "Judge", "Limits", "Selection", "select"]

_ROUNDS = 25
_POOL = 16


@dataclass(frozen=True)
class Candidate:
    """A pipeline that may become a member.

    Attributes:
        name: Its identity.
        learner: Its learner.
        answers: (N, K) on the judged rows.
        megabytes: Of its merged file.
        microseconds: A row, in a batch, on one core.
    """

    name: str
    learner: str
    answers: NDArray[np.float32]
    megabytes: float = 0.0
    microseconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What the whole ensemble may need; None: no limit."""

    megabytes: float | None = None
    microseconds: float | None = None

    def allow(self, members: Sequence[Candidate]) -> bool:
        """Whether these members together stay within the limits."""
        size, latency = sum(m.megabytes for m in members), sum(m.microseconds for m in members)
        return (self.megabytes is None or size <= self.megabytes) and (self.microseconds is None or latency <= self.microseconds)


@dataclass(frozen=True)
class Judge:
    """How answers are scored: N judged rows in `folds` folds.

    Attributes:
        y: (N,) targets.
        fold: (N,) the fold of each row.
    """

    metric: str
    maximize: bool
    y: NDArray[np.float64]
    fold: NDArray[np.int64]
    folds: int

    def loss(self, answers: NDArray[np.float32]) -> float:
        """Return the mean of the folds' metrics, so that less is better; infinite where undefined."""
        value = mean_over_folds(self.metric, self.y, answers, self.fold, self.folds)
        return float("inf") if np.isnan(value) else (-value if self.maximize else value)


@dataclass(frozen=True)
class Selection:
    """The ensemble.

    Attributes:
        weights: Name -> share, the heaviest first; shares sum to 1.
        value: The metric it reaches.
        path: (name added, metric reached) step by step.
        best_single: The best candidate alone, and its metric.
    """

    weights: dict[str, float]
    value: float
    path: tuple[tuple[str, float], ...]
    best_single: tuple[str, float]


def select(candidates: Sequence[Candidate], judge: Judge, limits: Limits, *, members: int = 8, until: float = float("inf")) -> Selection:
    """Add, with replacement, whichever member improves the mean answer most, until none does.

    Args:
        candidates: At least one.
        judge: Of the mean answers.
        members: At most so many.
        limits: Of the whole ensemble. If not even one candidate is within them, the smallest is taken.
        until: `time.monotonic()` after which no further member is added.
    """
    allowed = [candidate for candidate in candidates if limits.allow([candidate])]
    if not allowed:
        allowed = [min(candidates, key=lambda c: (c.megabytes, c.microseconds, c.name))]
    alone = {candidate.name: judge.loss(candidate.answers) for candidate in allowed}
    pool = _pool(allowed, alone)
    chosen: list[Candidate] = [pool[0]]
    total = pool[0].answers.astype(np.float64)
    best = alone[pool[0].name]
    path = [(pool[0].name, best)]
    while len(chosen) < _ROUNDS and time.monotonic() < until:
        within = {member.name: member for member in chosen}
        tried = []
        for candidate in pool:
            if candidate.name not in within and (len(within) == members or not limits.allow([*within.values(), candidate])):
                continue
            mean = (total + candidate.answers) / (len(chosen) + 1)
            tried.append((judge.loss(mean.astype(np.float32)), pool.index(candidate)))
        if not tried:
            break
        loss, index = min(tried)
        if not loss < best - 1e-9 * max(abs(best), 1.0):
            break
        best = loss
        chosen.append(pool[index])
        total += pool[index].answers
        path.append((pool[index].name, loss))
    counts = Counter(member.name for member in chosen)
    weights = {name: count / len(chosen) for name, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))}
    sign = -1.0 if judge.maximize else 1.0
    single = pool[0].name, sign * alone[pool[0].name]
    return Selection(weights, sign * best, tuple((name, sign * loss) for name, loss in path), single)


def _pool(allowed: Sequence[Candidate], alone: dict[str, float]) -> list[Candidate]:
    """Return the best candidates and the best of each learner, the best first."""
    ranked = sorted(allowed, key=lambda c: (alone[c.name], c.name))
    best_of = {candidate.learner: candidate for candidate in reversed(ranked)}
    keep = {candidate.name for candidate in [*ranked[:_POOL], *best_of.values()]}
    return [candidate for candidate in ranked if candidate.name in keep]
