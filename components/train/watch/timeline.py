"""Waits and steps of a loop of any length in bounded memory: equal parts of the wall clock, merged in pairs as the time grows."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from dataclasses import dataclass, replace

__all__ = ["Bin", "Recent", "Timeline"]

_BINS = 256
_WIDTH_S = 0.05
_WARM = 3
"""Steps left out of the first window: they allocate and compile."""


@dataclass(frozen=True)
class Bin:
    """A part of the wall clock; what began before it and ended in it counts as its own.

    Attributes:
        start_s: Since the watch began.
        length_s: Of the part.
        steps: Ended in it.
        wait_s: Waited for their batches.
        step_s: Worked.
    """

    start_s: float
    length_s: float
    steps: int
    wait_s: float
    step_s: float


@dataclass(frozen=True)
class Recent:
    """The last steps.

    Attributes:
        waits_s: Of each.
        steps_s: Of each.
        best_wait_s: Median wait of the window in which an iteration was fastest; None before the first full window.
        best_step_s: Median step of it.
        finished: Steps so far.
    """

    waits_s: tuple[float, ...]
    steps_s: tuple[float, ...]
    best_wait_s: float | None
    best_step_s: float | None
    finished: int


class Timeline:
    """Filled by the loop's thread, read by any.

    Args:
        window: Steps that count as recent.
    """

    def __init__(self, window: int) -> None:
        self._lock, self._recent = threading.Lock(), deque[tuple[float, float]](maxlen=window)
        self._bins: list[Bin] = []
        self._width, self._window = _WIDTH_S, window
        self._best: tuple[float, float] | None = None
        self.steps, self.wait_s, self.step_s = 0, 0.0, 0.0

    def add(self, at_s: float, wait_s: float, step_s: float, steps: int = 1) -> None:
        """Add what ended `at_s` seconds after the start: a wait and the step after it, or (steps 0) a wait for nothing."""
        with self._lock:
            self.steps, self.wait_s, self.step_s = self.steps + steps, self.wait_s + wait_s, self.step_s + step_s
            if steps and self.steps > _WARM:
                self._recent.append((wait_s, step_s))
                if (self.steps - _WARM) % self._window == 0:
                    self._rate()
            number = int(at_s / self._width)
            while number >= _BINS:
                self._halve()
                number = int(at_s / self._width)
            while len(self._bins) <= number:
                self._bins.append(Bin(len(self._bins) * self._width, self._width, 0, 0.0, 0.0))
            old = self._bins[number]
            self._bins[number] = Bin(old.start_s, old.length_s, old.steps + steps, old.wait_s + wait_s, old.step_s + step_s)

    def bins(self) -> tuple[Bin, ...]:
        """Return the parts so far; those in which nothing ended have no step."""
        with self._lock:
            return tuple(self._bins)

    def recent(self) -> Recent:
        """Return the last steps."""
        with self._lock:
            waits, steps = tuple(wait for wait, _ in self._recent), tuple(step for _, step in self._recent)
            wait, step = self._best or (None, None)
            return Recent(waits, steps, wait, step, self.steps)

    def _rate(self) -> None:
        waits, steps = (statistics.median(values) for values in zip(*self._recent, strict=True))
        if self._best is None or waits + steps < sum(self._best):
            self._best = (waits, steps)

    def _halve(self) -> None:
        self._width *= 2
        pairs = [self._bins[at : at + 2] for at in range(0, len(self._bins), 2)]
        self._bins = [
            replace(
                pair[0],
                length_s=self._width,
                steps=sum(part.steps for part in pair),
                wait_s=sum(part.wait_s for part in pair),
                step_s=sum(part.step_s for part in pair),
            )
            for pair in pairs
        ]
