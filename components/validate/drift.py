"""Drift: how far new rows are from those the champion was trained on. Pure functions of two tables.

PSI, the population stability index: sum over bins of (a - e) ln(a / e), bins being tenths of the expected values (Siddiqi 2006).
KS, the two-sample Kolmogorov-Smirnov statistic: the largest distance between the two distribution functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.validate.spec import Drift

__all__ = ["ColumnDrift", "drift", "ks", "psi_categories", "psi_numbers"]

_BINS = 10
_DIGITS = 6  # figures enter a digest: what a library rounds differently must not


@dataclass(frozen=True)
class ColumnDrift:
    """How far one column moved.

    Attributes:
        psi: Population stability index.
        psi_noise: The PSI that samples of these sizes show when nothing moved: (bins - 1)(1/n + 1/m) (Yurdakul 2018).
        ks: Kolmogorov-Smirnov statistic; None for categories.
        drifted: PSI beyond the limit and the noise, or KS beyond the limit and its 5 % critical value.
    """

    column: str
    psi: float
    psi_noise: float
    ks: float | None
    drifted: bool


def drift(expected: pa.Table, actual: pa.Table, columns: Sequence[str], limits: Drift) -> list[dict[str, Any]]:
    """Compare columns of two tables; a column that is text is compared by its values' shares.

    Args:
        expected: What the champion was trained on.
        actual: What is new.
        columns: Which; those that either table lacks are left out.
        limits: From when on a column counts as drifted.
    """
    found = []
    for column in columns:
        if column in expected.column_names and column in actual.column_names:
            found.append(asdict(_column(column, expected[column].to_pylist(), actual[column].to_pylist(), limits)))
    return found


def _column(name: str, expected: list[Any], actual: list[Any], limits: Drift) -> ColumnDrift:
    is_text = any(isinstance(value, str) for value in (*expected, *actual))
    if is_text:
        psi, bins = psi_categories(expected, actual)
        return _judged(name, psi, bins, None, (len(expected), len(actual)), limits)
    a, b = _numbers(expected), _numbers(actual)
    psi, bins = psi_numbers(a, b)
    return _judged(name, psi, bins, ks(a, b), (len(a), len(b)), limits)


def psi_numbers(expected_N: NDArray[np.float64], actual_M: NDArray[np.float64]) -> tuple[float, int]:
    """Return the PSI of two samples of numbers (NaN: missing, a bin of its own), and the number of bins."""
    present = expected_N[~np.isnan(expected_N)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(present) else np.array([])

    def counts(values: NDArray[np.float64]) -> NDArray[np.int64]:
        missing = np.isnan(values)
        bins = np.searchsorted(edges, values[~missing], side="left")
        return np.append(np.bincount(bins, minlength=len(edges) + 1), missing.sum())

    return _psi(counts(expected_N), counts(actual_M))


def psi_categories(expected: Sequence[str | None], actual: Sequence[str | None]) -> tuple[float, int]:
    """Return the PSI of two samples of categories (None: missing, a category of its own), and the number of bins."""
    a, b = Counter(expected), Counter(actual)
    names = sorted({*a, *b}, key=str)
    return _psi(np.array([a[name] for name in names]), np.array([b[name] for name in names]))


def ks(expected_N: NDArray[np.float64], actual_M: NDArray[np.float64]) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic of the present values; 0 where a sample has none."""
    a, b = np.sort(expected_N[~np.isnan(expected_N)]), np.sort(actual_M[~np.isnan(actual_M)])
    if not len(a) or not len(b):
        return 0.0
    places = np.concatenate([a, b])
    below = np.searchsorted(a, places, side="right") / len(a) - np.searchsorted(b, places, side="right") / len(b)
    return float(np.abs(below).max())


def _psi(expected: NDArray[np.int64], actual: NDArray[np.int64]) -> tuple[float, int]:
    used = (expected + actual) > 0
    expected, actual = expected[used], actual[used]
    # half a row more in each bin: an empty one would make the index infinite
    e = (expected + 0.5) / (expected.sum() + 0.5 * len(expected))
    a = (actual + 0.5) / (actual.sum() + 0.5 * len(actual))
    return float(((a - e) * np.log(a / e)).sum()), len(expected)


def _judged(name: str, psi: float, bins: int, distance: float | None, sizes: tuple[int, int], limits: Drift) -> ColumnDrift:
    n, m = max(sizes[0], 1), max(sizes[1], 1)
    noise = (bins - 1) * (1 / n + 1 / m)
    critical = 1.358 * math.sqrt((n + m) / (n * m))
    drifted = psi - noise > limits.psi or (distance is not None and distance > max(limits.ks, critical))
    rounded = None if distance is None else round(distance, _DIGITS)
    return ColumnDrift(name, round(psi, _DIGITS), round(noise, _DIGITS), rounded, drifted)


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
