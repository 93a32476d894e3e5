"""What a person should know about the columns that were searched on; nothing here changes the search."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.params import Tabular
from components.train.data import Rows
from components.train.features import suspicious

__all__ = ["concerns"]

_NAMED = 8
"""Features in one sentence; the rest is a count."""


def concerns(task: Tabular, rows: Rows) -> list[str]:
    """Return sentences about features that tell the target, say nothing, say it twice, or hold infinite values."""
    empty, constant, infinite, twins = [], [], [], []
    seen: dict[str, str] = {}
    for name, kind in task.features.items():
        column = _numbers(rows.columns[name]) if kind == "number" else np.asarray(rows.columns[name], dtype=object)
        known = column[np.isfinite(column)] if kind == "number" else np.asarray([value for value in column if value is not None])
        if kind == "number" and np.isinf(column).any():
            infinite.append(name)
        if not len(known):
            empty.append(name)
        elif len(known) == len(column) and len(set(known.tolist())) == 1:
            constant.append(name)
        else:
            same = seen.setdefault(_digest(column), name)
            if same != name:
                twins.append(f"{name} = {same}")
    texts = (
        ("without a value", empty, "fill them, or leave them out of task.features"),
        ("with one value in every row", constant, "leave them out of task.features"),
        ("that repeat another one", twins, "leave one of each pair out of task.features"),
        ("with infinite values, which count as missing", infinite, "correct them where the data come from"),
    )
    leaks = [f"feature '{name}' alone tells the target: is it known before the answer is?" for name in suspicious(task, rows)]
    return leaks + [f"features {text}: {_list(names)}; {do}" for text, names, do in texts if names]


def _numbers(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def _digest(column: NDArray[Any]) -> str:
    data = column.tobytes() if column.dtype != object else "\0".join("\1" if v is None else str(v) for v in column).encode()
    return hashlib.sha256(str(column.dtype).encode() + data).hexdigest()


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
