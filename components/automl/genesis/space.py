"""What Genesis may try: for each learner the features and hyperparameters that vary, and within which bounds.

A dimension's name in the study is `learner.part.key`, so the space is conditional on the learner. What is not named here keeps the
learner's default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from components.automl.genesis.configuration import Configuration
from components.automl.genesis.dimensions import SPACES, Choice, Dimension, Real, Whole
from components.core.params import Tabular, Task
from components.train.learners import learner

__all__ = ["Bounds", "Space", "completed", "long_tailed", "network_of", "suited", "with_loss"]

_MOST_TREES = 1_500
"""Of one fold's model."""
_FASTEST = 0.3
_MORE_EVEN = 0.5
"""Numbers have a long tail when their logarithms' skewness is at most this share of theirs."""
_OF_A_TAIL, _OF_LOGARITHMS = "poisson", ("lightgbm", "xgboost", "catboost")
"""The loss, and who has it."""

Bounds = Mapping[str, tuple[Any, ...]]
"""Dimension's name -> (low, high), or the choices that are left; one value alone fixes it."""


def completed(name: str, features: Mapping[str, Any], params: Mapping[str, Any], origin: str) -> Configuration:
    """Return a configuration with every option written out, so that equal pipelines are equal.

    Raises:
        ConfigError: There is no such learner.
        ValidationError: An option is unknown or out of range.
    """
    found = learner(name)
    return Configuration(
        name,
        found.features.model_validate(dict(features)).model_dump(mode="json"),
        found.params.model_validate(dict(params)).model_dump(mode="json"),
        origin,
    )


def network_of(configuration: Configuration) -> dict[str, Any]:
    """Return the params that do not vary in the learner's space: of a network that another search found, the network."""
    varied = SPACES[configuration.learner]["params"]
    return {key: value for key, value in configuration.params.items() if key not in varied}


def long_tailed(task: Task, labels: Sequence[Any]) -> bool:
    """Whether labels are like prices or durations: all above 0, skewed to the right, and their logarithms much less so.

    What moves such a number multiplies it. Trees that learn its logarithm, by the likelihood of Poisson and so without a bias of the
    mean, need fewer splits to say so.
    """
    if not isinstance(task, Tabular) or task.problem != "regression":
        return False
    values = np.asarray(labels, dtype=np.float64)
    if not len(values) or values.min() <= 0 or values.max() <= values.min():
        return False
    skewness = _skewness(values)
    return bool(skewness > 0 and abs(_skewness(np.log(values))) <= _MORE_EVEN * skewness)


def _skewness(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(np.mean(((values - values.mean()) / values.std()) ** 3))


def with_loss(configuration: Configuration, *, tail: bool) -> Configuration:
    """Let trees learn logarithms of labels with a long tail and of no others, which may be negative; what learns by another loss stays."""
    if configuration.learner not in _OF_LOGARITHMS or configuration.params.get("loss") not in ("l2", _OF_A_TAIL):
        return configuration
    return replace(configuration, params={**configuration.params, "loss": _OF_A_TAIL if tail else "l2"})


def suited(configuration: Configuration, classes: int, *, tail: bool = False) -> Configuration:
    """Suit boosted trees to the labels.

    Every round grows a tree a class, which costs time, room and latency, so many classes get fewer rounds; these learn faster, so that
    they end near the same place. Numbers with a long tail get a loss that learns their logarithm.
    """
    configuration = with_loss(configuration, tail=tail)
    params = dict(configuration.params)
    rounds = params.get("rounds")
    if classes <= 2 or rounds is None or rounds * classes <= _MOST_TREES:
        return configuration
    params["rounds"] = max(_MOST_TREES // classes, 1)
    if "learning_rate" in params:
        params["learning_rate"] = float(f"{min(params['learning_rate'] * rounds / params['rounds'], _FASTEST):.4g}")
    return replace(configuration, params=params)


@dataclass(frozen=True)
class Space:
    """The space of one search.

    Attributes:
        learners: Names to choose from.
        bounds: Dimensions that are narrower today.
        classes: The task's; 0 for a number.
        tail: Whether its labels are `long_tailed`.
        fixed: Learner -> params that do not vary: the network that another search found.
    """

    learners: tuple[str, ...]
    bounds: Bounds = field(default_factory=dict)
    classes: int = 0
    tail: bool = False
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def suggest(self, trial: optuna.Trial) -> Configuration:
        """Ask a trial for a pipeline; its sampler answers."""
        name = str(trial.suggest_categorical("learner", self.learners))
        parts: dict[str, dict[str, Any]] = {"features": {}, "params": dict(self.fixed.get(name, {}))}
        for full, (part, key, dimension) in self.dimensions(name).items():
            value = self._suggest(trial, full, dimension)
            if value is not None:
                parts[part][key] = self._meant(dimension, value)
        return suited(completed(name, parts["features"], parts["params"], "search"), self.classes, tail=self.tail)

    def flatten(self, configuration: Configuration) -> dict[str, Any]:
        """Return the dimensions that a configuration sets, moved into their bounds: the reverse of `suggest`."""
        parts = {"features": configuration.features, "params": configuration.params}
        found: dict[str, Any] = {"learner": configuration.learner}
        for full, (part, key, dimension) in self.dimensions(configuration.learner).items():
            distribution = self.distribution(full, dimension)
            if key in parts[part] and distribution is not None:
                found[full] = _within(distribution, parts[part][key])
        return found

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        """Return what `flatten` sets for a learner, as Optuna names it; fixed dimensions are left out."""
        found: dict[str, BaseDistribution] = {"learner": CategoricalDistribution(self.learners)}
        for full, (_, _, dimension) in self.dimensions(name).items():
            distribution = self.distribution(full, dimension)
            if distribution is not None:
                found[full] = distribution
        return found

    def dimensions(self, name: str) -> dict[str, tuple[str, str, Dimension]]:
        """Return the full name -> (part, key, dimension) of a learner's dimensions."""
        return {
            f"{name}.{part}.{key}": (part, key, dimension)
            for part, dimensions in SPACES.get(name, {}).items()
            for key, dimension in dimensions.items()
        }

    def distribution(self, full: str, dimension: Dimension) -> BaseDistribution | None:
        """Return a dimension within today's bounds; None when one value is left."""
        given = self.bounds.get(full)
        if isinstance(dimension, Choice):
            left = tuple(option for option in dimension.options if given is None or option in given) or dimension.options
            return CategoricalDistribution(left) if len(left) > 1 else None
        low, high = (dimension.low, dimension.high) if given is None else (max(dimension.low, min(given)), min(dimension.high, max(given)))
        if low >= high:
            return None
        kind = IntDistribution if isinstance(dimension, Whole) else FloatDistribution
        return kind(low, high, log=dimension.log)

    def _suggest(self, trial: optuna.Trial, full: str, dimension: Dimension) -> Any:
        distribution = self.distribution(full, dimension)
        if distribution is None:
            return self.bounds[full][0] if full in self.bounds else None
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(full, distribution.choices)
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(full, distribution.low, distribution.high, log=distribution.log)
        return trial.suggest_float(full, distribution.low, distribution.high, log=distribution.log)

    def _meant(self, dimension: Dimension, value: Any) -> Any:
        """Turn a suggested value into the recipe's."""
        if isinstance(dimension, Real):
            return float(f"{value:.4g}")  # four digits are as good, and can be read
        return value


def _within(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else distribution.choices[0]
    low, high = distribution.low, distribution.high
    return low if value is None else min(max(value, low), high)
