"""The dimensions of every learner: data, not code. Adding a learner to the search is one entry in `SPACES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FOUND", "SPACES", "Choice", "Dimension", "Real", "Whole"]


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


Dimension = Real | Whole | Choice
Dimensions = Mapping[str, Mapping[str, Dimension]]

_SELECTION: Mapping[str, Dimension] = {"keep_best": Choice((1.0, 0.75))}

_TREE_FEATURES: Mapping[str, Dimension] = {
    "category": Choice(("code", "target", "frequency", "onehot")),
    "beside": Choice(("none", "target")),
    "max_values": Choice((20, 50)),
    **_SELECTION,
}

_NUMBER_FEATURES: Mapping[str, Dimension] = {
    "category": Choice(("code", "target", "frequency")),
    **_SELECTION,
}
"""For trees that take category codes as numbers."""

_DENSE_FEATURES: Mapping[str, Dimension] = {
    "category": Choice(("onehot", "woe")),
    "scale": Choice(("standard", "rank")),
    "bins": Choice((0, 8, 15, 30)),
    "whole": Choice((0, 20)),
    **_SELECTION,
}

_NETWORK_FEATURES: Mapping[str, Dimension] = {"scale": Choice(("standard", "rank")), **_SELECTION}

_LINE_FEATURES: Mapping[str, Dimension] = {"augment": Real(0.2, 1.2)}

_LINE_TRAINING: Mapping[str, Dimension] = {"lr": Real(1e-3, 1e-2, log=True), "dropout": Real(0.0, 0.4)}

FOUND = ("recognizer",)
"""Learners whose network another search finds; once it has, the dimensions here say what varies in its training."""

SPACES: Mapping[str, Dimensions] = {
    "arcface": {
        "features": {"scale": Choice(("standard", "rank"))},
        "params": {
            "hidden": Choice((128, 256, 512)),
            "layers": Whole(1, 3),
            "dim": Choice((32, 64, 128)),
            "margin": Real(0.0, 0.5),
            "scale": Choice((16.0, 24.0, 32.0, 48.0)),
            "lr": Real(5e-4, 1e-2, log=True),
        },
    },
    "catboost": {
        "features": _NUMBER_FEATURES,
        "params": {
            "learning_rate": Real(0.03, 0.2, log=True),
            "depth": Whole(3, 8),
            "l2_leaf_reg": Real(1.0, 20.0, log=True),
            "bagging_temperature": Real(0.0, 1.0),
            "rsm": Real(0.4, 1.0),
        },
    },
    "crnn": {
        "features": _LINE_FEATURES,
        "params": {
            "channels": Choice((12, 16, 24)),
            "hidden": Choice((64, 96, 128)),
            "head": Choice(("gru", "conv")),
            **_LINE_TRAINING,
        },
    },
    "extra_trees": {
        "features": {"category": Choice(("target", "frequency", "code")), **_SELECTION},
        "params": {
            "bootstrap": Choice((False, True)),
            "min_samples_leaf": Whole(1, 20, log=True),
            "max_features": Real(0.2, 1.0),
            "max_leaves": Whole(300, 3000, log=True),
        },
    },
    "lightgbm": {
        "features": _TREE_FEATURES,
        "params": {
            "learning_rate": Real(0.02, 0.2, log=True),
            "num_leaves": Whole(4, 128, log=True),
            "min_data_in_leaf": Whole(3, 200, log=True),
            "feature_fraction": Real(0.3, 1.0),
            "bagging_fraction": Real(0.5, 1.0),
            "lambda_l2": Real(1e-2, 50.0, log=True),
            "path_smooth": Real(0.0, 20.0),
            "cat_smooth": Real(5.0, 60.0, log=True),
            "extra_trees": Choice((False, True)),
        },
    },
    "logistic": {"features": _DENSE_FEATURES, "params": {"balanced": Choice((False, True))}},
    "mlp": {
        "features": _NETWORK_FEATURES,
        "params": {
            "hidden": Choice((64, 128, 256)),
            "layers": Whole(1, 3),
            "dropout": Real(0.0, 0.3),
            "lr": Real(3e-4, 5e-3, log=True),
            "bins": Choice((8, 16, 32)),
        },
    },
    "recognizer": {"features": _LINE_FEATURES, "params": _LINE_TRAINING},
    "resnet": {
        "features": _NETWORK_FEATURES,
        "params": {
            "width": Choice((64, 128, 192)),
            "dropout": Real(0.0, 0.3),
            "lr": Real(3e-4, 5e-3, log=True),
            "bins": Choice((8, 16, 32)),
        },
    },
    "sage": {
        "features": {},
        "params": {
            "hidden": Choice((32, 64, 128)),
            "aggregate": Choice(("mean", "attention")),
            "dropout": Real(0.0, 0.5),
            "learning_rate": Real(2e-3, 3e-2, log=True),
            "weight_decay": Real(1e-5, 1e-2, log=True),
        },
    },
    "xgboost": {
        "features": _NUMBER_FEATURES,
        "params": {
            "learning_rate": Real(0.02, 0.2, log=True),
            "max_leaves": Whole(4, 127, log=True),
            "min_child_weight": Real(1.0, 50.0, log=True),
            "subsample": Real(0.5, 1.0),
            "colsample_bytree": Real(0.3, 1.0),
            "reg_lambda": Real(0.1, 50.0, log=True),
        },
    },
}
