"""Reading raw columns: numbers, texts, numbers and dates in texts. What can't be read is missing; what is of the wrong type is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.params import is_finite

__all__ = ["Columns", "Reader", "as_number", "as_time", "columns_of", "numbers", "texts"]

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
"""Feature name -> N values: numbers (NaN or None is missing) or texts (None is missing)."""
Float64 = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)
_EPOCH = datetime(1970, 1, 1)  # without a zone: the clock on the wall counts
# No leading zero: "0123" is a code, not a number.
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+(Z|[+-][0-9]{2}:?[0-9]{2})?)?")


class Reader:
    """Columns, each read once.

    Attributes:
        columns: The raw columns.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._read: dict[tuple[str, str], Any] = {}

    def numbers(self, name: str, *, text: bool = False) -> Float64:
        """Return (N,) numbers, NaN where missing; with `text` they are read from texts."""
        if text:
            return self._each(name, "text", as_number)
        key = (name, "number")
        if key not in self._read:
            self._read[key] = numbers(name, self.columns[name])
        found: Float64 = self._read[key]
        return found

    def texts(self, name: str) -> Sequence[str | None]:
        """Return N texts, None where missing."""
        key = (name, "texts")
        if key not in self._read:
            self._read[key] = texts(name, self.columns[name])
        found: Sequence[str | None] = self._read[key]
        return found

    def distinct(self, name: str) -> tuple[Sequence[str | None], NDArray[np.intp]]:
        """Return the different texts of a column, and (N,) which of them each row has: what is made of a text is made once."""
        key = (name, "distinct")
        if key not in self._read:
            given = self.texts(name)
            place = {value: number for number, value in enumerate(dict.fromkeys(given))}
            self._read[key] = list(place), np.fromiter(map(place.__getitem__, given), np.intp, len(given))
        found: tuple[Sequence[str | None], NDArray[np.intp]] = self._read[key]
        return found

    def times(self, name: str) -> Float64:
        """Return (N,) seconds since 1970 of texts that hold dates; NaN where there is none."""
        return self._each(name, "time", as_time)

    def _each(self, name: str, what: str, read: Callable[[str], float]) -> Float64:
        key = (name, what)
        if key not in self._read:
            values, places = self.distinct(name)
            known = np.array([math.nan if value is None else read(value) for value in values], dtype=np.float64)
            self._read[key] = known[places]
        found: Float64 = self._read[key]
        return found


def numbers(name: str, values: Sequence[Any] | NDArray[Any]) -> Float64:
    """Return (N,) float64; missing and infinite values become NaN.

    Raises:
        DataError: A value is no number.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        if not set(map(type, values)) <= {float, int, type(None)}:
            for value in values:
                if value is not None and (isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number)):
                    raise DataError(f"feature '{name}' is {value!r}, a number is expected", do="give a number, or null")
        try:
            values = np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            values = np.array([None if value is None or not is_finite(value) else value for value in values], dtype=np.float64)
    found = np.asarray(values, dtype=np.float64)
    # Beyond float32 a value would turn infinite in the matrix.
    return np.where(np.abs(found) < _LARGEST, found, np.nan)


def texts(name: str, values: Sequence[Any] | NDArray[Any]) -> Sequence[str | None]:
    """Return N texts; None and NaN become None.

    Raises:
        DataError: A value is no text.
    """
    given: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    if set(map(type, given)) <= {str, type(None)}:
        return given
    found: list[str | None] = []
    for value in given:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            found.append(None)
        elif isinstance(value, str):
            found.append(str(value))
        else:
            raise DataError(f"feature '{name}' is {value!r}, a text is expected", do="give a text, or null")
    return found


def as_number(text: str) -> float:
    """Return the number that a text holds, NaN if it holds none."""
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if abs(number) < _LARGEST else math.nan


def as_time(text: str) -> float:
    """Return the seconds since 1970 of an ISO date, with or without a time of day, as the clock on the wall showed; NaN if it is none."""
    if not _DATE.fullmatch(text):
        return math.nan
    try:
        return (datetime.fromisoformat(text).replace(tzinfo=None) - _EPOCH).total_seconds()
    except ValueError:
        return math.nan


def columns_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Turn rows into columns.

    Raises:
        DataError: A row lacks a feature.
    """
    try:
        return {name: [row[name] for row in rows] for name in names}
    except KeyError as error:
        raise DataError(f"feature {error} is missing", do="give every feature of the model; null stands for a missing value") from None
