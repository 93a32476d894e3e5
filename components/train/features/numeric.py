"""Learning numeric columns: fill values, scales, logarithms and quantile tables, from training rows without their labels."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from components.model.plan import DatePart, Moment, Number, Operation, Pair, Reader
from components.train.features.kinds import Kind
from components.train.features.options import Features

__all__ = ["moments", "number", "pair"]

_SKEWED = 2.0
_KNOTS = 33
_PARTS: dict[str, tuple[DatePart, ...]] = {
    "numbers": ("days", "year", "month", "weekday", "hour"),
    "circle": ("days", "year_sin", "year_cos", "week_sin", "week_cos", "day_sin", "day_cos"),
}
Float64 = NDArray[np.float64]


class _Treatment(TypedDict):
    fill: float | None
    indicator: bool
    log: bool
    knots: tuple[tuple[float, float], ...]
    center: float
    scale: float


def number(name: str, kind: Kind, reader: Reader, features: Features) -> Number:
    """Learn a number's column."""
    return Number(name=name, text=kind.text, **_treatment(reader.numbers(name, text=kind.text), features))


def moments(name: str, kind: Kind, reader: Reader, features: Features) -> list[Moment]:
    """Learn a date's columns; parts that never vary are left out, such as the hour where there is none."""
    found: list[Moment] = []
    for part in _PARTS[features.dates]:
        values = Moment(name=name, form=kind.form, part=part).read(reader)
        known = values[~np.isnan(values)]
        if len(known) and float(np.ptp(known)) > 1e-9:
            settings = _treatment(values, features)
            settings["indicator"] = settings["indicator"] and not found  # one for the whole date
            found.append(Moment(name=name, form=kind.form, part=part, **settings))
    return found


def pair(left: str, right: str, operation: Operation, reader: Reader, features: Features) -> Pair:
    """Learn a column of two numbers."""
    values = Pair(left=left, right=right, operation=operation).read(reader)
    return Pair(left=left, right=right, operation=operation, **{**_treatment(values, features), "indicator": False})


def _treatment(values: Float64, features: Features) -> _Treatment:
    known = values[~np.isnan(values)]
    some = len(known) > 0
    log = features.log == "auto" and features.scale != "rank" and _skewness(known) > _SKEWED
    if log:
        known = np.sign(known) * np.log1p(np.abs(known))
    center, scale = 0.0, 1.0
    knots: tuple[tuple[float, float], ...] = ()
    if features.scale == "standard" and some:
        spread = float(known.std())
        center, scale = float(known.mean()), spread if spread > 1e-12 * max(1.0, abs(float(known.mean()))) else 1.0
    elif features.scale == "rank" and some:
        knots = _ranks(known)
    fill: float | None = None
    if features.fill != "none":
        fill = float(np.median(known) if features.fill == "median" else known.mean()) if some else 0.0
    return {
        "fill": fill,
        "indicator": features.indicator and len(known) < len(values),
        "log": log,
        "knots": knots,
        "center": center,
        "scale": scale,
    }


def _ranks(known: Float64) -> tuple[tuple[float, float], ...]:
    """Return pairs of quantile and normal quantile; equal values get the middle of their ranks."""
    ordered = np.sort(known)
    at = np.unique(np.round(np.linspace(0, len(ordered) - 1, _KNOTS)).astype(np.int64))
    values = np.unique(ordered[at])
    middle = (np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")) / (2 * len(ordered))
    normal = NormalDist()
    return tuple((float(value), round(normal.inv_cdf(float(share)), 6)) for value, share in zip(values, middle, strict=True))


def _skewness(values: Float64) -> float:
    if len(values) < 3 or float(values.std()) == 0.0:
        return 0.0
    z = (values - values.mean()) / values.std()
    skewness = float(np.abs((z**3).mean()))
    return skewness if math.isfinite(skewness) else 0.0
