"""The figures a model is judged by, in plain numpy. train, automl and evaluate all use these and no others.

Each figure is a *measure*: a function of row weights, so that one definition gives the point value (all weights 1) and every
bootstrap resample (weights = how often the row was drawn), paired between two models by using the same weights.

Shapes: n rows, B weightings; weights (B, n), a measure's result (B,). Undefined figures (AUC of one class, no rows) are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.params import Tabular, TextLine

__all__ = [
    "LOWER_IS_BETTER",
    "Answered",
    "Floats",
    "Measure",
    "correct",
    "divide",
    "edit_distance",
    "finite",
    "measures",
    "positive",
    "score",
]

Floats = NDArray[np.float64]
Measure = Callable[[Floats], Floats]

LOWER_IS_BETTER = frozenset({"cer", "logloss", "brier", "rmse", "mae"})
_TINY = 1e-7  # probabilities are clipped to [_TINY, 1 - _TINY]: one sure mistake costs 16 nats, not infinity


class Answered(Protocol):
    """What a model said about one row; `components.model.Answer` is one."""

    @property
    def label(self) -> Any: ...
    @property
    def confidence(self) -> float: ...
    @property
    def scores(self) -> Mapping[str, float] | None: ...


def score(task: TextLine | Tabular, labels: Sequence[Any], answers: Sequence[Answered]) -> dict[str, float]:
    """Return every figure of the task; the deciding one is `task.metric`.

    Args:
        task: Decides which figures: text lines have exact_match and cer (character error rate); binary auc, logloss, brier and
            accuracy; multiclass accuracy and logloss; regression rmse and mae.
        labels: The truth, n values.
        answers: The model's answers, in the same order.

    Raises:
        DataError: The two differ in length, or an answer lacks a class's score.
    """
    ones = np.ones((1, len(labels)))
    return {name: float(measure(ones)[0]) for name, measure in measures(task, labels, answers).items()}


def measures(task: TextLine | Tabular, labels: Sequence[Any], answers: Sequence[Answered]) -> dict[str, Measure]:
    """Return the task's figures as functions of row weights; Args and Raises as in `score`."""
    if len(labels) != len(answers):
        raise DataError(f"{len(labels)} labels came with {len(answers)} answers", do="give one answer a label, in the same order")
    if isinstance(task, TextLine):
        truth = [str(label) for label in labels]
        edits = np.array([edit_distance(t, str(a.label)) for t, a in zip(truth, answers, strict=True)], dtype=np.float64)
        lengths = np.array([len(t) for t in truth], dtype=np.float64)
        return {"exact_match": _mean(correct(task, labels, answers)), "cer": _ratio(edits, lengths)}
    if task.problem == "regression":
        error = np.array([float(a.label) for a in answers]) - np.array([float(label) for label in labels])
        return {"rmse": _root(_mean(error**2)), "mae": _mean(np.abs(error))}
    figures = {"accuracy": _mean(correct(task, labels, answers)), "logloss": _mean(_surprise(task, labels, answers))}
    if task.problem == "binary":
        p = positive(task, answers)
        y = np.array([label == task.classes[1] for label in labels], dtype=np.float64)
        return {"auc": _auc(y, p), **figures, "brier": _mean((p - y) ** 2)}
    return figures


def correct(task: TextLine | Tabular, labels: Sequence[Any], answers: Sequence[Answered], *, spread: float | None = None) -> Floats:
    """Return (n,) 1.0 where the answer equals the label.

    A number is right when it is off by at most a tenth of `spread` (default: the standard deviation of `labels`), or equal to
    six digits. Give the whole data set's spread to judge a few rows.
    """
    if isinstance(task, Tabular) and task.problem == "regression":
        truth = np.array([float(label) for label in labels], dtype=np.float64)
        off = np.abs(np.array([float(a.label) for a in answers], dtype=np.float64) - truth)
        if spread is None:
            spread = float(np.std(truth)) if len(truth) else 0.0
        return (off <= np.maximum(0.1 * spread, 1e-6 * np.maximum(np.abs(truth), 1))).astype(np.float64)
    return np.array([str(a.label) == str(label) for label, a in zip(labels, answers, strict=True)], dtype=np.float64)


def positive(task: Tabular, answers: Sequence[Answered]) -> Floats:
    """Return (n,) probabilities of the positive class (`task.classes[1]`) of a binary task."""
    return np.array([_probability(a, task.classes[1], task) for a in answers], dtype=np.float64)


def edit_distance(truth: str, said: str) -> int:
    """Return the Levenshtein distance: the fewest insertions, deletions and substitutions."""
    if truth == said:
        return 0
    above = list(range(len(said) + 1))
    for i, t in enumerate(truth, 1):
        row = [i]
        for j, s in enumerate(said, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (t != s)))
        above = row
    return above[-1]


def divide(above: Floats, below: Floats) -> Floats:
    """Return (B,) quotients; NaN where `below` is 0."""
    quotient: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return quotient


def finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return the figures as JSON can hold them: undefined ones become null."""
    return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}


def _probability(answer: Answered, label: str, task: Tabular) -> float:
    if answer.scores is None:  # a binary model that tells only its choice and how sure it is
        if task.problem != "binary":
            raise DataError(f"an answer of a {task.problem} model has no scores", do="let the model give one score a class")
        return answer.confidence if str(answer.label) == label else 1 - answer.confidence
    if label not in answer.scores:
        raise DataError(f"an answer has no score for class '{label}'", do=f"the model must know all classes: {', '.join(task.classes)}")
    return answer.scores[label]


def _surprise(task: Tabular, labels: Sequence[Any], answers: Sequence[Answered]) -> Floats:
    p = np.array([_probability(a, str(label), task) for label, a in zip(labels, answers, strict=True)], dtype=np.float64)
    surprise: Floats = -np.log(np.clip(p, _TINY, 1 - _TINY))
    return surprise


def _mean(values: Floats) -> Measure:
    return _ratio(values, np.ones_like(values))


def _ratio(above: Floats, below: Floats) -> Measure:
    def measure(weights: Floats) -> Floats:
        return divide(weights @ above, weights @ below)

    return measure


def _root(measure: Measure) -> Measure:
    def root(weights: Floats) -> Floats:
        result: Floats = np.sqrt(measure(weights))
        return result

    return root


def _auc(y: Floats, p: Floats) -> Measure:
    """Return the weighted Mann-Whitney statistic: P(positive scores above negative), ties count half."""
    order = np.argsort(p, kind="stable")
    y, p = y[order], p[order]
    starts = np.flatnonzero(np.diff(p, prepend=-np.inf)) if len(p) else np.zeros(0, dtype=np.intp)

    def measure(weights: Floats) -> Floats:
        if not len(y):
            return np.full(len(weights), np.nan)
        ordered = weights[:, order]
        # sums per tie: a positive beats all negatives of lower ties and half of its own
        up = np.add.reduceat(ordered * y, starts, axis=1)
        down = np.add.reduceat(ordered * (1 - y), starts, axis=1)
        below = np.cumsum(down, axis=1) - down
        pairs = up.sum(axis=1) * down.sum(axis=1)
        return divide((up * (below + down / 2)).sum(axis=1), pairs)

    return measure
