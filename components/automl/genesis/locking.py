"""Narrowing the space to where earlier searches found good pipelines, a learner at a time.

The bounding box is that of Perrone et al., "Learning search spaces for Bayesian optimization" (NeurIPS 2019).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution

from components.automl.genesis.configuration import Configuration, PastStudy
from components.automl.genesis.gaussian import Float64
from components.automl.genesis.surrogate import Axis, Described, axes_of, comparable_by_rung

__all__ = ["Bounds", "Locked", "good", "lock", "ranked"]

Bounds = Mapping[str, tuple[Any, ...]]
"""Dimension's name -> (low, high), or the choices that are left; one value alone fixes it."""

_GOOD = 0.25
"""The share of a study's trials that are good …"""
_FEWEST_GOOD = 5
"""… and how many of a learner there must be, over all tasks, before its space is narrowed."""
_MARGIN = 0.15
"""A box is widened by so much of the whole dimension, on both sides."""
_CAME_CLOSE = 0.5
"""A learner whose best trial never was within the best so many of its study is left out …"""
_TRIED = 2
"""… if it was tried so often in a study."""
_KEPT = 3
"""Learners that are always left."""
_MEASURED = 30
"""Trials of a learner, over all tasks, before PED-ANOVA may call a dimension unimportant …"""
_UNIMPORTANT = 0.02
"""… which it is with less than this share of the importance."""


@dataclass(frozen=True)
class Locked:
    """The space that is left.

    Attributes:
        learners: In today's order.
        bounds: See `Bounds`; what is not named stays as it is.
        notes: One sentence a decision.
    """

    learners: tuple[str, ...]
    bounds: Bounds
    notes: tuple[str, ...]


def lock(space: Described, studies: Sequence[PastStudy]) -> Locked:
    """Return the learners that came close somewhere, and their dimensions' bounds.

    Args:
        space: Today's, without bounds.
        studies: Of tasks that are related or alike.
    """
    kept, notes = _close(studies, space.learners)
    bounds: dict[str, tuple[Any, ...]] = {}
    for name in kept:
        found = _Trials.of(name, studies, space)
        box = found.box()
        fixed = found.unimportant() if box else {}
        bounds |= box | fixed
        if box:
            notes.append(f"{name}: narrowed to where earlier good trials lay: {_short(box)}.")
        if fixed:
            notes.append(f"{name}: fixed at the best known value, as it never mattered (PED-ANOVA): {_short(fixed)}.")
    return Locked(kept, bounds, tuple(notes) or ("The search space is whole: earlier searches have too few good trials.",))


def ranked(study: PastStudy) -> list[tuple[Configuration, float]]:
    """Return the trials that have a score, each with a comparable one, in their order."""
    known = [trial for trial in study.trials if trial.score is not None]
    sign = 1.0 if study.higher_is_better else -1.0
    scores = comparable_by_rung([trial.rung for trial in known], [sign * (trial.score or 0.0) for trial in known])
    return [(trial.configuration, float(score)) for trial, score in zip(known, scores, strict=True)]


def good(study: PastStudy) -> list[Configuration]:
    """Return the best share of a study's trials, the best first, its ensemble among them."""
    order = sorted(ranked(study), key=lambda entry: -entry[1])
    count = max(1, round(_GOOD * len(order)))
    members = {trial.configuration.identity for trial in study.trials if trial.weight > 0}
    return [entry for at, (entry, _) in enumerate(order) if at < count or entry.identity in members]


def _close(studies: Sequence[PastStudy], learners: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the learners that came close to the best somewhere, or were hardly tried; and a sentence on the others."""
    best: dict[str, float] = {}
    for study in studies:
        order = sorted(ranked(study), key=lambda entry: -entry[1])
        for name in learners:
            places = [at / max(len(order) - 1, 1) for at, (entry, _) in enumerate(order) if entry.learner == name]
            if len(places) >= _TRIED:
                best[name] = min(best.get(name, 1.0), places[0])
    members = {t.configuration.learner for study in studies for t in study.trials if t.weight > 0}
    far = [name for name in sorted(best, key=lambda name: -best[name]) if best[name] > _CAME_CLOSE and name not in members]
    left_out = set(far[: max(0, len(learners) - _KEPT)])
    if not left_out:
        return tuple(learners), []
    told = ", ".join(sorted(left_out))
    return tuple(name for name in learners if name not in left_out), [f"Left out, as never in the better half before: {told}."]


def _short(names: Mapping[str, Any]) -> str:
    return ", ".join(name.rsplit(".", 1)[-1] for name in sorted(names))


@dataclass(frozen=True)
class _Trials:
    """One learner's trials of several studies: N of them, D dimensions.

    Attributes:
        places: (N, D).
        scores: (N,) comparable.
        good: (N,) whether it was among the best of its study.
        values: N dimension -> value.
    """

    axes: tuple[Axis, ...]
    places: Float64
    scores: Float64
    good: np.ndarray[Any, np.dtype[np.bool_]]
    values: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, name: str, studies: Sequence[PastStudy], space: Described) -> _Trials:
        axes = axes_of(space.distributions(name))
        values, scores, among = [], [], []
        for study in studies:
            best = {entry.identity for entry in good(study)}
            for entry, score in ranked(study):
                if entry.learner == name:
                    values.append(space.flatten(entry))
                    scores.append(score)
                    among.append(entry.identity in best)
        places = [[axis.place(flat.get(axis.name)) for axis in axes] for flat in values]
        return cls(axes, np.array(places).reshape(len(values), len(axes)), np.array(scores), np.array(among, dtype=bool), tuple(values))

    def box(self) -> dict[str, tuple[Any, ...]]:
        """Return the bounds around good trials, where they exclude something."""
        if int(self.good.sum()) < _FEWEST_GOOD:
            return {}
        found: dict[str, tuple[Any, ...]] = {}
        for at, axis in enumerate(self.axes):
            places = self.places[self.good, at]
            if axis.options:
                used = {values.get(axis.name) for values, is_good in zip(self.values, self.good, strict=True) if is_good}
                left = tuple(option for option in axis.options if option in used)
                if left and len(left) < len(axis.options):
                    found[axis.name] = left
                continue
            low, high = max(float(places.min()) - _MARGIN, 0.0), min(float(places.max()) + _MARGIN, 1.0)
            if low > 0.0 or high < 1.0:
                found[axis.name] = (axis.value(low), axis.value(high))
        return found

    def unimportant(self) -> dict[str, tuple[Any, ...]]:
        """Return the dimensions that decided nothing, each with the value of the best trial.

        PED-ANOVA (Watanabe et al., arXiv 2304.10255) among one learner's trials: its conditional dimensions are all set there.
        """
        if len(self.values) < _MEASURED:
            return {}
        study = optuna.create_study(direction="maximize")
        kinds = {axis.name: FloatDistribution(0.0, 1.0) for axis in self.axes}
        for places, score in zip(self.places.tolist(), self.scores.tolist(), strict=True):
            study.add_trial(optuna.create_trial(params=dict(zip(kinds, places, strict=True)), distributions=kinds, value=score))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_GOOD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few trials: `_MEASURED` is the limit
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
        total = sum(shares.values())
        best = self.values[int(np.argmax(self.scores))]
        return {name: (best[name],) for name, share in shares.items() if total > 0 and share < _UNIMPORTANT * total and name in best}
