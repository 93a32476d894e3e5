"""What Genesis may try: for each learner the features and hyperparameters that vary, and within which bounds.

A dimension's name in the study is `learner.part.key`, so the space is conditional on the learner. What is not named here keeps the
learner's default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

__all__ = ["SPACES", "Choice", "Dimension", "Real", "Space", "Weakest", "Whole", "placed"]


@dataclass(frozen=True)
class Real:
    """A number between two bounds."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds, both included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    options: tuple[str | int | float | bool, ...]


@dataclass(frozen=True)
class Weakest:
    """The share of the task's features that is left out, the least useful first (`components.automl.genesis.ranking`)."""

    shares: tuple[float, ...]


Dimension = Real | Whole | Choice | Weakest
Dimensions = Mapping[str, Mapping[str, Dimension]]
_DROP = Weakest((0.0, 0.25, 0.5))

_DENSE_FEATURES: Mapping[str, Dimension] = {
    "category": Choice(("onehot", "frequency")),
    "log": Choice(("none", "auto")),
    "fill": Choice(("median", "mean")),
    "max_values": Choice((10, 20, 50)),
    "drop": _DROP,
}

SPACES: Mapping[str, Dimensions] = {
    "crnn": {
        "features": {"augment": Real(0.2, 1.2)},
        "params": {
            "channels": Choice((12, 16, 24)),
            "hidden": Choice((64, 96, 128)),
            "head": Choice(("gru", "conv")),
            "lr": Real(1e-3, 1e-2, log=True),
            "dropout": Real(0.0, 0.4),
        },
    },
    "lightgbm": {
        "features": {
            "category": Choice(("code", "frequency", "onehot")),
            "indicator": Choice((False, True)),
            "min_count": Choice((2, 5, 20)),
            "drop": _DROP,
        },
        "params": {
            "learning_rate": Real(0.02, 0.2, log=True),
            "num_leaves": Whole(4, 128, log=True),
            "min_data_in_leaf": Whole(3, 200, log=True),
            "feature_fraction": Real(0.4, 1.0),
            "bagging_fraction": Real(0.5, 1.0),
            "lambda_l2": Real(1e-3, 30.0, log=True),
            "cat_smooth": Real(1.0, 100.0, log=True),
        },
    },
    "logistic": {"features": _DENSE_FEATURES, "params": {"strength": Real(1e-6, 1.0, log=True), "balanced": Choice((False, True))}},
    "mlp": {
        "features": _DENSE_FEATURES,
        "params": {
            "hidden": Choice((16, 32, 64, 128)),
            "layers": Whole(1, 3),
            "dropout": Real(0.0, 0.5),
            "lr": Real(3e-4, 1e-2, log=True),
            "weight_decay": Real(1e-6, 1e-1, log=True),
            "batch": Choice((64, 128, 256)),
        },
    },
}


@dataclass(frozen=True)
class Space:
    """The space of one search.

    Attributes:
        learners: Names to choose from.
        ranked: The task's features, the most useful first; empty: none is ever left out.
    """

    learners: tuple[str, ...]
    ranked: tuple[str, ...] = ()

    def suggest(self, trial: optuna.Trial) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Ask a trial for a learner, its features and its params."""
        name = str(trial.suggest_categorical("learner", self.learners))
        parts: dict[str, dict[str, Any]] = {}
        for part, dimensions in self._dimensions(name).items():
            parts[part] = {key: self._value(trial, f"{name}.{part}.{key}", dimension) for key, dimension in dimensions.items()}
        return name, parts["features"], parts["params"]

    def flatten(self, name: str, features: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the dimensions that a given configuration sets: the reverse of `suggest`."""
        parts = {"features": features, "params": params}
        found: dict[str, Any] = {"learner": name}
        for part, dimensions in self._dimensions(name).items():
            for key, dimension in dimensions.items():
                if key in parts[part]:
                    value = parts[part][key]
                    found[f"{name}.{part}.{key}"] = self._nearest_share(dimension, value) if isinstance(dimension, Weakest) else value
        return found

    def _dimensions(self, name: str) -> Dimensions:
        if self.ranked:
            return SPACES[name]
        return {
            part: {key: dimension for key, dimension in dimensions.items() if not isinstance(dimension, Weakest)}
            for part, dimensions in SPACES[name].items()
        }

    def _value(self, trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
        if isinstance(dimension, Choice):
            return trial.suggest_categorical(name, dimension.options)
        if isinstance(dimension, Weakest):
            share = trial.suggest_categorical(name, dimension.shares)
            return sorted(self.ranked[len(self.ranked) - int(len(self.ranked) * share) :])
        if isinstance(dimension, Whole):
            return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
        # Four digits are as good, and can be read.
        return float(f"{trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log):.4g}")

    def _nearest_share(self, dimension: Weakest, dropped: Sequence[str]) -> float:
        return min(dimension.shares, key=lambda share: abs(share - len(dropped) / len(self.ranked)))


def placed(dimension: Dimension, value: Any) -> float:
    """Return where a value lies in its dimension, 0 to 1; dropped features count by their number."""
    if isinstance(dimension, Weakest):
        return float(len(value))
    if isinstance(dimension, Choice):
        return dimension.options.index(value) / max(1, len(dimension.options) - 1) if value in dimension.options else 0.0
    low, high, at = (math.log(max(v, 1e-12)) if dimension.log else float(v) for v in (dimension.low, dimension.high, value))
    return min(max((at - low) / (high - low), 0.0), 1.0)
