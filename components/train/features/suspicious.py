"""Leaks: features that alone tell the target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.params import Tabular
from components.model.plan import Reader
from components.train.data import Rows
from components.train.features.matrices import targets
from components.train.folds import hashed_folds

__all__ = ["suspicious"]

_PERFECT = 0.999
_SKILL = 0.98
"""Share of the majority's errors that a feature must avoid: where one class is rare, accuracy alone says little."""
_FEWEST = 50
_FEWEST_OF_CLASS = 5
_INTERVALS = 256
Float64 = NDArray[np.float64]
Codes = NDArray[np.int64]


def suspicious(task: Tabular, rows: Rows) -> list[str]:
    """Return the features that alone predict the target (almost) perfectly, in the task's order.

    A number is suspicious where its order is the target's (AUC, correlation or rank correlation of .999), any feature where the
    target of its values in one half of the rows is right in the other half. Fewer than 50 rows can't tell.
    """
    if len(rows) < _FEWEST:
        return []
    y, reader = targets(task, rows), Reader(rows.columns)
    first = hashed_folds(rows.keys or [str(index) for index in range(len(rows))], 2).number == 0
    found = []
    for name, kind in task.features.items():
        values = reader.numbers(name) if kind == "number" else None
        if (values is not None and _ordered(values, y, len(task.classes))) or _told(
            _codes(name, values, reader), y, first, len(task.classes)
        ):
            found.append(name)
    return found


def _ordered(values: Float64, y: Float64, classes: int) -> bool:
    """Whether the number's order is that of the target."""
    known = ~np.isnan(values)
    values, y = values[known], y[known]
    if classes > 2 or len(y) < _FEWEST or np.ptp(values) == 0 or np.ptp(y) == 0:
        return False
    ranks = _ranks(values)
    if not classes:
        return max(abs(_correlation(values, y)), abs(_correlation(ranks, _ranks(y)))) >= _PERFECT
    positive = y == 1
    if min(positive.sum(), (~positive).sum()) < _FEWEST_OF_CLASS:
        return False
    auc = (ranks[positive].mean() - (positive.sum() + 1) / 2) / (~positive).sum()
    return bool(max(auc, 1 - auc) >= _PERFECT)


def _told(codes: Codes, y: Float64, first: NDArray[np.bool_], classes: int) -> bool:
    """Whether what a value's rows have in common in one half of the rows is right in the other."""
    size, judged = int(codes.max()) + 1, ~first
    if min(first.sum(), judged.sum()) < _FEWEST // 4 or np.ptp(y[first]) == 0 or np.ptp(y[judged]) == 0:
        return False
    if not classes:
        count = np.bincount(codes[first], minlength=size)
        means = np.bincount(codes[first], weights=y[first] - y[first].mean(), minlength=size) / np.maximum(count, 1)
        left = y[judged] - y[first].mean() - means[codes[judged]]
        return bool((left**2).mean() <= (1 - _PERFECT**2) * y[judged].var())
    number = y.astype(np.int64)
    counts = np.bincount(codes[first] * classes + number[first], minlength=size * classes).reshape(size, classes)
    usual = int(counts.sum(axis=0).argmax())
    answers = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), usual)
    wrong, usually_wrong = (answers[codes[judged]] != number[judged]).mean(), (number[judged] != usual).mean()
    return bool(wrong <= 1 - _PERFECT and wrong <= (1 - _SKILL) * usually_wrong)


def _codes(name: str, values: Float64 | None, reader: Reader) -> Codes:
    """Return (N,) codes: 0 where it is missing, else 1… for its values, or the intervals of a number that has many."""
    if values is None:
        number = {value: index for index, value in enumerate(dict.fromkeys((None, *reader.texts(name))))}
        return np.fromiter(map(number.__getitem__, reader.texts(name)), np.int64, len(reader.texts(name)))
    known = np.unique(values[~np.isnan(values)])
    if len(known) > _INTERVALS:
        known = np.unique(np.quantile(values[~np.isnan(values)], np.linspace(0, 1, _INTERVALS), method="lower"))
    return np.where(np.isnan(values), 0, np.searchsorted(known, values, side="right"))


def _ranks(values: Float64) -> Float64:
    """Return ranks from 1; equal values share theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


def _correlation(left: Float64, right: Float64) -> float:
    left, right = left - left.mean(), right - right.mean()
    norm = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / norm if norm > 0 else 0.0
