"""Past searches propose the next trial: an ensemble of surrogates weighted by how well each ranks today's trials.

Feurer, Letham and Bakshy, "Practical transfer learning for Bayesian optimization" (arXiv 1802.02219), for a space that is conditional
on the learner. Instead of one ensemble mean, each surrogate says how much a candidate would improve on what it thinks of today's
trials (Wistuba, Schilling and Schmidt-Thieme, "Scalable Gaussian process-based transfer surrogates", Machine Learning 2018): means of
different studies need no common scale, and the first proposals already differ from one another. Shapes: S studies, N trials of today,
B bootstrap samples, M candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from components.automl.genesis.samplers.random import derived
from components.automl.genesis.samplers.tpe import tpe
from components.automl.genesis.surrogate import Axis, Learned, Surrogate, Unit, axes_of, columns_of, comparable, fit_surrogate

__all__ = ["Searched", "alone", "ranking_weights", "rgpe"]

_FEW = 3
"""Trials of today below which there is nothing to rank by."""
_BOOTSTRAPS = 64
_OWN = 2.0
"""Today's own surrogate has at least this weight beside the past's, which have 1 together."""
_DRAWN, _LOCAL, _NEAR = 96, 12, 0.1
"""Candidates a learner: drawn evenly; around each of the best known; how far around them (standard deviation)."""
_BEST = 4
Float64 = NDArray[np.float64]


class Searched(Protocol):
    """What a sampler needs to know of a space; `components.automl.genesis.space.Space` is one."""

    @property
    def learners(self) -> tuple[str, ...]:
        """Names to choose from."""

    @property
    def bounds(self) -> Mapping[str, tuple[Any, ...]]:
        """Dimension's name -> what is left of it."""

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        """Return a learner's dimensions as Optuna names them, `learner` among them; fixed ones are left out."""


@dataclass(frozen=True)
class Seen:
    """Today's trials: N learners, (D,) places, (N,) comparable scores."""

    learners: tuple[str, ...]
    units: tuple[Unit, ...]
    scores: Float64


def rgpe(space: Searched, past: Learned, seed: int, place: int) -> BaseSampler:
    """Return a sampler whose randomness is a function of seed and place alone; without a past it is TPE.

    Args:
        space: Today's, within its bounds.
        past: From `components.automl.genesis.surrogate.learn`.
        seed: The search's.
        place: The trial's.
    """
    return _Ensemble(space, past, derived(seed, place)) if past.surrogates else tpe(seed, place)


def alone(space: Searched, seed: int, place: int) -> BaseSampler:
    """Return the same sampler without a past: expected improvement on today's surrogate. The benchmark's yardstick."""
    return _Ensemble(space, Learned({name: axes_of(space.distributions(name)) for name in space.learners}, ()), derived(seed, place))


def ranking_weights(told: Float64, own: Float64, scores: Float64, prior: Float64, rng: np.random.Generator) -> tuple[Float64, float]:
    """Return how often each surrogate ranks a bootstrap sample of today's trials best; the weights sum to 1.

    A surrogate whose usual loss is above the 95th percentile of the own one's gets nothing: many that say little would drown the one
    that learns.

    Args:
        told: (S, N) what past surrogates say of today's trials.
        own: (N,) what today's surrogate says of each, without having seen it.
        scores: (N,) what they are.
        prior: (S,) how ties are shared.
        rng: Draws the bootstrap.

    Returns:
        (S,) the past's weights, and the own one's.
    """
    counts = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), _BOOTSTRAPS).astype(np.float64)
    order = np.sign(scores[:, None] - scores)
    losses = np.empty((len(told) + 1, _BOOTSTRAPS))
    for at, values in enumerate([*told, own]):
        wrong = (np.sign(values[:, None] - values) != order) & (order != 0)
        losses[at] = ((counts @ wrong) * counts).sum(axis=1)
    dropped = np.median(losses[:-1], axis=1) > np.quantile(losses[-1], 0.95)
    losses[:-1][dropped] = np.inf
    shares = (losses == losses.min(axis=0)) * np.append(prior, prior.mean())[:, None]
    weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return weights[:-1], float(weights[-1])


