"""lightgbm: gradient-boosted trees (Ke et al. 2017). Takes missing values and category codes as they are."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
from pydantic import Field

from components.core.params import Frozen
from components.model.runtime import scores_of_text
from components.train.features import Matrices, prepare
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import Judge, TreeFeatures, TreeLoss, constant_model, fits_tables, row_weights, target_of

__all__ = ["LEARNER"]

_OBJECTIVE = {"binary": "binary", "multiclass": "multiclass"}
_REGRESSION = {"l2": "regression", "l1": "regression_l1", "huber": "huber", "poisson": "poisson"}
_FIXED = {"deterministic": True, "num_threads": 1, "bagging_freq": 1, "verbosity": -1, "feature_pre_filter": False}
_WIDE = 200  # columns from which histograms column by column are built faster
_OURS = {"rounds", "early_stopping", "balanced", "loss"}


class Params(Frozen):
    """The recipe's `params`; the names and meanings are LightGBM's.

    Attributes:
        rounds: At most; exactly, when there are no rows to judge by.
        max_depth: -1: no limit.
        lambda_l1: For numbers in units of their standard deviation.
        min_gain_to_split: For numbers in units of their variance.
        early_stopping: Rounds without a better validation loss after which it stops.
        balanced: Whether rare classes weigh as much as frequent ones.
        loss: Of a regression.
    """

    rounds: int = Field(500, ge=1, le=20_000)
    learning_rate: float = Field(0.08, gt=0, le=1)
    num_leaves: int = Field(31, ge=2, le=4096)
    max_depth: int = Field(-1, ge=-1, le=64)
    min_data_in_leaf: int = Field(20, ge=1)
    feature_fraction: float = Field(0.8, gt=0, le=1)
    bagging_fraction: float = Field(0.9, gt=0, le=1)
    lambda_l1: float = Field(0.0, ge=0)
    lambda_l2: float = Field(1.0, ge=0)
    min_gain_to_split: float = Field(0.0, ge=0)
    path_smooth: float = Field(0.0, ge=0)
    extra_trees: bool = False
    max_bin: int = Field(127, ge=3, le=4095)
    cat_smooth: float = Field(10.0, ge=0)
    cat_l2: float = Field(10.0, ge=0)
    early_stopping: int = Field(40, ge=1)
    balanced: bool = False
    loss: TreeLoss = "l2"


class _LightGbm:
    name = "lightgbm"
    features: type[Frozen] = TreeFeatures
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        target = target_of(part, params.loss)
        if target.nothing_to_learn:
            return constant_model(part, target)
        judge = Judge(params.early_stopping, progress)
        booster = _booster(part, params, target.problem, target.spread, seed, judge)
        rounds = judge.best_round or booster.num_trees() // max(1, booster.num_model_per_iteration())
        text = booster.model_to_string(num_iteration=rounds)
        return Trained("lightgbm", text.encode(), scores_of_text(text.encode()), rounds, judge.log)


def _booster(m: Matrices, params: Params, problem: str, spread: float, seed: int, judge: Judge) -> Any:
    every = _settings(m, params, problem, spread, seed)
    names = [f"c{index}" for index in range(m.x.shape[1])]
    weight = row_weights(m.y, m.classes, params.balanced)
    train = lgb.Dataset(m.x, m.y, weight=weight, feature_name=names, categorical_feature=list(m.coded), params=every)
    judged = [lgb.Dataset(m.x_validation, m.y_validation, reference=train, params=every)] if len(m.y_validation) else []

    def ask(env: Any) -> None:
        losses = env.evaluation_result_list
        if judge.stops(env.iteration + 1, float(np.float64(losses[0][2])) if losses else None):
            raise lgb.callback.EarlyStopException(env.iteration, losses)

    return lgb.train(every, train, num_boost_round=params.rounds, valid_sets=judged, valid_names=["v"] * len(judged), callbacks=[ask])


def _settings(m: Matrices, params: Params, problem: str, spread: float, seed: int) -> dict[str, Any]:
    every = {**params.model_dump(exclude=_OURS), **_FIXED, "objective": _OBJECTIVE.get(problem, _REGRESSION[params.loss]), "seed": seed}
    every["force_col_wise" if m.x.shape[1] >= _WIDE else "force_row_wise"] = True
    # A leaf must not ask for more rows than a tiny table has.
    every["min_data_in_leaf"] = min(params.min_data_in_leaf, max(1, len(m.y) // 10))
    if problem == "multiclass":
        every["num_class"] = m.classes
    elif problem == "regression" and params.loss != "poisson":
        every.update(lambda_l1=params.lambda_l1 * spread, min_gain_to_split=params.min_gain_to_split * spread**2, alpha=spread)
    return every


LEARNER = _LightGbm()
