"""How long one item takes, at batch 1, in this process: what a client waits for beyond the network and the queue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Latency", "Predicts", "measure"]

_ROUNDS = 3
_BUDGET_S = 4.0


class Predicts(Protocol):
    """`components.model.Predictor` is one."""

    def predict(self, rows: Sequence[Mapping[str, Any]], /) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one item.

    Attributes:
        p50_ms: Median.
        p99_ms: 99th percentile.
        calls: Calls in the round that was kept.
    """

    p50_ms: float
    p99_ms: float
    calls: int

    def as_json(self) -> dict[str, float]:
        """Return plain JSON data."""
        return asdict(self)


def measure(predictor: Predicts, rows: Sequence[Mapping[str, Any]], *, calls: int = 200) -> Latency:
    """Time single predictions in three rounds and keep the round with the best p99: other work on the machine only ever adds time.

    Args:
        predictor: The loaded model.
        rows: At least one row, as `Item.row()` gives it; they are taken in turn.
        calls: In one round; fewer when a round would take longer than about a second.
    """
    for row in rows[:5]:
        predictor.predict([row])
    rounds = [_round(predictor, rows, calls) for _ in range(_ROUNDS)]
    return min(rounds, key=lambda latency: latency.p99_ms)


def _round(predictor: Predicts, rows: Sequence[Mapping[str, Any]], calls: int) -> Latency:
    taken = []
    began = time.perf_counter()
    for call in range(calls):
        start = time.perf_counter()
        predictor.predict([rows[call % len(rows)]])
        taken.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - began > _BUDGET_S / _ROUNDS and len(taken) >= 5:
            break
    p50, p99 = np.percentile(taken, [50, 99])
    return Latency(round(float(p50), 4), round(float(p99), 4), len(taken))
