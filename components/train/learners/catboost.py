"""catboost: boosted symmetric trees (Prokhorenkova et al. 2018) over the numeric matrix; exported as LightGBM text.

Its own encodings of categories can't be exported; those of `components.train.features` take their place.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import catboost
import numpy as np
from pydantic import Field

from components.core.params import Frozen
from components.model.runtime import Float32
from components.train.features import Matrices, prepare
from components.train.forest import Forest, per_output
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

_LOSS = {"binary": "Logloss", "multiclass": "MultiClass"}
_ERROR = {"l2": "RMSE", "l1": "MAE", "huber": "Huber:delta=1", "poisson": "Poisson"}


class Params(Frozen):
    """The recipe's `params`; the names and meanings are CatBoost's. Numbers are learned in units of their standard deviation, by loss
    `poisson` of their mean.

    Attributes:
        rounds: At most; exactly, when there are no rows to judge by.
        boosting: `ordered` fights over-fitting on small tables, at several times the cost.
        early_stopping: Rounds without a better validation loss after which it stops.
        balanced: Whether rare classes weigh as much as frequent ones.
        loss: Of a regression.
    """

    rounds: int = Field(500, ge=1, le=20_000)
    learning_rate: float = Field(0.08, gt=0, le=1)
    depth: int = Field(6, ge=1, le=10)
    l2_leaf_reg: float = Field(3.0, gt=0)
    random_strength: float = Field(1.0, ge=0)
    bagging_temperature: float = Field(0.0, ge=0, le=10)
    rsm: float = Field(0.9, gt=0, le=1)
    border_count: int = Field(128, ge=4, le=254)
    boosting: Literal["plain", "ordered"] = "plain"
    early_stopping: int = Field(40, ge=1)
    balanced: bool = False
    loss: TreeLoss = "l2"


class _CatBoost:
    name = "catboost"
    features: type[Frozen] = TreeFeatures
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        target = target_of(part, params.loss)
        # CatBoost refuses a matrix without a column that varies.
        if target.nothing_to_learn or not _varies(part.x):
            return constant_model(part, target)
        judge = Judge(params.early_stopping, progress)
        callback = _Callback(judge)
        model = catboost.CatBoost(_settings(target, params, seed, judged=len(target.y_validation) > 0))
        train = catboost.Pool(part.x, target.y, weight=row_weights(target.y, target.classes, params.balanced))
        judged = catboost.Pool(target.x_validation, target.y_validation) if len(target.y_validation) else None
        model.fit(train, eval_set=judged, callbacks=[callback])
        if callback.raised is not None:
            raise callback.raised
        forest, bias = forest_of(model, target.outputs)
        kind = "Probability" if target.classes else "Exponent" if target.logarithmic else "RawFormulaVal"

        def native(x: Float32) -> Float64:
            return np.asarray(model.predict(x, prediction_type=kind, thread_count=1), dtype=np.float64)

        return trained(part, target, forest, bias, native, int(model.tree_count_), judge.log)


class _Callback:
    """CatBoost turns what a callback raises into text, so it is kept, and raised again after the fit."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.raised: BaseException | None = None

    def after_iteration(self, info: Any) -> bool:
        losses = next(iter(info.metrics["validation"].values())) if "validation" in info.metrics else None
        try:
            return not self.judge.stops(info.iteration, losses[-1] if losses else None)
        except BaseException as raised:
            self.raised = raised
            return False


def forest_of(model: Any, outputs: int) -> tuple[Forest, Float64]:
    """Return a model's trees, one an output, and the bias (outputs,).

    Leaf b of a tree holds the rows for which split i says bit i of b.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        found = json.loads(path.read_text())
    trees = [_symmetric(tree, outputs) for tree in found["oblivious_trees"]]
    sizes = [len(left) for left, _, _, _ in trees]
    start = np.cumsum([0, *sizes[:-1]])
    shift = np.repeat(start, sizes)
    left = np.concatenate([tree[0] for tree in trees])
    forest = Forest(
        root=start,
        left=np.where(left < 0, -1, left + shift),
        right=np.where(left < 0, -1, left + 1 + shift),  # children lie side by side
        feature=np.concatenate([tree[1] for tree in trees]),
        threshold=np.concatenate([tree[2] for tree in trees]),
        missing_left=np.ones(len(left), dtype=np.bool_),  # a missing value is below every border
        value=np.zeros(len(left)),
    )
    scale, bias = found["scale_and_bias"]
    value = np.concatenate([tree[3] for tree in trees]) * scale
    return per_output(forest, value), np.resize(np.asarray(bias, dtype=np.float64), outputs)


def _symmetric(tree: dict[str, Any], outputs: int) -> tuple[Any, Any, Any, Any]:
    """Lay a symmetric tree out level by level, the split that decides the highest bit first: leaves come out in their order."""
    splits = (tree["splits"] or [])[::-1]
    depth = len(splits)
    inner, total = 2**depth - 1, 2 ** (depth + 1) - 1
    level = np.repeat(np.arange(depth), 2 ** np.arange(depth))
    left = np.full(total, -1, dtype=np.int64)
    left[:inner] = 2 * np.arange(inner) + 1
    feature, threshold, value = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.float32), np.zeros((total, outputs))
    feature[:inner] = np.array([split["float_feature_index"] for split in splits], dtype=np.int64)[level]
    threshold[:inner] = np.array([split["border"] for split in splits], dtype=np.float32)[level]
    value[inner:] = np.asarray(tree["leaf_values"], dtype=np.float64).reshape(-1, outputs)
    return left, feature, threshold, value


def _settings(target: Target, params: Params, seed: int, *, judged: bool) -> dict[str, Any]:
    tuned = params.model_dump(exclude={"rounds", "boosting", "early_stopping", "balanced", "loss"})
    every = {
        **tuned,
        "iterations": params.rounds,
        "loss_function": _LOSS.get(target.problem, _ERROR[params.loss]),
        "boosting_type": params.boosting.capitalize(),
        "bootstrap_type": "Bayesian",
        "random_seed": seed,
        "thread_count": 1,
        "logging_level": "Silent",
        "allow_writing_files": False,
    }
    return {**every, "use_best_model": True} if judged else every


def _varies(x: Float32) -> bool:
    """Whether a column has two values; a missing one counts."""
    first = x[:1]
    return bool(((x != first) & ~(np.isnan(x) & np.isnan(first))).any())


LEARNER = _CatBoost()
