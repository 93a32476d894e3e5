"""What a search knows of the space, as a function: a small Gaussian process for each learner, on scores made comparable.

Shapes: N observations, D dimensions, F columns (unordered choices are one-hot), M candidates. Larger is better throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from components.automl.genesis.configuration import Configuration, PastStudy
from components.automl.genesis.gaussian import Float64, Gaussian, fit_gaussian

__all__ = ["Axis", "Described", "Learned", "Surrogate", "Unit", "axes_of", "columns_of", "comparable", "fit_surrogate", "learn"]

Unit = Float64
"""(D,) or (M, D): where values lie in their dimensions, 0 to 1; a choice lies at its index over the last index."""

_LEAST = 3
"""Trials that a past study must have."""
_ALIKE = 0.3
"""A study that is further from today's task by so much (`metafeatures.distance`) is trusted 1/e as much."""
_PULL = 1.0
"""A learner's mean is drawn to the study's as if it had so many trials more, of average score."""


@dataclass(frozen=True)
class Axis:
    """One dimension, as the surrogate sees it.

    Attributes:
        low, high: Bounds, or their logarithms.
        whole: Whether only whole numbers count.
        options: A choice's; empty for numbers.
        ordered: Whether the options are numbers, whose order says something.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    options: tuple[Any, ...] = ()
    ordered: bool = True

    def place(self, value: Any) -> float:
        """Return where a value lies, 0 to 1; the middle for one that is unknown."""
        if self.options:
            return self.options.index(value) / max(len(self.options) - 1, 1) if value in self.options else 0.5
        if value is None:
            return 0.5
        at = math.log(max(float(value), 1e-300)) if self.log else float(value)
        return min(max((at - self.low) / (self.high - self.low), 0.0), 1.0) if self.high > self.low else 0.5

    def snap(self, places: Float64) -> Float64:
        """Move (M,) places to those that a value lies at."""
        if self.options:
            return np.asarray(np.rint(places * (len(self.options) - 1)) / max(len(self.options) - 1, 1))
        if not self.whole or self.high <= self.low:
            return places
        at = self.low + places * (self.high - self.low)
        at = np.log(np.rint(np.exp(at))) if self.log else np.rint(at)
        return np.asarray(np.clip((at - self.low) / (self.high - self.low), 0.0, 1.0))

    def value(self, place: float) -> Any:
        """Return the value at a place: the reverse of `place`."""
        if self.options:
            return self.options[round(place * (len(self.options) - 1))]
        at = self.low + place * (self.high - self.low)
        at = math.exp(at) if self.log else at
        return round(at) if self.whole else at


def axes_of(distributions: Mapping[str, BaseDistribution]) -> tuple[Axis, ...]:
    """Return the axes of a learner, in the order of its distributions; `learner` itself is none."""
    found = []
    for name, given in distributions.items():
        if name == "learner":
            continue
        if isinstance(given, CategoricalDistribution):
            ordered = all(isinstance(option, int | float) and not isinstance(option, bool) for option in given.choices)
            found.append(Axis(name, options=tuple(given.choices), ordered=ordered or len(given.choices) == 2))
            continue
        low, high = (math.log(given.low), math.log(given.high)) if given.log else (float(given.low), float(given.high))
        found.append(Axis(name, low, high, bool(given.log), isinstance(given, IntDistribution)))
    return tuple(found)


def columns_of(axes: Sequence[Axis], unit: Unit) -> Float64:
    """Turn (M, D) places into the (M, F) columns of the kernel."""
    columns = []
    for at, axis in enumerate(axes):
        if axis.ordered:
            columns.append(unit[:, at])
            continue
        index = np.rint(unit[:, at] * (len(axis.options) - 1))
        # Two different options are as far apart as the two ends of a number.
        columns += [(index == option) * math.sqrt(0.5) for option in range(len(axis.options))]
    return np.column_stack(columns) if columns else np.zeros((len(unit), 0))


def comparable(scores: Sequence[float]) -> Float64:
    """Return scores as normal quantiles of their ranks: comparable between studies, whatever the metric and however far the worst fall.

    Salinas, Shen and Perrone, "A quantile-based approach for hyperparameter transfer learning" (ICML 2020). Equal scores share a rank.
    """
    given = np.asarray(scores, dtype=np.float64)
    ranks = (given[:, None] > given).sum(axis=1) + ((given[:, None] == given).sum(axis=1) - 1) / 2
    normal = NormalDist()
    return np.array([normal.inv_cdf((rank + 0.5) / len(given)) for rank in ranks.tolist()], dtype=np.float64)


@dataclass(frozen=True)
class Part:
    """One learner of a surrogate: its mean, and what varies around it."""

    mean: float
    gaussian: Gaussian
    scores: Float64

    def left_out(self) -> Float64:
        """Return what it says of each of its own trials, had it not seen it."""
        around, _ = self.gaussian.left_out(self.scores - self.mean)
        return np.asarray((self.scores.sum() - self.scores) / (len(self.scores) - 1 + _PULL) + around)


@dataclass(frozen=True)
class Surrogate:
    """What one study says about the space.

    Attributes:
        parts: Learner -> what is known of it.
        tops: Learner -> (T, D) its best trials, the best first.
        unknown: What a learner that the study never tried scores.
        prior: How much to trust it before anything is known of today's task.
    """

    parts: Mapping[str, Part]
    tops: Mapping[str, Unit]
    unknown: float = 0.0
    prior: float = 1.0

    def predict(self, learner: str, columns: Float64) -> tuple[Float64, Float64]:
        """Return mean and variance, (M,) each, of a learner's candidates (M, F)."""
        part = self.parts.get(learner)
        if part is None:
            return np.full(len(columns), self.unknown), np.ones(len(columns))
        mean, variance = part.gaussian.predict(columns)
        return part.mean + mean, variance


