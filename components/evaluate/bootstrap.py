"""Paired bootstrap confidence intervals (Efron & Tibshirani 1993, ch. 13: the percentile method), resampled by group.

Rows of one group (a writer, a customer) are drawn together, because they are not independent evidence. A resample is a vector of
row weights, so two models are compared on the same draws and the difference has its own, narrower, interval.

With fewer than `FEW_GROUPS` groups there is nothing to resample (two groups give three different resamples), so rows are drawn
as if they were independent. Such intervals are too narrow, and the gate says so. The interval of a share that is exactly 0 or 1 has
no width at all; what guards against too few rows there is the gate's `min_rows`.

Shapes: n rows, G groups, B resamples; weights (B, n).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluate.metrics import Floats, Measure

__all__ = ["FEW_GROUPS", "Interval", "difference", "intervals", "once", "resamples"]

FEW_GROUPS = 10
_CHUNK_CELLS = 2_000_000  # weights in memory at once: 16 MB
_UNDEFINED_ALLOWED = 0.1  # of the resamples; with more, the interval itself is undefined


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval; NaN where undefined."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether the figure and both bounds are defined."""
        return all(map(math.isfinite, (self.value, self.low, self.high)))


def resamples(groups: Sequence[str], *, times: int, seed: int) -> Iterator[Floats]:
    """Yield weights (b, n) in chunks, `times` in all: how often each row was drawn."""
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < FEW_GROUPS:
        names = member = np.arange(len(groups))
    size = len(names)
    draw = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, _CHUNK_CELLS // max(size, len(member), 1))
    for start in range(0, times if size else 0, chunk):
        b = min(chunk, times - start)
        drawn = draw.integers(0, size, size=(b, size)) + np.arange(b)[:, None] * size
        counts = np.bincount(drawn.ravel(), minlength=b * size).reshape(b, size)
        yield counts[:, member].astype(np.float64)


def intervals(measures: Mapping[str, Measure], groups: Sequence[str], *, times: int, confidence: float, seed: int) -> dict[str, Interval]:
    """Return each measure's value and two-sided interval, all from the same draws.

    Args:
        measures: Name -> function of weights.
        groups: (n,) the group of each row.
        times: Resamples.
        confidence: Such as 0.95.
        seed: Equal seeds give equal intervals.
    """
    ones = np.ones((1, len(groups)))
    drawn: dict[str, list[Floats]] = {name: [] for name in measures}
    for weights in resamples(groups, times=times, seed=seed):
        for name, measure in measures.items():
            drawn[name].append(measure(weights))
    found = {}
    for name, measure in measures.items():
        low, high = _bounds(np.concatenate(drawn[name]) if drawn[name] else np.zeros(0), confidence)
        found[name] = Interval(float(measure(ones)[0]), low, high)
    return found


def once(measure: Measure) -> Measure:
    """Return the measure with a memory of its last result: what is shown alone and as a difference is computed once a chunk."""
    last: list[tuple[Floats, Floats]] = []

    def remembered(weights: Floats) -> Floats:
        if not last or last[0][0] is not weights:
            last[:] = [(weights, measure(weights))]
        return last[0][1]

    return remembered


def difference(after: Measure, before: Measure, *, lower_is_better: bool) -> Measure:
    """Return the gain from `before` to `after` as a measure: positive is better, whichever way the figure counts."""

    def gain(weights: Floats) -> Floats:
        return before(weights) - after(weights) if lower_is_better else after(weights) - before(weights)

    return gain


def _bounds(values: Floats, confidence: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known) or len(known) < (1 - _UNDEFINED_ALLOWED) * len(values):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
