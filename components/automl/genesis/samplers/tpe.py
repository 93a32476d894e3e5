"""TPE, and the replay of what is known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from components.automl.genesis.samplers.random import derived

__all__ = ["Replay", "tpe"]

_STARTUP = 8


def tpe(seed: int, place: int) -> BaseSampler:
    """Return multivariate TPE (Watanabe, arXiv 2304.11127), its randomness a function of seed and place alone.

    Every argument that steers it is given: defaults changed from Optuna 4 to 5 and will again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`: the space is conditional on the learner
        return TPESampler(
            seed=derived(seed, place),
            n_startup_trials=_STARTUP,
            n_ei_candidates=24,
            multivariate=True,
            group=True,
            constant_liar=False,
        )


class Replay(BaseSampler):  # type: ignore[misc]
    """Proposes a given configuration; what lies outside a dimension is moved to its nearest end.

    Args:
        values: Dimension name -> value.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        value = self._values.get(param_name)
        if isinstance(param_distribution, CategoricalDistribution):
            return value if value in param_distribution.choices else param_distribution.choices[0]
        low, high = param_distribution.low, param_distribution.high
        return low if value is None else min(max(value, low), high)
