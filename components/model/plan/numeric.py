"""Columns that make one number of a row: a feature, a part of a date, two features together."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from components.core.params import Frozen
from components.model.plan.values import Reader
from components.model.runtime import Float32

__all__ = ["DateForm", "DatePart", "Moment", "Number", "Numeric", "Operation", "Pair"]

_CLIP = 10.0
_DAY_S = 86_400.0
_YEAR_DAYS = 365.2425
Float64 = NDArray[np.float64]
DateForm = Literal["iso", "seconds", "milliseconds", "calendar"]
DatePart = Literal["days", "year", "month", "weekday", "hour", "year_sin", "year_cos", "week_sin", "week_cos", "day_sin", "day_cos"]
Operation = Literal["difference", "product", "ratio"]


class Numeric(Frozen):
    """What happens to a number, in this order.

    Attributes:
        log: Takes sign(v) * log(1 + |v|) first.
        fill: Stands for missing values; None leaves them NaN (only trees can take that).
        indicator: Adds a column that is 1 where the value is missing.
        knots: (value, result) pairs, ascending: the result is interpolated between them, and constant beyond. Empty: no such step.
        center: Is subtracted.
        scale: Is divided by; results are clipped to ±10 unless it is 1 and `center` 0.
    """

    fill: float | None = 0.0
    indicator: bool = False
    log: bool = False
    knots: tuple[tuple[float, float], ...] = ()
    center: float = 0.0
    scale: float = Field(1.0, gt=0)

    @field_validator("knots")
    @classmethod
    def _ascending(cls, knots: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if any(not low[0] < high[0] for low, high in pairwise(knots)):
            raise ValueError("knots ascend")
        return knots

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""

    @property
    def width(self) -> int:
        """How many matrix columns it becomes."""
        return 1 + self.indicator

    @abstractmethod
    def read(self, reader: Reader) -> Float64:
        """Return (N,) the number itself, NaN where it is missing."""

    def write(self, reader: Reader, out: Float32) -> None:
        """Write the treated number into `out`, (N, `width`)."""
        value = self.read(reader)
        missing = np.isnan(value)
        if self.log:
            value = np.sign(value) * np.log1p(np.abs(value))
        if self.fill is not None:
            value = np.where(missing, self.fill, value)
        if self.knots:
            known, result = self._table
            value = np.interp(value, known, result)
        if self.scale != 1.0 or self.center != 0.0:
            value = np.clip((value - self.center) / self.scale, -_CLIP, _CLIP)
        out[:, 0] = value
        if self.indicator:
            out[:, 1] = missing

    @cached_property
    def _table(self) -> tuple[Float64, Float64]:
        known, result = np.asarray(self.knots, dtype=np.float64).T
        return known, result


class Number(Numeric):
    """One feature.

    Attributes:
        text: Whether the number stands in a text; other texts are missing.
    """

    kind: Literal["number"] = "number"
    name: str
    text: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""
        return (self.name,)

    def read(self, reader: Reader) -> Float64:
        """Return (N,) the number itself, NaN where it is missing."""
        return reader.numbers(self.name, text=self.text)


class Moment(Numeric):
    """One part of a date.

    Attributes:
        form: `iso`: a text; numbers are seconds or milliseconds since 1970, or a calendar date such as 20240131.
        part: `days` since 1970 (with the time of day), year, month 1…12, weekday 0 (Monday)…6, hour 0…24, or the place within the
            year, the week or the day as a point on a circle.
    """

    kind: Literal["moment"] = "moment"
    name: str
    form: DateForm
    part: DatePart

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""
        return (self.name,)

    def read(self, reader: Reader) -> Float64:
        """Return (N,) the part, NaN where there is no date."""
        return _part(self.part, _days(self.form, self.name, reader))


class Pair(Numeric):
    """Two numbers in one.

    Attributes:
        operation: left - right, left * right, or left / right (missing where right is 0).
    """

    kind: Literal["pair"] = "pair"
    left: str
    right: str
    operation: Operation

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""
        return (self.left, self.right)

    def read(self, reader: Reader) -> Float64:
        """Return (N,) the result, NaN where a number is missing, or the result is no number that float32 holds."""
        left, right = reader.numbers(self.left), reader.numbers(self.right)
        if self.operation == "difference":
            found = left - right
        elif self.operation == "product":
            found = left * right
        else:
            with np.errstate(over="ignore"):  # what is too large is missing
                found = np.divide(left, right, out=np.full(len(left), np.nan), where=right != 0)
        return np.where(np.abs(found) < np.finfo(np.float32).max, found, np.nan)


def _days(form: DateForm, name: str, reader: Reader) -> Float64:
    """Return (N,) days since 1970, NaN where there is no date."""
    if form == "iso":
        return reader.times(name) / _DAY_S
    value = reader.numbers(name)
    if form != "calendar":
        return value / (_DAY_S if form == "seconds" else 1000 * _DAY_S)
    known = np.isfinite(value) & (value >= 1e7) & (value < 1e8)
    whole = np.where(known, value, 19700101).astype(np.int64)
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    start = (np.where((month >= 1) & (month <= 12), (year - 1970) * 12 + month - 1, 0)).astype("datetime64[M]")
    date = start.astype("datetime64[D]") + (day - 1)
    real = known & (month >= 1) & (month <= 12) & (day >= 1) & (date.astype("datetime64[M]") == start)
    return np.where(real, date.astype(np.int64), np.nan)


def _part(part: DatePart, days: Float64) -> Float64:
    if part == "days":
        return days
    lost = ~(np.abs(days) < 1e6)
    some = np.where(lost, 0.0, days)
    whole = np.floor(some)
    date = whole.astype(np.int64).astype("datetime64[D]")
    year = date.astype("datetime64[Y]")
    if part == "year":
        found = year.astype(np.int64) + 1970.0
    elif part == "month":
        found = date.astype("datetime64[M]").astype(np.int64) % 12 + 1.0
    elif part == "weekday":
        found = (whole + 3) % 7  # 1 January 1970 was a Thursday
    elif part == "hour":
        found = (some - whole) * 24
    else:
        turn = {
            "year": (some - year.astype("datetime64[D]").astype(np.int64)) / _YEAR_DAYS,
            "week": (some + 3) % 7 / 7,
            "day": some - whole,
        }[part.split("_")[0]]
        found = np.sin(2 * np.pi * turn) if part.endswith("sin") else np.cos(2 * np.pi * turn)
    return np.where(lost, np.nan, found)
