"""Predicting from a row: a plan in JSON turns mixed, incomplete columns into a float32 matrix, everywhere in the same way.

The plan is learned once, from training rows (`learn_plan`), kept in `model.json`, and executed by train, evaluate and serving
(`transform`). Shapes: N rows, D matrix columns, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from components.core.errors import DataError, IntegrityError
from components.core.params import Frozen, Tabular
from components.model.answer import Answer
from components.model.runtime import Float32, Scores

__all__ = ["Category", "Columns", "Number", "Plan", "TabularModel", "columns_of", "transform", "width"]

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
"""Feature name -> N values: numbers (NaN or None is missing) or texts (None is missing)."""

_CLIP = 10.0
MISSING, OTHER = 0, 1
"""Codes of a category that is missing, and of one that is rare or was never seen."""


class Number(Frozen):
    """One numeric feature.

    Attributes:
        fill: Stands for missing values, before scaling; None leaves them NaN (only trees can take that).
        indicator: Adds a column that is 1 where the value is missing.
        log: Takes sign(v) * log(1 + |v|) first.
        center: Is subtracted.
        scale: Is divided by; results are clipped to ±10 unless it is 1 and `center` 0.
    """

    kind: Literal["number"] = "number"
    name: str
    fill: float | None = 0.0
    indicator: bool = False
    log: bool = False
    center: float = 0.0
    scale: float = Field(1.0, gt=0)


class Category(Frozen):
    """One categorical feature.

    Attributes:
        encoding: `code`: one column, 0 missing, 1 rare or unseen, 2… the values; `onehot`: a column for each of those;
            `frequency`: one column, the value's share of the training rows.
        values: The known values, most frequent first.
        shares: Shares of missing, of rare, and of each value, among the training rows.
    """

    kind: Literal["category"] = "category"
    name: str
    encoding: Literal["code", "onehot", "frequency"]
    values: tuple[str, ...]
    shares: tuple[float, ...]


class Plan(Frozen):
    """The columns of the matrix, in order."""

    columns: tuple[Annotated[Number | Category, Field(discriminator="kind")], ...]

    @property
    def coded(self) -> list[int]:
        """Indices of matrix columns that hold category codes."""
        found, at = [], 0
        for column in self.columns:
            if isinstance(column, Category) and column.encoding == "code":
                found.append(at)
            at += width(column)
        return found


def width(column: Number | Category) -> int:
    """Return how many matrix columns a feature becomes."""
    if isinstance(column, Number):
        return 1 + column.indicator
    return 2 + len(column.values) if column.encoding == "onehot" else 1


def transform(plan: Plan, columns: Columns) -> Float32:
    """Execute the plan.

    Args:
        plan: Made by `components.train.features.learn_plan`.
        columns: Every feature the plan names; others are ignored.

    Returns:
        (N, D) the matrix.

    Raises:
        DataError: A feature is missing, or a value is of the wrong type.
    """
    for column in plan.columns:
        if column.name not in columns:
            raise DataError(f"feature '{column.name}' is missing", do="give every feature of the model; null stands for a missing value")
    parts = [part for column in plan.columns for part in _encoded(column, columns[column.name])]
    if not parts:
        raise DataError("the plan has no features", do="leave at least one feature in the recipe")
    return np.stack(parts, axis=1).astype(np.float32)


def _encoded(column: Number | Category, values: Sequence[Any] | NDArray[Any]) -> list[NDArray[np.float64]]:
    if isinstance(column, Number):
        return _number(column, numbers(column.name, values))
    code = codes(column, values)
    if column.encoding == "code":
        return [code.astype(np.float64)]
    if column.encoding == "frequency":
        return [np.asarray(column.shares, dtype=np.float64)[code]]
    return list((code[None, :] == np.arange(2 + len(column.values))[:, None]).astype(np.float64))


def _number(column: Number, value: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    missing = np.isnan(value)
    if column.log:
        value = np.sign(value) * np.log1p(np.abs(value))
    if column.fill is not None:
        value = np.where(missing, column.fill, value)
    if column.scale != 1.0 or column.center != 0.0:
        value = np.clip((value - column.center) / column.scale, -_CLIP, _CLIP)
    return [value, missing.astype(np.float64)] if column.indicator else [value]


def numbers(name: str, values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    """Return (N,) float64; missing and infinite values become NaN.

    Raises:
        DataError: A value is no number.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        for value in values:
            if value is not None and (isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number)):
                raise DataError(f"feature '{name}' is {value!r}, a number is expected", do="give a number, or null")
        values = [math.nan if value is None else float(value) for value in values]
    found = np.asarray(values, dtype=np.float64)
    # Beyond float32 a value would turn infinite in the matrix.
    return np.where(np.abs(found) < np.finfo(np.float32).max, found, np.nan)


