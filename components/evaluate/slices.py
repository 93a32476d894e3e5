"""Slices: the judged rows cut by a column, so that a gain on average can't hide a loss on some."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core.errors import ConfigError, nearest
from components.core.params import TextLine
from components.evaluate.bootstrap import Interval
from components.evaluate.gate import Slice
from components.evaluate.rows import Rows

__all__ = ["Gain", "cut", "slice_names", "slice_rows"]

Gain = Callable[[NDArray[np.intp], float], tuple[float, float | None, Interval | None]]
"""Measures some rows at some confidence: (challenger's figure, champion's, gain)."""

_MOST_VALUES = 12
_QUANTILES = (0.25, 0.5, 0.75)
_MISSING = "(missing)"
_OTHER = "(other)"


def slice_names(task: Any, asked: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns to slice by: those asked for, `_source`, and for text lines `_length`.

    Raises:
        ConfigError: A column asked for is not in the dataset.
    """
    always = ["_source", *(["_length"] if isinstance(task, TextLine) else [])]
    for name in asked:
        if name not in columns and name not in always:
            raise ConfigError(f"evaluate.slices names '{name}', which is no column of the dataset", do=nearest(name, [*columns, *always]))
    return [*dict.fromkeys([*asked, *always])]


def slice_rows(names: Sequence[str], rows: Rows, among: NDArray[np.intp], confidence: float, measure: Gain) -> tuple[Slice, ...]:
    """Measure every slice.

    Args:
        names: Columns, from `slice_names`.
        rows: The evaluated rows.
        among: Positions of the rows to cut.
        confidence: Of one comparison; it is raised by Bonferroni's correction, so that it holds for all slices together.
        measure: Measures the rows at some positions.
    """
    parts = [(name, value, among[mask]) for name in names for value, mask in cut(name, rows, among)]
    corrected = 1 - (1 - confidence) / max(1, len(parts))
    found = []
    for name, value, positions in parts:
        challenger, champion, gain = measure(positions, corrected)
        groups = len({rows.groups[i] for i in positions})
        found.append(Slice(name, value, len(positions), groups, challenger, champion, gain))
    return tuple(found)


def cut(name: str, rows: Rows, among: NDArray[np.intp]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield (value, mask over `among`): quartiles of a number, or the most frequent values of anything else."""
    if name == "_length":
        values: list[Any] = [len(rows.labels[i]) for i in among]
    else:
        column = rows.table.column(name)
        values = column.take(pa.array(among)).to_pylist()
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            yield from _ranges(values)
            return
    counts = Counter(_MISSING if value is None else str(value) for value in values)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    kept = ranked if len(ranked) <= _MOST_VALUES else ranked[: _MOST_VALUES - 1]
    shown = [text if (text := _MISSING if value is None else str(value)) in kept else _OTHER for value in values]
    for value in [*sorted(kept, key=_natural), *([_OTHER] if len(kept) < len(ranked) else [])]:
        yield value, np.array([text == value for text in shown], dtype=bool)


def _ranges(values: Sequence[float | None]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    known = numbers[np.isfinite(numbers)]
    edges = np.unique(np.quantile(known, _QUANTILES)) if len(known) else np.zeros(0)
    bounds = [-math.inf, *edges.tolist(), math.inf]
    for low, high in pairwise(bounds):
        mask = (numbers > low) & (numbers <= high)
        if mask.any():
            text = f"≤ {high:g}" if low == -math.inf else f"> {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            yield text if edges.size else "any", mask
    if (missing := ~np.isfinite(numbers)).any():
        yield _MISSING, missing


def _natural(value: str) -> tuple[float, str]:
    return (float(value), value) if value.isdecimal() else (math.inf, value)
