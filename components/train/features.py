"""From training rows and a recipe's `features` to a plan that `components.model.tabular` executes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.core.errors import ConfigError, DataError, nearest
from components.core.params import Frozen, Tabular
from components.model.runtime import Float32
from components.model.tabular import Category, Columns, Number, Plan, numbers, transform
from components.train.data import Data, Rows

__all__ = ["Encoding", "Features", "Fill", "Log", "Matrices", "Scale", "learn_plan", "matrices"]

_SKEWED = 2.0
Float64 = NDArray[np.float64]
Fill = Literal["none", "mean", "median"]
Log = Literal["none", "auto"]
Scale = Literal["none", "standard"]
Encoding = Literal["code", "onehot", "frequency"]


class Features(Frozen):
    """The recipe's `features` of a tabular learner.

    Attributes:
        drop: Features left out.
        fill: What stands for a missing number; `none` leaves it missing, which only trees can take.
        indicator: Whether a number with missing values gets a column that says so.
        log: `auto` takes the logarithm of numbers whose skewness is above 2.
        scale: Whether numbers are centred and scaled.
        category: How categories become numbers, see `components.model.tabular.Category`.
        min_count: Values seen less often count as rare.
        max_values: At most this many values a category keep a code of their own.
    """

    drop: tuple[str, ...] = ()
    fill: Fill = "median"
    indicator: bool = True
    log: Log = "none"
    scale: Scale = "standard"
    category: Encoding = "onehot"
    min_count: int = Field(5, ge=1)
    max_values: int = Field(50, ge=1, le=1000)


@dataclass(frozen=True)
class Matrices:
    """What a tabular learner fits on: N rows, D columns, K classes.

    Attributes:
        plan: Makes a matrix from columns.
        x: (N, D) training matrix.
        y: (N,) class numbers as float, or the values.
        x_validation: (V, D).
        y_validation: (V,).
        classes: K; 0 for regression.
    """

    plan: Plan
    x: Float32
    y: Float64
    x_validation: Float32
    y_validation: Float64
    classes: int


def matrices(data: Data, features: Features) -> Matrices:
    """Learn a plan from the training rows and execute it on both splits.

    Raises:
        DataError: The task is not tabular, or there is no usable feature.
        ConfigError: `features.drop` names an unknown feature.
    """
    task = data.task
    if not isinstance(task, Tabular):
        raise DataError("this learner learns from tables only", do="use a learner for lines of text")
    plan = learn_plan(task, features, data.train.columns)
    x, x_validation = transform(plan, data.train.columns), transform(plan, data.validation.columns)
    return Matrices(plan, x, _targets(task, data.train), x_validation, _targets(task, data.validation), len(task.classes))


def learn_plan(task: Tabular, features: Features, columns: Columns) -> Plan:
    """Learn fill values, scales and vocabularies from training columns.

    Raises:
        ConfigError: `features.drop` names an unknown feature, or all of them.
    """
    for name in features.drop:
        if name not in task.features:
            raise ConfigError(f"features.drop names '{name}'", do=nearest(name, task.features))
    kept = {name: kind for name, kind in task.features.items() if name not in features.drop}
    if not kept:
        raise ConfigError("features.drop leaves no feature", do="keep at least one")
    learned: list[Number | Category] = []
    for name, kind in kept.items():
        learned.append(_number(name, columns[name], features) if kind == "number" else _category(name, columns[name], features))
    return Plan(columns=tuple(learned))


def _number(name: str, values: Sequence[Any] | NDArray[Any], features: Features) -> Number:
    found = numbers(name, values)
    known = found[~np.isnan(found)]
    log = features.log == "auto" and _skewness(known) > _SKEWED
    if log:
        known = np.sign(known) * np.log1p(np.abs(known))
    some = len(known) > 0
    center, scale = 0.0, 1.0
    if features.scale == "standard" and some:
        spread = float(known.std())
        center, scale = float(known.mean()), spread if spread > 1e-12 * max(1.0, abs(float(known.mean()))) else 1.0
    fill: float | None = None
    if features.fill != "none":
        fill = float(np.median(known) if features.fill == "median" else known.mean()) if some else 0.0
    return Number(name=name, fill=fill, indicator=features.indicator and len(known) < len(found), log=log, center=center, scale=scale)


def _skewness(values: Float64) -> float:
    if len(values) < 3 or float(values.std()) == 0.0:
        return 0.0
    z = (values - values.mean()) / values.std()
    skewness = float(np.abs((z**3).mean()))
    return skewness if math.isfinite(skewness) else 0.0


def _category(name: str, values: Sequence[Any] | NDArray[Any], features: Features) -> Category:
    counts = Counter(value for value in values if isinstance(value, str))
    by_count = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    kept = [(value, count) for value, count in by_count if count >= features.min_count][: features.max_values]
    total = max(len(values), 1)
    known = sum(counts.values())
    shares = [(len(values) - known) / total, (known - sum(count for _, count in kept)) / total, *(count / total for _, count in kept)]
    return Category(name=name, encoding=features.category, values=tuple(value for value, _ in kept), shares=tuple(shares))


def _targets(task: Tabular, rows: Rows) -> Float64:
    if task.problem == "regression":
        return np.asarray([float(label) for label in rows.labels], dtype=np.float64)
    number: Mapping[str, int] = {name: index for index, name in enumerate(task.classes)}
    return np.asarray([number[str(task.check_label(label))] for label in rows.labels], dtype=np.float64)