def fit_surrogate(
    axes: Mapping[str, Sequence[Axis]], learners: Sequence[str], units: Sequence[Unit], scores: Float64, prior: float = 1.0, tops: int = 5
) -> Surrogate:
    """Fit one study: N learners' names, their (D,) places and (N,) comparable scores."""
    parts, best = {}, {}
    for name in sorted(set(learners)):
        at = [number for number, other in enumerate(learners) if other == name]
        y, unit = scores[at], np.stack([units[number] for number in at])
        mean = float(y.sum() / (len(y) + _PULL))
        parts[name] = Part(mean, fit_gaussian(columns_of(axes[name], unit), y - mean), y)
        best[name] = unit[np.argsort(-y, kind="stable")[:tops]]
    return Surrogate(parts, best, prior=prior)


class Described(Protocol):
    """A space whose dimensions have names; `components.automl.genesis.space.Space`, without bounds, is one."""

    @property
    def learners(self) -> tuple[str, ...]:
        """Names to choose from."""

    def flatten(self, configuration: Configuration) -> dict[str, Any]:
        """Return dimension's name -> value."""

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        """Return a learner's dimensions as Optuna names them."""


@dataclass(frozen=True)
class Learned:
    """What past studies say.

    Attributes:
        axes: Learner -> its dimensions.
        surrogates: One a study.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    surrogates: tuple[Surrogate, ...]


def learn(space: Described, past: Sequence[PastStudy], distances: Sequence[float] = ()) -> Learned:
    """Fit a surrogate to every past study that has trials enough; do it once a search.

    Args:
        space: Today's, without bounds: values outside of them would be moved.
        past: The studies.
        distances: Of each to today's task; empty: all are trusted alike.
    """
    axes = {name: axes_of(space.distributions(name)) for name in space.learners}
    found = []
    for study, away in zip(past, distances or [0.0] * len(past), strict=True):
        known = [trial for trial in study.trials if trial.score is not None and trial.configuration.learner in axes]
        if len(known) < _LEAST:
            continue
        names = [trial.configuration.learner for trial in known]
        units = []
        for trial, name in zip(known, names, strict=True):
            flat = space.flatten(trial.configuration)
            units.append(np.array([axis.place(flat.get(axis.name)) for axis in axes[name]], dtype=np.float64))
        sign = 1.0 if study.higher_is_better else -1.0
        # Scores of different rungs can't be compared; who was let climb higher was better.
        scores = comparable_by_rung([trial.rung for trial in known], [sign * float(trial.score or 0.0) for trial in known])
        found.append(fit_surrogate(axes, names, units, scores, math.exp(-(away - min(distances, default=0.0)) / _ALIKE)))
    return Learned(axes, tuple(found))


def comparable_by_rung(rungs: Sequence[int], scores: Sequence[float]) -> Float64:
    """Return comparable scores where any trial of a higher rung is better than any of a lower one."""
    order = sorted(set(zip(rungs, scores, strict=True)))
    rank = {pair: float(number) for number, pair in enumerate(order)}
    return comparable([rank[pair] for pair in zip(rungs, scores, strict=True)])