def codes(column: Category, values: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Return (N,) codes: `MISSING`, `OTHER`, or 2 + the position in `column.values`.

    Raises:
        DataError: A value is no text.
    """
    known = {value: index + 2 for index, value in enumerate(column.values)}
    found = np.empty(len(values), dtype=np.int64)
    for index, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            found[index] = MISSING
        elif isinstance(value, str):
            found[index] = known.get(value, OTHER)
        else:
            raise DataError(f"feature '{column.name}' is {value!r}, a text is expected", do="give a text, or null")
    return found


def columns_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Turn rows into columns.

    Raises:
        DataError: A row lacks a feature.
    """
    try:
        return {name: [row[name] for row in rows] for name in names}
    except KeyError as error:
        raise DataError(f"feature {error} is missing", do="give every feature of the model; null stands for a missing value") from None


class TabularModel:
    """Executes a tabular model.

    Raises:
        IntegrityError: The preprocessing in `model.json` is not what this code executes.
    """

    def __init__(self, task: Tabular, preprocessing: Mapping[str, Any], scores: Scores) -> None:
        try:
            self.plan = Plan.model_validate(preprocessing)
        except ValidationError as error:
            raise IntegrityError(f"the preprocessing can't be read: {error.errors()[0]['msg']}", do="train the model again") from error
        if strange := sorted({column.name for column in self.plan.columns} - set(task.features)):
            raise IntegrityError(f"the preprocessing uses features that its task lacks: {strange}", do="train the model again")
        self.task = task
        self._scores = scores

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when a feature is missing or of the wrong type."""
        columns = columns_of([row], list(self.task.features))
        for name, kind in self.task.features.items():
            if kind == "number":
                numbers(name, columns[name])
            elif columns[name][0] is not None and not isinstance(columns[name][0], str):
                raise DataError(f"feature '{name}' is {columns[name][0]!r}, a text is expected", do="give a text, or null")

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answer rows of features."""
        return self.answers_of_columns(columns_of(rows, [column.name for column in self.plan.columns]))

    def answers_of_columns(self, columns: Columns) -> list[Answer]:
        """Answer columns of features."""
        raw = self._scores(transform(self.plan, columns))
        if self.task.problem == "regression":
            return [Answer(float(value), 1.0) for value in raw.reshape(len(raw))]
        return [self._classified(row) for row in probabilities(raw, len(self.task.classes))]

    def _classified(self, row: NDArray[np.float64]) -> Answer:
        best = int(row.argmax())
        return Answer(self.task.classes[best], float(row[best]), {name: float(p) for name, p in zip(self.task.classes, row, strict=True)})


def probabilities(raw: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Return (N, K); LightGBM gives a binary task only the positive class's column.

    Raises:
        IntegrityError: The output does not fit the number of classes.
    """
    if classes == 2 and raw.size == len(raw):
        positive = raw.reshape(len(raw), 1)
        raw = np.concatenate([1.0 - positive, positive], axis=1)
    if raw.shape != (len(raw), classes):
        raise IntegrityError(f"the model's output has shape {raw.shape}, not (N, {classes})", do="train the model again")
    return raw