class _Ensemble(BaseSampler):  # type: ignore[misc]
    def __init__(self, space: Searched, past: Learned, seed: int) -> None:
        self._space, self._past = space, past
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._proposal: tuple[str, dict[str, Any]] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        if self._proposal is None:
            self._proposal = self._propose(study, trial)
        best, values = self._proposal
        if param_name == "learner":
            return best
        # The caller may have wanted another learner than the best: its best candidate was kept too.
        value = values[param_name]
        if hasattr(param_distribution, "choices"):
            return value if value in param_distribution.choices else param_distribution.choices[0]
        return min(max(value, param_distribution.low), param_distribution.high)

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> tuple[str, dict[str, Any]]:
        """Return the best learner, and the values of every learner's best candidate."""
        seen, pending = self._seen(study, trial)
        models = self._weighed(seen, pending)
        tried = list(zip((*seen.learners, *pending.learners), (*seen.units, *pending.units), strict=True))
        incumbents = [_highest(model, tried, self._past.axes) for model, _ in models]
        values: dict[str, Any] = {}
        best, found = -math.inf, self._space.learners[0]
        for name in self._space.learners:
            axes = self._past.axes[name]
            units = self._candidates(name, [unit for model, _ in models for unit in model.tops.get(name, ())])
            columns = columns_of(axes, units)
            gain = np.zeros(len(units)) if models else self._rng.random(len(units))
            for (model, weight), incumbent in zip(models, incumbents, strict=True):
                gain += weight * _improvement(*model.predict(name, columns), incumbent)
            for other in (unit for learner, unit in tried if learner == name):
                gain[np.abs(units - other).max(axis=1, initial=0.0) < 1e-9] = -1.0
            at = int(np.argmax(gain))
            values |= {axis.name: axis.value(float(units[at, number])) for number, axis in enumerate(axes)}
            if gain[at] > best:
                best, found = float(gain[at]), name
        return found, values

    def _weighed(self, seen: Seen, pending: Seen) -> list[tuple[Surrogate, float]]:
        """Return the surrogates that count, today's last, with their weights."""
        past = self._past.surrogates
        prior = np.array([model.prior for model in past])
        prior /= max(float(prior.sum()), 1e-300)
        if len(seen.scores) < _FEW:
            return [(model, float(weight)) for model, weight in zip(past, prior, strict=True) if weight > 0]
        own = fit_surrogate(self._past.axes, seen.learners, seen.units, seen.scores, tops=_BEST)
        trials = list(zip(seen.learners, seen.units, strict=True))
        weights, share = np.zeros(0), 1.0
        if past:
            told = np.stack([_told(model, trials, self._past.axes) for model in past])
            weights, share = ranking_weights(told, _left_out(own, seen), seen.scores, prior, self._rng)
        if pending.learners:  # they will turn out as expected: nobody need go there again
            believed = _told(own, list(zip(pending.learners, pending.units, strict=True)), self._past.axes)
            names, units = (*seen.learners, *pending.learners), (*seen.units, *pending.units)
            own = fit_surrogate(self._past.axes, names, units, np.append(seen.scores, believed), tops=_BEST)
        found = [(model, float(weight)) for model, weight in zip(past, weights, strict=True) if weight > 0]
        return [*found, (own, max(share, _OWN))]

    def _seen(self, study: optuna.Study, trial: FrozenTrial) -> tuple[Seen, Seen]:
        """Return today's trials that have a value, and those that somebody is at."""
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        known: dict[bool, list[tuple[str, Unit, float]]] = {True: [], False: []}
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
            name = other.params.get("learner")
            if name not in self._space.learners or other.number == trial.number:
                continue
            places = [axis.place(other.params.get(axis.name, self._fixed(axis))) for axis in self._past.axes[name]]
            done = other.state == TrialState.COMPLETE
            known[done].append((name, np.array(places, dtype=np.float64), sign * other.value if done else 0.0))
        return tuple(  # type: ignore[return-value]
            Seen(tuple(n for n, _, _ in some), tuple(u for _, u, _ in some), comparable([v for _, _, v in some]))
            for some in (known[True], known[False])
        )

    def _fixed(self, axis: Axis) -> Any:
        return self._space.bounds.get(axis.name, (None,))[0]

    def _candidates(self, name: str, tops: Sequence[Unit]) -> Unit:
        """Return (M, D) places: drawn evenly, the best of every surrogate, and drawn around those; all within the bounds."""
        axes = self._past.axes[name]
        drawn = self._rng.random((_DRAWN, len(axes)))
        parts = [drawn]
        if tops:
            centers = np.unique(np.stack(tops), axis=0)
            around = np.repeat(centers, max(1, _LOCAL * _BEST // len(centers)), axis=0)
            jump = self._rng.random(around.shape) < 1 / max(len(axes), 1)
            near = np.clip(around + _NEAR * self._rng.standard_normal(around.shape), 0.0, 1.0)
            is_choice = np.array([bool(axis.options) for axis in axes], dtype=bool)
            moved = np.where(is_choice, np.where(jump, self._rng.random(around.shape), around), near)
            parts += [centers, moved]
        units = np.concatenate(parts)
        today = self._space.distributions(name)
        for at, axis in enumerate(axes):
            units[:, at] = _bounded(axis, today.get(axis.name), self._fixed(axis), units[:, at], _DRAWN)
        return units


def _bounded(axis: Axis, today: Any, fixed: Any, places: Float64, drawn: int) -> Float64:
    """Move (M,) places into today's bounds: the first `drawn` are spread over them, the others go to the nearest end."""
    if today is None:
        return np.full(len(places), axis.place(fixed))
    if axis.options:
        levels = np.array(sorted(axis.place(option) for option in today.choices))
        spread = levels[np.minimum((places * len(levels)).astype(np.int64), len(levels) - 1)]
        nearest = levels[np.abs(places[:, None] - levels).argmin(axis=1)]
        return np.where(np.arange(len(places)) < drawn, spread, nearest)
    low, high = axis.place(today.low), axis.place(today.high)
    spread = low + places * (high - low)
    return axis.snap(np.where(np.arange(len(places)) < drawn, spread, np.clip(places, low, high)))


def _told(model: Surrogate, trials: Sequence[tuple[str, Unit]], axes: Mapping[str, Sequence[Axis]]) -> Float64:
    """Return (N,) what a surrogate says of trials."""
    found = np.empty(len(trials))
    for name in {name for name, _ in trials}:
        at = [number for number, (other, _) in enumerate(trials) if other == name]
        found[at] = model.predict(name, columns_of(axes[name], np.stack([trials[number][1] for number in at])))[0]
    return found


def _highest(model: Surrogate, trials: Sequence[tuple[str, Unit]], axes: Mapping[str, Sequence[Axis]]) -> float:
    return float(_told(model, trials, axes).max()) if trials else 0.0


def _left_out(own: Surrogate, seen: Seen) -> Float64:
    """Return (N,) what today's surrogate says of each of its trials by all others."""
    found = np.empty(len(seen.scores))
    for name, part in own.parts.items():
        at = [number for number, other in enumerate(seen.learners) if other == name]
        found[at] = part.left_out()
    return found


def _improvement(mean: Float64, variance: Float64, incumbent: float) -> Float64:
    """Return the expected improvement over the incumbent, (M,)."""
    deviation = np.sqrt(variance)
    z = (mean - incumbent) / deviation
    return np.asarray(deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)))
