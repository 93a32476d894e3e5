"""Keeping the best columns: each fold's own ranking, from a sample of the rows that its model learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from components.model.plan import Coded, Plan
from components.train.features.matrices import Matrices

__all__ = ["best_view"]

_ROUNDS = 30
_FEWEST = 20


def best_view(plan: Plan, fold: int, part: Matrices, share: float) -> tuple[int, ...]:
    """Return the matrix columns that the fold's model keeps: those of the best `share` of the plan's columns, at least one.

    Args:
        plan: Without views.
        fold: Which fold.
        part: A sample of what its model learns from; the judged rows are not looked at.
        share: Of the plan's columns. Too few rows to rank by keep them all.
    """
    if len(part.y) < _FEWEST:
        return plan.columns_of(fold)
    import lightgbm

    settings = {
        "objective": "multiclass" if part.classes > 2 else "binary" if part.classes else "regression",
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "num_leaves": 15,
        "min_data_in_leaf": min(20, max(1, len(part.y) // 10)),
        "seed": 0,
        "verbosity": -1,
        **({"num_class": part.classes} if part.classes > 2 else {}),
    }
    train = lightgbm.Dataset(part.x, part.y, categorical_feature=list(part.coded) or "auto", params=settings)
    gain = lightgbm.train(settings, train, num_boost_round=_ROUNDS).feature_importance("gain")
    owners = _owners(plan, fold)
    total = np.bincount(owners, weights=gain, minlength=len(plan.columns))
    kept = set(np.argsort(-total, kind="stable")[: max(1, math.ceil(share * len(plan.columns)))].tolist())
    return tuple(column for column, owner in zip(plan.columns_of(fold), owners, strict=True) if owner in kept)


def _owners(plan: Plan, fold: int) -> Sequence[int]:
    """Return which of the plan's columns each matrix column that the fold sees comes from."""
    shared = [index for index, column in enumerate(plan.columns) for _ in range(column.width)]
    own = [index for index, column in enumerate(plan.columns) if isinstance(column, Coded) for _ in range(column.fold_width)]
    return shared + own
