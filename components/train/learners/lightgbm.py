"""lightgbm: gradient-boosted trees (Ke et al. 2017). Takes missing values and category codes as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightgbm as lgb
import numpy as np
from pydantic import Field

from components.core.params import Frozen, Tabular, Task
from components.model.lightgbm_text import check_trees
from components.model.runtime import scores_of_booster
from components.train.data import Data
from components.train.features import Encoding, Features, Fill, Matrices, Scale, matrices
from components.train.learners.base import Progress, Trained, options

__all__ = ["LEARNER"]

_OBJECTIVE = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
_METRIC = {"binary": "binary_logloss", "multiclass": "multi_logloss", "regression": "l2"}


class TreeFeatures(Features):
    """The recipe's `features`; the defaults leave to the trees what trees do best."""

    fill: Fill = "none"
    indicator: bool = False
    scale: Scale = "none"
    category: Encoding = "code"


class Params(Frozen):
    """The recipe's `params`; the names and meanings are LightGBM's.

    Attributes:
        early_stopping: Rounds without a better validation loss after which it stops.
    """

    rounds: int = Field(400, ge=1, le=20_000)
    learning_rate: float = Field(0.05, gt=0, le=1)
    num_leaves: int = Field(31, ge=2, le=4096)
    min_data_in_leaf: int = Field(20, ge=1)
    feature_fraction: float = Field(0.9, gt=0, le=1)
    bagging_fraction: float = Field(0.9, gt=0, le=1)
    lambda_l1: float = Field(0.0, ge=0)
    lambda_l2: float = Field(1.0, ge=0)
    cat_smooth: float = Field(10.0, ge=0)
    early_stopping: int = Field(40, ge=1)


class _LightGbm:
    name = "lightgbm"
    features: type[Frozen] = TreeFeatures
    params: type[Frozen] = Params

    def fits(self, task: Task) -> bool:
        return isinstance(task, Tabular)

    def train(self, data: Data, features: Mapping[str, Any], params: Mapping[str, Any], *, seed: int, progress: Progress) -> Trained:
        given = options(Params, params, "params of lightgbm")
        m = matrices(data, options(TreeFeatures, features, "features of lightgbm"))
        booster, history = _fit(m, given, seed, progress)
        text = booster.model_to_string(num_iteration=booster.best_iteration)
        check_trees(text.encode())
        loaded = lgb.Booster(model_str=text)
        log = [{"round": index + 1, "loss": round(value, 9)} for index, value in enumerate(history)]
        return Trained("lightgbm", text.encode(), m.plan.model_dump(mode="json"), scores_of_booster(loaded), log)


def _fit(m: Matrices, params: Params, seed: int, progress: Progress) -> tuple[Any, list[float]]:
    problem = "regression" if not m.classes else "binary" if m.classes == 2 else "multiclass"
    names = [f"c{index}" for index in range(m.x.shape[1])]
    fixed = {
        "objective": _OBJECTIVE[problem],
        "metric": _METRIC[problem],
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "seed": seed,
        "bagging_freq": 1,
        "verbosity": -1,
        "feature_pre_filter": False,
    }
    if problem == "multiclass":
        fixed["num_class"] = m.classes
    # A leaf must not ask for more rows than a tiny table has.
    tuned = params.model_dump(exclude={"rounds", "early_stopping"})
    tuned["min_data_in_leaf"] = min(params.min_data_in_leaf, max(1, len(m.y) // 10))
    every = {**fixed, **tuned}
    coded = m.plan.coded or "auto"
    train = lgb.Dataset(m.x, m.y, feature_name=names, categorical_feature=coded, params=every)
    valid = lgb.Dataset(m.x_validation, m.y_validation, reference=train, params=every)
    history: dict[str, Any] = {}

    def ask(env: Any) -> None:
        if progress(env.iteration + 1, -float(env.evaluation_result_list[0][2])):
            raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    booster = lgb.train(
        every,
        train,
        num_boost_round=params.rounds,
        valid_sets=[valid],
        valid_names=["validation"],
        callbacks=[lgb.early_stopping(params.early_stopping, verbose=False), lgb.record_evaluation(history), ask],
    )
    losses = next(iter(history["validation"].values())) if history else []
    return booster, [float(np.float64(value)) for value in losses]


LEARNER = _LightGbm()
