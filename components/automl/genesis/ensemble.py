"""Ensemble selection from libraries of models (Caruana et al., ICML 2004), within limits of size and latency.

Members are judged on answers to rows that their models have not seen, so adding one more can't flatter itself by over-fitting the
training rows; the few choices made here are the only thing that is fitted to those answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
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
        return self.hold(sum(m.megabytes for m in members), sum(m.microseconds for m in members))

    def hold(self, megabytes: float, microseconds: float) -> bool:
        """Whether a model of this size and latency is within the limits."""
        return (self.megabytes is None or megabytes <= self.megabytes) and (self.microseconds is None or microseconds <= self.microseconds)


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


def select(
    candidates: Sequence[Candidate],
    judge: Judge,
    limits: Limits,
    *,
    members: int = 8,
    until: float = float("inf"),
    start: Mapping[str, float] | None = None,
) -> Selection:
    """Add, with replacement, whichever member improves the mean answer most, until none does.

    Args:
        candidates: At least one.
        judge: Of the mean answers.
        members: At most so many.
        limits: Of the whole ensemble. If not even one candidate is within them, the smallest is taken.
        until: `time.monotonic()` after which no further member is added.
        start: Name -> share of an ensemble that may be the best one already: what grows from it competes with what grows from the best
            single candidate, so the selection is never worse than it.
    """
    allowed = [candidate for candidate in candidates if limits.allow([candidate])]
    if not allowed:
        allowed = [min(candidates, key=lambda c: (c.megabytes, c.microseconds, c.name))]
    alone = {candidate.name: judge.loss(candidate.answers) for candidate in allowed}
    pool = _pool(allowed, alone, start or {})
    grown = [_grow({pool[0].name: 1.0}, pool, judge, limits, members, until)]
    within = [candidate for candidate in pool if candidate.name in (start or {})]
    if start and len(within) == len(start) <= members and limits.allow(within):
        total = math.fsum(start.values())
        counts = {name: len(start) * share / total for name, share in start.items()}
        grown.append(_grow(counts, pool, judge, limits, members, until))
    counts, path = min(grown, key=lambda found: found[1][-1][1])
    total = math.fsum(counts.values())
    weights = {name: count / total for name, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))}
    sign = -1.0 if judge.maximize else 1.0
    single = pool[0].name, sign * alone[pool[0].name]
    return Selection(weights, sign * path[-1][1], tuple((name, sign * loss) for name, loss in path), single)


def _grow(
    start: Mapping[str, float], pool: Sequence[Candidate], judge: Judge, limits: Limits, members: int, until: float
) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Return name -> how often it was added, and (name added, loss reached) step by step."""
    named = {candidate.name: candidate for candidate in pool}
    counts = dict(start)
    total = np.asarray(sum(count * named[name].answers.astype(np.float64) for name, count in counts.items()))
    size = math.fsum(counts.values())
    path = [(" + ".join(counts), judge.loss((total / size).astype(np.float32)))]
    for _ in range(_ROUNDS - 1):
        if time.monotonic() > until:
            break
        within = [named[name] for name in counts]
        tried = []
        for candidate in pool:
            if candidate.name not in counts and (len(within) == members or not limits.allow([*within, candidate])):
                continue
            mean = (total + candidate.answers) / (size + 1)
            tried.append((judge.loss(mean.astype(np.float32)), pool.index(candidate)))
        if not tried:
            break
        loss, index = min(tried)
        if not loss < path[-1][1] - 1e-9 * max(abs(path[-1][1]), 1.0):
            break
        name = pool[index].name
        counts[name] = counts.get(name, 0.0) + 1
        total, size = total + pool[index].answers, size + 1
        path.append((name, loss))
    return counts, path


def _pool(allowed: Sequence[Candidate], alone: Mapping[str, float], start: Mapping[str, float]) -> list[Candidate]:
    """Return the best candidates, the best of each learner, and those to start from, the best first."""
    ranked = sorted(allowed, key=lambda c: (alone[c.name], c.name))
    best_of = {candidate.learner: candidate for candidate in reversed(ranked)}
    keep = {candidate.name for candidate in [*ranked[:_POOL], *best_of.values()]} | set(start)
    return [candidate for candidate in ranked if candidate.name in keep]
