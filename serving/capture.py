"""Predictions that the model itself doubts become unlabelled cases, within an hourly budget."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

__all__ = ["Capture"]

_HOUR_S = 3600.0
_REMEMBERED = 10_000


class Capture:
    """The scenario's policy.

    Args:
        below: Predictions less confident than this are wanted; 0 wants none.
        per_hour: At most this many in any sixty minutes.
        clock: Seconds, monotonic.
    """

    def __init__(self, below: float, per_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._below = below
        self._per_hour = per_hour
        self._clock = clock
        self._taken: deque[float] = deque()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def wants(self, content: str, confidence: float) -> bool:
        """Decide on one prediction; saying yes spends the budget. The same content is wanted once."""
        if confidence >= self._below or content in self._seen:
            return False
        now = self._clock()
        while self._taken and now - self._taken[0] >= _HOUR_S:
            self._taken.popleft()
        if len(self._taken) >= self._per_hour:
            return False
        self._taken.append(now)
        self._seen[content] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True
