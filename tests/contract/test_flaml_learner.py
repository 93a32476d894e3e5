"""A rival plugs in: FLAML's whole search (Wang et al. 2021) as one learner, in one file, held to the contract of our own."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

sys.path.insert(0, str(Path(__file__).parent))
from test_learners import TabularContract

from components.core.params import Frozen
from components.model.runtime import Float32
from components.train.features import Matrices, prepare
from components.train.learners import Learner, Progress, Trained
from components.train.learners.extra_trees import ForestFeatures, forest_of
from components.train.learners.tabular import Float64, constant_model, fits_tables, loss_of, target_of, trained


class Params(Frozen):
    """How many configurations FLAML tries."""

    trials: int = Field(5, ge=1)


class Flaml:
    """FLAML chooses between random forests and extremely randomised trees; what it finds is exported as LightGBM text."""

    name = "flaml"
    features: type[Frozen] = ForestFeatures
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        from flaml import AutoML

        target = target_of(part)
        if target.nothing_to_learn:
            return constant_model(part, target)
        log: list[dict[str, Any]] = []
        ended = False

        def loss(x: Any, y: Any, estimator: Any, *_: Any, **__: Any) -> tuple[float, dict[str, Any]]:
            nonlocal ended
            said = estimator.predict_proba(x) if target.classes else estimator.predict(x)
            value = math.inf if ended else loss_of(np.asarray(said), np.asarray(y, dtype=np.float64), target.classes)
            log.append({"round": len(log) + 1, "loss": round(value, 9)})
            ended = progress(len(log), -value) or ended
            return value, {}

        judged = {"X_val": target.x_validation, "y_val": target.y_validation} if len(target.y_validation) else {}
        search = AutoML()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search.fit(
                X_train=part.x,
                y_train=target.y,
                **judged,
                task="classification" if target.classes else "regression",
                estimator_list=["extra_tree", "rf"],
                eval_method="holdout",
                split_type="uniform",
                metric=loss,
                max_iter=params.trials,
                time_budget=-1,  # trials, not seconds: what a clock steers can't be repeated
                seed=seed,
                n_jobs=1,
                retrain_full=False,
                verbose=0,
            )
        model = search.model.estimator
        answer = model.predict_proba if target.classes else model.predict

        def native(x: Float32) -> Float64:
            return np.asarray(answer(x), dtype=np.float64)

        forest = forest_of(model, target.outputs)
        return trained(part, target, forest, np.zeros(target.outputs), native, None, log, mean=True)


class TestFlaml(TabularContract):
    name = "flaml"
    params = {"trials": 6}  # noqa: RUF012
    seeded = None

    def learner(self) -> Learner:
        return Flaml()
