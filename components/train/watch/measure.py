"""Times a loader alone and a step alone: wall clock, processor time, and how much of it Python's lock was held."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from components.core.errors import DataError
from components.train.watch.prediction import Cost, Prediction
from components.train.watch.prefetch import Prefetch

__all__ = ["Loaded", "LockProbe", "crowding", "time_loads", "time_steps", "try_ahead"]

_PROBED_EVERY_S = 0.002
_LATE = 0.6
"""Of the interpreter's switch interval: who wakes up later than that has waited for the lock."""
_KEPT = 4
_TELLS = 5
"""Steps from which a loop says something."""


@dataclass(frozen=True)
class Loaded:
    """What loading some batches showed.

    Attributes:
        cost: Of one batch.
        first_s: Of the first one: it starts workers and opens files; not in `cost`.
        batches: The last few of them.
        ended: Whether the loader has no more.
    """

    cost: Cost
    first_s: float
    batches: list[Any]
    ended: bool


class LockProbe:
    """Estimates the share of time in which the rest of the process holds Python's lock.

    A thread sleeps for a moment and looks how late it wakes up. Whoever computes in pure Python gives the lock up only when asked for it
    for `sys.getswitchinterval()`, so every wake-up that is that late has met a held lock. Time is weighed by what a wake-up stands for:
    its sleep and its wait. On an overcommitted machine wake-ups are late by milliseconds too: what the kernel says that the thread has
    waited for a core is taken off. Where it does not say so, the share is too high there.

    Attributes:
        own_s: Processor time of the thread, when it has ended.
    """

    def __enter__(self) -> LockProbe:
        self._held = self._passed = self.own_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lock-probe", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def share(self) -> float:
        """Share of the probed time, 0 to 1."""
        return self._held / self._passed if self._passed else 0.0

    def _run(self) -> None:
        limit = _LATE * sys.getswitchinterval()
        with _queued() as queued_s:
            before, queued = time.perf_counter(), queued_s()
            while not self._stop.is_set():
                time.sleep(_PROBED_EVERY_S)
                now, since = time.perf_counter(), queued_s()
                passed = now - before - (since - queued)
                self._passed += passed
                if passed - _PROBED_EVERY_S > limit:
                    self._held += passed
                before, queued = now, since
        self.own_s = time.thread_time()


def time_loads(loader: Iterable[Any], *, batches: int, budget_s: float, skip: int = 1) -> Loaded:
    """Load and do nothing else.

    Args:
        loader: Its iterator is closed afterwards.
        batches: Measured, at most.
        budget_s: Ends the measurement after this many seconds, with at least one batch.
        skip: Not counted at the start: the first one, and what workers of the loader's own have loaded ahead meanwhile.

    Raises:
        DataError: The loader has no batch.
    """
    kept: list[Any] = []
    times: list[float] = []
    first_s, ended = 0.0, True
    source = iter(loader)
    with LockProbe() as probe:
        begin = before = time.perf_counter()
        used = time.process_time()
        for number, batch in enumerate(source):
            now = time.perf_counter()
            if number == 0:
                first_s = now - before
            if number == skip - 1:
                begin, used = now, time.process_time()
            if number >= skip:
                times.append(now - before)
            kept = [*kept[1 - _KEPT :], batch]
            if len(times) >= batches or (times and now - begin > budget_s):
                ended = False
                break
            before = time.perf_counter()
        worked = time.process_time() - used
    close = getattr(source, "close", None)
    if close is not None:
        close()
    if not kept:
        raise DataError("the loader has no batch", do="check its data set, its sampler and drop_last")
    if not times:  # fewer batches than are skipped: the first is all that is known
        times = [first_s]
    return Loaded(_cost(times, worked - probe.own_s, probe.share), first_s, kept, ended)


def time_steps(step: Callable[[Any], object], batches: list[Any], *, steps: int, budget_s: float, wait: Callable[[], None]) -> Cost:
    """Step on the same few batches and do nothing else; one step before is not counted.

    Args:
        step: Trains on a batch.
        batches: Taken in turn.
        steps: Measured, at most.
        budget_s: Ends the measurement after this many seconds, with at least one step.
        wait: Returns when the device has done what it was given.
    """
    step(batches[0])
    wait()
    times: list[float] = []
    with LockProbe() as probe:
        begin, used = time.perf_counter(), time.process_time()
        while len(times) < steps and (not times or time.perf_counter() - begin < budget_s):
            before = time.perf_counter()
            step(batches[len(times) % len(batches)])
            wait()
            times.append(time.perf_counter() - before)
        worked = time.process_time() - used
    return _cost(times, worked - probe.own_s, probe.share)


def try_ahead(
    loader: Iterable[Any], step: Callable[[Any], object], *, workers: int, steps: int, budget_s: float, wait: Callable[[], None]
) -> tuple[Prediction, int, int] | None:
    """Run a short loop that loads ahead; return what it was, its workers and its steps. None: the loader has too few batches left.

    Args:
        loader: It is iterated once more; a `Prefetch` that names its batches is asked for `workers` at a time, anything else for one.
        workers: Threads.
        step: And the others as of `time_steps`.
    """
    source = loader.loaded_by(workers) if isinstance(loader, Prefetch) else Prefetch(loader, workers=1)
    stepped, count, begin, end = 0.0, 0, time.perf_counter(), 0.0
    with closing(iter(source)) as batches:
        for batch in batches:
            before = time.perf_counter()
            step(batch)
            wait()
            end = time.perf_counter()
            stepped, count = stepped + end - before, count + 1
            if count >= steps or end - begin > budget_s:
                break
    if count < _TELLS:
        return None
    return Prediction((end - begin) / count, 1 - stepped / (end - begin), stepped / count), source.workers, count


def crowding(seconds: float = 0.1) -> float:
    """Return the share of time in which a thread that only computes does not run, because others use the cores: 0 on a quiet machine."""
    before, used = time.perf_counter(), time.thread_time()
    while time.perf_counter() - before < seconds:
        pass
    passed = time.perf_counter() - before
    return max(0.0, 1 - (time.thread_time() - used) / passed)


@contextmanager
def _queued() -> Iterator[Callable[[], float]]:
    """Yield what tells for how long this thread has waited for a core so far (Linux; elsewhere 0)."""
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        yield lambda: 0.0
        return
    try:
        yield lambda: int(os.pread(file, 64, 0).split()[1]) / 1e9
    finally:
        os.close(file)


def _cost(times: list[float], worked_s: float, locked: float) -> Cost:
    total = max(sum(times), 1e-9)
    busy = min(max(0.0, worked_s / total), 1.0)
    return Cost(tuple(times), busy, min(locked, busy), max(1.0, worked_s / total))
