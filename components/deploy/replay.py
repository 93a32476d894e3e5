"""Replaying sample requests on the real server: it must answer as the evaluated model does."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from components.core.errors import Refused
from components.core.params import Tabular, TextLine

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Serves", "compare", "sample"]


class Serves(Protocol):
    """`components.deploy.server.Server` is one."""

    def predict(self, item: Mapping[str, Any], /) -> dict[str, Any]: ...


def sample(table: pa.Table, task: TextLine | Tabular, count: int) -> list[dict[str, Any]]:
    """Choose rows as `Item.row()` gives them: evenly over the test split (by id), or over all rows where there is no test split."""
    splits = table.column("_split").to_pylist()
    at = [i for i, split in enumerate(splits) if split == "test"] or list(range(len(splits)))
    chosen = np.unique(np.linspace(0, len(at) - 1, min(count, len(at))).round().astype(int)) if at else np.zeros(0, dtype=int)
    columns = ["image"] if isinstance(task, TextLine) else list(task.features)
    rows: list[dict[str, Any]] = table.take(np.array(at, dtype=np.int64)[chosen]).select(columns).to_pylist()
    return [{name: None if isinstance(v, float) and math.isnan(v) else v for name, v in row.items()} for row in rows]


def compare(server: Serves, rows: Sequence[Mapping[str, Any]], answers: Sequence[Any], *, model: str, tolerance: float) -> float:
    """Send each row and compare label and confidence.

    Args:
        server: The trial server.
        rows: From `sample`.
        answers: The evaluated model's own answers to them.
        model: What each answer must name.
        tolerance: Largest difference allowed between confidences, and, relative to their size, between predicted numbers.

    Returns:
        The largest difference seen.

    Raises:
        Refused: One differs.
    """
    largest = 0.0
    for number, (row, expected) in enumerate(zip(rows, answers, strict=True), 1):
        item = {"image": base64.b64encode(row["image"]).decode()} if "image" in row else {"features": dict(row)}
        got = server.predict(item)
        off = max(abs(float(got["confidence"]) - float(expected.confidence)), _distance(got["label"], expected.label))
        if got["model"] != model or not off <= tolerance:
            raise Refused(
                f"request {number} of {len(rows)}: the server ({got['model']}) says {got['label']!r} at {got['confidence']:.6g},"
                f" the evaluated model ({model}) {expected.label!r} at {expected.confidence:.6g}",
                do="serving does not run what was evaluated: pack it with the code and libraries that evaluated it",
            )
        largest = max(largest, off)
    return largest


def _distance(got: Any, expected: Any) -> float:
    if isinstance(expected, str) or isinstance(got, str):
        return 0.0 if got == expected else math.inf
    return abs(float(got) - float(expected)) / max(1.0, abs(float(expected)))
