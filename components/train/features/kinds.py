"""Type inference: what a declared feature really is. The plan keeps the decision, so that executing it infers nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.params import Tabular
from components.model.plan import DateForm, Reader, as_number, as_time
from components.train.features.options import Features

__all__ = ["Kind", "counted", "different_wholes", "infer"]

_FEWEST = 50
"""Fewer values are not enough to call a feature an id, or a number a date."""
_DIFFERENT = 0.95
_NUMBERS = 20
"""Texts that hold at least as many different numbers are read as numbers; fewer are codes."""
_SECONDS = (5e8, 4e9)
"""1985 to 2096 in seconds since 1970."""
_CALENDAR = (19_000_101, 21_001_231)


@dataclass(frozen=True)
class Kind:
    """What a feature is.

    Attributes:
        role: `date` of `form`; `number`, in texts where `text`; or `category`.
    """

    role: Literal["number", "category", "date"]
    text: bool = False
    form: DateForm = "iso"


def infer(task: Tabular, features: Features, reader: Reader) -> tuple[dict[str, Kind], dict[str, str]]:
    """Return what each feature is, and why others are left out.

    Args:
        task: The scenario's task.
        features: `drop`, `clean`, `parse` and `dates` count.
        reader: The training columns.
    """
    kinds: dict[str, Kind] = {}
    dropped = dict.fromkeys(features.drop, "the recipe drops it")
    seen: dict[Any, str] = {}
    for name, declared in task.features.items():
        if name in dropped:
            continue
        kind = _number(name, reader, features) if declared == "number" else _text(name, reader, features)
        why = _useless(name, declared, kind, reader, seen) if features.clean == "auto" else None
        if why is None:
            kinds[name] = kind
        else:
            dropped[name] = why
    return kinds, dropped


def counted(name: str, reader: Reader) -> Counter[str]:
    """Return how often each text occurs; missing ones are not counted."""
    counts: Counter[str | None] = Counter(reader.texts(name))
    return Counter({value: count for value, count in counts.items() if value is not None})


def _number(name: str, reader: Reader, features: Features) -> Kind:
    form = _date_form(reader.numbers(name)) if features.parse == "auto" and features.dates != "none" else None
    return Kind("number") if form is None else Kind("date", form=form)


def _text(name: str, reader: Reader, features: Features) -> Kind:
    if features.parse == "none":
        return Kind("category")
    values = set(reader.texts(name)) - {None}
    if len(values) > 1 and features.dates != "none" and _all(as_time, values):
        return Kind("date", form="iso")
    if len(values) >= _NUMBERS and _all(as_number, values):
        return Kind("number", text=True)
    return Kind("category")


def _all(read: Callable[[str], float], values: set[Any]) -> bool:
    return all(not math.isnan(read(value)) for value in values)


def _date_form(values: NDArray[np.float64]) -> DateForm | None:
    """Whole numbers within a century of seconds or milliseconds, or that all read as calendar dates, are dates."""
    known = values[~np.isnan(values)]
    if len(known) < _FEWEST or not known.min() >= _CALENDAR[0] or not np.array_equal(known, np.floor(known)) or known.min() == known.max():
        return None
    low, high = float(known.min()), float(known.max())
    if high <= _CALENDAR[1]:
        month, day = known // 100 % 100, known % 100
        return "calendar" if month.min() >= 1 and month.max() <= 12 and day.min() >= 1 and day.max() <= 31 else None
    for form, unit in (("seconds", 1.0), ("milliseconds", 1000.0)):
        if _SECONDS[0] * unit <= low and high <= _SECONDS[1] * unit and len(np.unique(known)) >= _FEWEST:
            return "seconds" if form == "seconds" else "milliseconds"
    return None


def _useless(name: str, declared: str, kind: Kind, reader: Reader, seen: dict[Any, str]) -> str | None:
    """Return why a feature tells nothing; `seen` holds the values of those before."""
    key: Any
    if declared == "number":
        values = reader.numbers(name)
        known = values[~np.isnan(values)]
        count, complete = len(known), len(known) == len(values)
        constant = count > 0 and bool((known == known[0]).all())
        key = values.tobytes()
    else:
        texts = reader.texts(name)
        different = counted(name, reader)
        count = different.total()
        complete, constant = count == len(texts), len(different) == 1
        if kind.role == "category" and count >= _FEWEST and len(different) > _DIFFERENT * count:
            return f"{len(different)} of {count} values are different"
        key = tuple(texts)
    if not count:
        return "it has no value"
    if constant and complete:
        return "it has one value only"
    if (declared, key) in seen:
        return f"it is a copy of '{seen[declared, key]}'"
    seen[declared, key] = name
    return None


def different_wholes(values: NDArray[np.float64], most: int) -> NDArray[np.float64] | None:
    """Return the different values of a number if they are whole and at most `most`, else None."""
    known = values[~np.isnan(values)]
    if not len(known) or not most or not np.array_equal(known, np.floor(known)):
        return None
    different = np.unique(known)
    return different if 2 <= len(different) <= most else None
