"""Which features tell most about the label: the gain that a few shallow boosted trees draw from each."""

from __future__ import annotations

import numpy as np

from components.core.params import Tabular
from components.train.data import Data
from components.train.features import Features, matrices
from components.train.reproducible import reproducible

__all__ = ["ranking"]

_FEWEST = 8
_ROUNDS = 60
_CODED = Features(fill="none", indicator=False, scale="none", category="code")
"""One matrix column a feature."""


def ranking(data: Data, seed: int) -> tuple[str, ...]:
    """Return the task's features, the most useful first, from training rows alone.

    Empty for lines of text, and for fewer than eight features: there is nothing to leave out.
    """
    task = data.task
    if not isinstance(task, Tabular) or len(task.features) < _FEWEST or not len(data.train) or not len(data.validation):
        return ()
    import lightgbm

    with reproducible():
        m = matrices(data, _CODED)
        settings = {
            "objective": "regression" if not m.classes else "multiclass",
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "num_leaves": 15,
            "min_data_in_leaf": min(20, max(1, len(m.y) // 10)),
            "seed": seed,
            "verbosity": -1,
        }
        if m.classes:
            settings["num_class"] = m.classes
        train = lightgbm.Dataset(m.x, m.y, categorical_feature=m.plan.coded or "auto", params=settings)
        booster = lightgbm.train(settings, train, num_boost_round=_ROUNDS)
    gain = np.asarray(booster.feature_importance("gain"))
    names = [column.name for column in m.plan.columns]
    return tuple(names[index] for index in np.argsort(-gain, kind="stable"))
