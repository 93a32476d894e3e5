"""Metrics of arrays, for the inner loop of a search; `components.evaluate.metrics` measures answers in the same units.

Shapes: N rows, K classes (1 for numbers).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.params import Tabular

__all__ = ["Floats", "as_matrix", "mean_over_folds", "measure", "trivial"]

Floats = NDArray[np.float32] | NDArray[np.float64]
_TINY = 1e-7


def as_matrix(raw: Floats, classes: int) -> NDArray[np.float32]:
    """Return a learner's scores as (N, K): a binary learner may give the positive class alone."""
    raw = np.asarray(raw, dtype=np.float32)
    if classes == 2 and raw.size == len(raw):
        positive = raw.reshape(len(raw), 1)
        return np.concatenate([1 - positive, positive], axis=1)
    return raw.reshape(len(raw), max(classes, 1))


def measure(metric: str, y: NDArray[np.float64], p: Floats) -> float:
    """Return the metric of predictions; NaN where it is undefined (one class alone, no rows).

    Args:
        metric: auc, accuracy, logloss, rmse or mae.
        y: (N,) class numbers, or values.
        p: (N, K) probabilities, or (N, 1) values.
    """
    if not len(y):
        return float("nan")
    if metric == "auc":
        return _auc(y, p[:, 1])
    if metric == "accuracy":
        return float((p.argmax(axis=1) == y).mean())
    if metric == "logloss":
        # A weighted mean of probabilities sums to one; float32 does not quite.
        chosen = p[np.arange(len(y)), y.astype(np.int64)] / p.sum(axis=1)
        return float(-np.log(np.clip(chosen, _TINY, 1 - _TINY)).mean())
    off = p[:, 0].astype(np.float64) - y
    return float(np.sqrt((off**2).mean())) if metric == "rmse" else float(np.abs(off).mean())


def mean_over_folds(metric: str, y: NDArray[np.float64], p: Floats, fold: NDArray[np.int64], folds: int) -> float:
    """Return the mean of the folds' metrics; folds where it is undefined are left out, NaN when it is undefined in all.

    Fold by fold, because each was predicted by another model, and models' scores need not be comparable.
    """
    values = [measure(metric, y[rows], p[rows]) for rows in (fold == number for number in range(folds)) if rows.any()]
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def trivial(task: Tabular, y: NDArray[np.float64]) -> float:
    """Return what a constant answer scores: the zero point of skill."""
    if task.problem == "regression":
        constant = np.full((len(y), 1), np.median(y) if task.metric == "mae" else y.mean())
        return measure(task.metric, y, constant)
    shares = np.bincount(y.astype(np.int64), minlength=len(task.classes)) / len(y)
    return 0.5 if task.metric == "auc" else measure(task.metric, y, np.tile(shares, (len(y), 1)))


def _auc(y: NDArray[np.float64], p: Floats) -> float:
    up, down = p[y == 1], np.sort(p[y == 0])
    if not len(up) or not len(down):
        return float("nan")
    below = np.searchsorted(down, up, "left") + np.searchsorted(down, up, "right")  # a tie counts half
    return float(below.sum() / (2.0 * len(up) * len(down)))
