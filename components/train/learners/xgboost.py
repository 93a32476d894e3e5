"""xgboost: gradient-boosted trees (Chen & Guestrin 2016), on histograms; exported as LightGBM text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from pydantic import Field

from components.core.params import Frozen
from components.model.runtime import Float32
from components.train.features import Matrices, prepare
from components.train.forest import Forest, below
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import (
    Float64,
    Judge,
    Target,
    TreeFeatures,
    TreeLoss,
    constant_model,
    fits_tables,
    row_weights,
    target_of,
    trained,
)

__all__ = ["LEARNER", "forest_of"]

_OBJECTIVE = {"binary": "binary:logistic", "multiclass": "multi:softprob"}
_REGRESSION = {"l2": "reg:squarederror", "l1": "reg:absoluteerror", "huber": "reg:pseudohubererror", "poisson": "count:poisson"}
_METRIC = {"binary": "logloss", "multiclass": "mlogloss"}
_ERROR = {"l2": "rmse", "l1": "mae", "huber": "mphe", "poisson": "poisson-nloglik"}


class Params(Frozen):
    """The recipe's `params`; the names and meanings are XGBoost's. Numbers are learned in units of their standard deviation, by loss
    `poisson` of their mean.

    Attributes:
        rounds: At most; exactly, when there are no rows to judge by.
        max_leaves: 0: no limit; else trees grow where it helps most, up to that many leaves.
        early_stopping: Rounds without a better validation loss after which it stops.
        balanced: Whether rare classes weigh as much as frequent ones.
        loss: Of a regression.
    """

    rounds: int = Field(500, ge=1, le=20_000)
    learning_rate: float = Field(0.08, gt=0, le=1)
    max_depth: int = Field(12, ge=1, le=16)
    max_leaves: int = Field(31, ge=0, le=4096)
    min_child_weight: float = Field(5.0, ge=0)
    subsample: float = Field(0.8, gt=0, le=1)
    colsample_bytree: float = Field(0.8, gt=0, le=1)
    colsample_bynode: float = Field(1.0, gt=0, le=1)
    reg_lambda: float = Field(1.0, ge=0)
    reg_alpha: float = Field(0.0, ge=0)
    gamma: float = Field(0.0, ge=0)
    max_bin: int = Field(128, ge=4, le=1024)
    early_stopping: int = Field(40, ge=1)
    balanced: bool = False
    loss: TreeLoss = "l2"


class _XgBoost:
    name = "xgboost"
    features: type[Frozen] = TreeFeatures
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        target = target_of(part, params.loss)
        if target.nothing_to_learn:
            return constant_model(part, target)
        bias = _bias(target, params)
        weight = row_weights(target.y, target.classes, params.balanced)
        judge = Judge(params.early_stopping, progress)
        with xgb.config_context(verbosity=0):
            train = _matrix(part.x, target.y, weight, bias, params.max_bin)
            evals = []
            if len(target.y_validation):
                evals = [(_matrix(target.x_validation, target.y_validation, None, bias, params.max_bin, train), "v")]
            booster = xgb.train(
                _settings(target, params, seed), train, params.rounds, evals=evals, verbose_eval=False, callbacks=[_Callback(judge)]
            )
        rounds = judge.best_round or booster.num_boosted_rounds()
        forest = forest_of(booster, rounds * target.outputs)

        def native(x: Float32) -> Float64:
            rows = xgb.DMatrix(x, base_margin=_margin(len(x), bias), nthread=1)
            return np.asarray(booster.predict(rows, iteration_range=(0, rounds)), dtype=np.float64)

        return trained(part, target, forest, bias, native, rounds, judge.log)


class _Callback(xgb.callback.TrainingCallback):  # type: ignore[misc]  # the library is not typed here
    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Mapping[str, Sequence[Any]]]) -> bool:
        losses = next(iter(evals_log["v"].values())) if "v" in evals_log else None
        return self.judge.stops(epoch + 1, float(losses[-1]) if losses else None)


def forest_of(booster: Any, trees: int) -> Forest:
    """Return a booster's first trees; the float32 rule `x < t` becomes `x <= t'`."""
    found = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"][:trees]
    sizes = [len(tree["left_children"]) for tree in found]
    start = np.cumsum([0, *sizes[:-1]])

    def joined(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.asarray(tree[name], dtype=kind) for tree in found])

    left, right, condition = joined("left_children", np.int64), joined("right_children", np.int64), joined("split_conditions", np.float32)
    shift, leaf = np.repeat(start, sizes), left < 0
    return Forest(
        root=start,
        left=np.where(leaf, -1, left + shift),
        right=np.where(leaf, -1, right + shift),
        feature=joined("split_indices", np.int64),
        threshold=below(condition),
        missing_left=joined("default_left", np.bool_),
        value=condition.astype(np.float64),
    )


def _settings(target: Target, params: Params, seed: int) -> dict[str, Any]:
    tuned = params.model_dump(exclude={"rounds", "early_stopping", "balanced", "loss"})
    # A leaf must not ask for more rows than a tiny table has.
    tuned["min_child_weight"] = min(params.min_child_weight, len(target.y) / 20)
    every = {
        **tuned,
        "objective": _OBJECTIVE.get(target.problem, _REGRESSION[params.loss]),
        "eval_metric": _METRIC.get(target.problem, _ERROR[params.loss]),
        "tree_method": "hist",
        "grow_policy": "lossguide" if params.max_leaves else "depthwise",
        "nthread": 1,
        "seed": seed,
    }
    return {**every, "num_class": len(target.seen)} if target.problem == "multiclass" else every


def _bias(target: Target, params: Params) -> Float64:
    """Return (S,) where boosting starts: the logarithm of the odds, or of the classes' shares, or the center of the values."""
    if not target.classes:
        return np.array([float(np.median(target.y)) if params.loss == "l1" else 0.0])
    share = np.bincount(target.y.astype(np.int64)) / len(target.y)
    if params.balanced:
        share = np.full_like(share, 1 / len(share))
    return np.array([np.log(share[1] / share[0])]) if target.classes == 2 else np.log(share)


def _margin(rows: int, bias_S: Float64) -> Float64:
    return np.tile(bias_S, (rows, 1)) if len(bias_S) > 1 else np.full(rows, bias_S[0])


def _matrix(x: Float32, y: Float64, weight: Float64 | None, bias: Float64, bins: int, reference: Any = None) -> Any:
    return xgb.QuantileDMatrix(x, y, weight=weight, base_margin=_margin(len(x), bias), max_bin=bins, nthread=1, ref=reference)


LEARNER = _XgBoost()
