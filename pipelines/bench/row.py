"""One line of a benchmark, in the format that every benchmark prints."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

__all__ = ["Row", "row"]

Row = dict[str, Any]


def row(case: str, ours: float | None, unit: str, against: str, theirs: float | None, goal: str, *, seed: int | Sequence[int] = 0) -> Row:
    """Return a row.

    Args:
        case: What was measured.
        ours: Our figure; None where there is none yet. Infinite is shown as the text `inf`.
        unit: Of both figures.
        against: The rival, or the limit, measured in the same run. One that starts with `facts` was measured on another day.
        theirs: Its figure; None where there is none.
        goal: `<=`, `<` or `>=`; empty: nothing is to be reached.
        seed: Of what was drawn; several where the figure is over all of them.
    """
    known = ours is not None and theirs is not None
    holds = _holds(ours, theirs, goal) if ours is not None and theirs is not None and goal and not against.startswith("facts") else None
    ratio = round(ours / theirs, 3) if known and theirs and ours is not None and math.isfinite(ours / theirs) else None
    return {
        "case": case,
        "unit": unit,
        "against": against,
        "ours": _shown(ours),
        "theirs": _shown(theirs),
        "ratio": ratio,
        "goal": goal,
        "holds": holds,
        "seed": seed if isinstance(seed, int) else seed[0] if len(seed) == 1 else list(seed),
        "device": f"{os.cpu_count()} cores",
    }


def _holds(ours: float, theirs: float, goal: str) -> bool:
    return {"<=": ours <= theirs, "<": ours < theirs, ">=": ours >= theirs}[goal]


def _shown(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return None if value is None else round(value, 4)
    return "inf" if value > 0 else "-inf"
