"""Columns learned from labels: target encoding (Micci-Barreca 2001) and weight of evidence, once a fold and out of fold within it.

Shapes: N rows, L rows a fold's model learns from, S codes, C columns a category (one for a number or two classes, else one a class).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.model.plan import Bins, Category, Joined, Reader
from components.model.runtime import Float32
from components.train.features.coded import Draft, Method
from components.train.folds import INNER, Folds

__all__ = ["with_labels"]

_MOST_CLASSES = 10
_DIGITS = 6
_SMALL = 1e-6
Float64 = NDArray[np.float64]
Codes = NDArray[np.int64]


def with_labels(
    draft: Draft, reader: Reader, y: Float64, classes: int, folds: Folds, smoothing: float
) -> tuple[Category | Bins | Joined, list[Float32]]:
    """Learn a column's tables.

    Returns:
        The column, and for each fold what its learning rows see: (L, columns of the fold).
    """
    if not draft.methods:
        return draft.column, []
    codes = draft.column.read(reader)
    tables, seen = [], []
    for fold in range(folds.count):
        rows = folds.learned(fold)
        inner = folds.inner[rows]
        table: list[tuple[float, ...]] = []
        columns: list[Float32] = []
        for target, method in _targets(y, rows, classes, draft.methods):
            # Rounded, so that sums that cancel leave a plain 0.
            encoded = np.round(_encoded(codes[rows], inner, target, draft.column.size, smoothing, method), _DIGITS)
            table.append(tuple(encoded[-1].tolist()))
            columns.append(encoded[inner, codes[rows]].astype(np.float32))
        tables.append(tuple(table))
        seen.append(np.stack(columns, axis=1))
    return draft.column.model_copy(update={"tables": tuple(tables)}), seen


def _targets(y: Float64, rows: NDArray[np.intp], classes: int, methods: Sequence[Method]) -> list[tuple[Float64, Method]]:
    """Return what is averaged, for each column: the value, whether it is class 1, or whether it is each of the frequent classes."""
    learned = y[rows]
    if not classes:
        return [(learned, "target")]
    counts = np.bincount(learned.astype(np.int64), minlength=classes)
    wanted = [1] if classes == 2 else np.sort(np.argsort(-counts, kind="stable")[:_MOST_CLASSES]).tolist()
    return [((learned == number).astype(np.float64), method) for method in methods for number in wanted]


def _encoded(codes: Codes, inner: Codes, target: Float64, size: int, smoothing: float, method: Method) -> Float64:
    """Return (INNER + 1, S) what a code becomes: learned from the rows outside each inner part, and at last from all rows.

    A row's own label enters nothing that the row sees, not even the overall mean: a code without a row elsewhere is exactly 0.
    """
    cells = inner * size + codes
    counts = np.bincount(cells, minlength=INNER * size).reshape(INNER, size)
    sums, squares = (np.bincount(cells, weights=weights, minlength=INNER * size).reshape(INNER, size) for weights in (target, target**2))
    count, total, square = (np.vstack([all_.sum(axis=0) - all_, all_.sum(axis=0)]) for all_ in (counts, sums, squares))
    rows = np.maximum(count.sum(axis=1, keepdims=True), 1)
    prior = total.sum(axis=1, keepdims=True) / rows
    means = (total + smoothing * prior) / (count + smoothing)
    if method == "woe":
        some = (prior > 0) & (prior < 1)  # without either class there is no evidence
        return np.asarray(_log_odds(np.where(some, means, 0.5)) - _log_odds(np.where(some, prior, 0.5)))
    unit = np.sqrt(np.maximum(square.sum(axis=1, keepdims=True) / rows - prior**2, 0.0))
    return np.asarray((means - prior) / np.where(unit > _SMALL * np.maximum(1.0, np.abs(prior)), unit, 1.0))


def _log_odds(share: Float64) -> Float64:
    return np.asarray(np.log(share) - np.log1p(-share))
