"""What mattered among the pipelines of one learner: which of its options varied, and how much each decided."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

__all__ = ["Varied", "importance", "varied"]

_ENOUGH_FOR_DENSITIES, _ENOUGH_FOR_RANKS = 12, 6
_BEST, _BEST_SHARE, _BEST_SHARE_AT_MOST = 5, 0.1, 0.5
"""Densities compare the best tenth with all, but at least five pipelines (Optuna's advice) and at most half of them."""
_WIDE = 20.0
"""Positive numbers whose largest is so many times the smallest are compared by their logarithms."""


@dataclass(frozen=True)
class Varied:
    """An option that was not the same in all pipelines.

    Attributes:
        name: `features.…` or `params.…`.
        values: One a pipeline: a number, a text, or None where the pipeline does not have the option.
        options: The texts that occur, in order; empty for numbers.
        log: Whether logarithms are compared.
    """

    name: str
    values: tuple[float | str | None, ...]
    options: tuple[str, ...]
    log: bool

    @property
    def ends(self) -> tuple[Any, Any]:
        """The lowest and the highest value, or the first and the last text."""
        if self.options:
            return self.options[0], self.options[-1]
        known = [value for value in self.values if not isinstance(value, str | None)]
        return min(known), max(known)

    def places(self) -> list[float | None]:
        """Return where each value lies between the ends, 0 to 1; None where there is none."""
        if self.options:
            last = len(self.options) - 1
            return [None if value is None else self.options.index(str(value)) / last for value in self.values]
        low, high = (self._scaled(end) for end in self.ends)
        return [None if value is None else (self._scaled(value) - low) / (high - low) for value in self.values]

    def distribution(self) -> BaseDistribution:
        """Return the observed range as Optuna names it."""
        return CategoricalDistribution(self.options) if self.options else FloatDistribution(*self.ends, log=self.log)

    def _scaled(self, value: Any) -> float:
        return math.log(value) if self.log else float(value)


def varied(trials: Sequence[Mapping[str, Any]]) -> list[Varied]:
    """Return the options that differ among a report's trials of one learner; a list counts by its length."""
    flat = [{**_flat("features", trial["features"]), **_flat("params", trial["params"])} for trial in trials]
    found = []
    for name in dict.fromkeys(key for entry in flat for key in entry):
        values = [entry.get(name) for entry in flat]
        known = [value for value in values if value is not None]
        if all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in known):
            numbers = [None if value is None else float(value) for value in values]
            low, high = min(map(float, known), default=0.0), max(map(float, known), default=0.0)
            if low < high:
                found.append(Varied(name, tuple(numbers), (), low > 0 and high / low >= _WIDE))
            continue
        texts = [None if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True) for value in values]
        options = tuple(sorted({text for text in texts if text is not None}))
        if len(options) > 1:
            found.append(Varied(name, tuple(texts), options, False))
    return found


def importance(trials: Sequence[Mapping[str, Any]], *, maximize: bool) -> tuple[str, dict[str, float]]:
    """Tell how much each varied option decided.

    Args:
        trials: A report's, of one learner, judged at the same rung; all have a value.
        maximize: Whether a larger value is better.

    Returns:
        The method, and option -> share of 1, the largest first. `ped-anova`: how much the best pipelines' density over the option
        differs from that of all (Watanabe et al., arXiv 2304.10255; conditional options: arXiv 2601.20800). `rank correlation`:
        absolute values, which need not sum to 1. Empty with too few pipelines.
    """
    options = varied(trials)
    values = np.asarray([trial["value"] for trial in trials], dtype=np.float64)
    if options and len(trials) >= _ENOUGH_FOR_DENSITIES:
        shares = _densities(options, values, maximize)
        if math.isfinite(total := math.fsum(shares.values())) and total > 0:
            return "ped-anova", _sorted({name: share / total for name, share in shares.items()})
    if options and len(trials) >= _ENOUGH_FOR_RANKS:
        return "rank correlation", _sorted(_correlations(options, values))
    return "", {}


def _densities(options: Sequence[Varied], values: NDArray[np.float64], maximize: bool) -> dict[str, float]:
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    kinds = {option.name: option.distribution() for option in options}
    for index, value in enumerate(values):
        given = {option.name: option.values[index] for option in options if option.values[index] is not None}
        study.add_trial(optuna.create_trial(params=given, distributions={name: kinds[name] for name in given}, value=float(value)))
    share = min(max(_BEST_SHARE, _BEST / len(values)), _BEST_SHARE_AT_MOST)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of few trials; the page says how many there were
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    return {option.name: float(found[option.name]) for option in options}


def _correlations(options: Sequence[Varied], values: NDArray[np.float64]) -> dict[str, float]:
    found = {}
    for option in options:
        places = option.places()
        known = [index for index, place in enumerate(places) if place is not None]
        x, y = _ranks(np.asarray([places[index] for index in known], dtype=np.float64)), _ranks(values[known])
        if len(known) >= _ENOUGH_FOR_RANKS and x.std() > 0 and y.std() > 0:
            found[option.name] = abs(float(np.corrcoef(x, y)[0, 1]))
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return average ranks: equal values share one."""
    below, equal_or_below = (np.sum(test, axis=1) for test in (values[:, None] > values, values[:, None] >= values))
    return np.asarray((below + equal_or_below - 1) / 2, dtype=np.float64)


def _sorted(found: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {key: leaf for part, inner in value.items() for key, leaf in _flat(f"{name}.{part}", inner).items()}
    return {name: len(value) if isinstance(value, list | tuple) else value}
