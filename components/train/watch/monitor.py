"""During a job: what its loop waits for, what its devices do, and an early word when something goes wrong."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, TypeVar

from components.core.errors import ConfigError
from components.train.watch.alarms import Limits, Warned, judge
from components.train.watch.devices import Counters, Reading, find_counters
from components.train.watch.timeline import Bin, Timeline

__all__ = ["Monitor", "Sample", "Watched"]

logger = logging.getLogger(__name__)
T = TypeVar("T")
_END = object()
_SAMPLES = 512
"""Kept, at most twice as many: then every second one is dropped, and from then on half as many are kept."""


@dataclass(frozen=True)
class Sample:
    """The devices, `at_s` seconds after the start."""

    at_s: float
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Watched:
    """What a watched job showed.

    Attributes:
        wall_s: From the watch's start to its end.
        steps: Finished; the one in which a loop is left by `break` or an exception is not counted.
        wait_s: The loop waited for batches.
        step_s: It worked on them: host time. On a CUDA device the host runs ahead, so there only the device's utilisation tells how much
            of it the device worked.
        parts_s: Seconds by the name that `during` was given; they are in neither of the two.
        timeline: Waits and steps in equal parts of the wall clock.
        samples: The devices over time, evenly thinned.
        counters: `nvml` or `cpu`, and why.
        warned: In the order it was said.
        own_s: Processor time of the sampling thread.
    """

    wall_s: float
    steps: int
    wait_s: float
    step_s: float
    parts_s: dict[str, float]
    timeline: tuple[Bin, ...]
    samples: tuple[Sample, ...]
    counters: tuple[str, str]
    warned: tuple[Warned, ...]
    own_s: float

    @property
    def stall_share(self) -> float:
        """Share of the loop's time in which it waited for a batch."""
        total = self.wait_s + self.step_s
        return self.wait_s / total if total > 0 else 0.0

    @property
    def steps_per_s(self) -> float:
        """Steps in a second of the loop, marked parts left out."""
        total = self.wait_s + self.step_s
        return self.steps / total if total > 0 else 0.0

    def to_json(self) -> str:
        """Return it as JSON, with the two shares."""
        return json.dumps(asdict(self) | {"stall_share": self.stall_share, "steps_per_s": self.steps_per_s}, indent=1)


class Monitor:
    """Watches a job from its own process; a step costs it a few readings of the clock, a thread samples the devices and judges.

        with Monitor() as monitor:
            for batch in monitor.watch(loader):
                train(batch)
            with monitor.during("validation"):
                validate()
        print(monitor.result().to_json())

    Args:
        counters: Of the devices; None: NVML's, or the CPU's where there is no NVIDIA driver. They are closed with the monitor.
        every_s: Between two samples.
        limits: When it warns.
        warn: Is told each warning, and again only after its cause had gone; None: the log. Called in the sampling thread.

    Raises:
        ConfigError: `every_s` is not above 0.
    """

    def __init__(
        self,
        counters: Counters | None = None,
        *,
        every_s: float = 1.0,
        limits: Limits | None = None,
        warn: Callable[[Warned], None] | None = None,
    ) -> None:
        if every_s <= 0:
            raise ConfigError(f"a sample every {every_s} s", do="give seconds above 0; 1 is usual")
        self._counters, self._every, self._limits = counters or find_counters(), every_s, limits or Limits()
        self._tell = warn or (lambda warned: logger.warning("%s", warned))
        self._timeline = Timeline(self._limits.window)
        self._parts: dict[str, float] = {}
        self._samples: list[Sample] = []
        self._latest: deque[tuple[float, tuple[Reading, ...]]] = deque(maxlen=2 * self._limits.samples)
        self._warned: list[Warned] = []
        self._standing: set[tuple[str, str]] = set()
        self._each, self._read = 1, 0
        self._began = self._marked = self._own = 0.0
        self._wall: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="device-watch", daemon=True)

    def __enter__(self) -> Monitor:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._counters.close()
        self._wall = time.perf_counter() - self._began

    def watch(self, batches: Iterable[T]) -> Generator[T, None, None]:
        """Yield the batches; what passes before each is its wait, what passes until the next is asked for is its step."""
        before = time.perf_counter()
        source = iter(batches)
        try:
            while True:
                batch: Any = next(source, _END)
                got = time.perf_counter()
                if batch is _END:
                    self._timeline.add(got - self._began, got - before, 0.0, steps=0)
                    return
                self._marked = 0.0
                yield batch
                del batch  # or it would live on while the next one is loaded
                now = time.perf_counter()
                self._timeline.add(now - self._began, got - before, now - got - self._marked)
                before = now
        finally:
            if isinstance(source, Generator):
                source.close()

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count the block's time as a part of its own: validation, a checkpoint."""
        before = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - before
            self._marked += passed
            self._parts[part] = self._parts.get(part, 0.0) + passed

    def result(self) -> Watched:
        """Return what was seen until now."""
        timeline = self._timeline
        return Watched(
            wall_s=time.perf_counter() - self._began if self._wall is None else self._wall,
            steps=timeline.steps,
            wait_s=timeline.wait_s,
            step_s=timeline.step_s,
            parts_s=dict(self._parts),
            timeline=timeline.bins(),
            samples=tuple(self._samples),
            counters=(self._counters.kind, self._counters.why),
            warned=tuple(self._warned),
            own_s=self._own,
        )

    def _run(self) -> None:
        try:
            while True:
                ended = self._stop.wait(self._every)
                self._sample()
                self._own = time.thread_time()
                if ended:
                    return
        except Exception as error:  # a watcher that fails must not end what it watches; but it says so
            logger.exception("the device watch has ended")
            do = "the job goes on unwatched; report this"
            self._warned.append(Warned("watch", time.perf_counter() - self._began, "The watch itself has failed.", repr(error), do))

    def _sample(self) -> None:
        sample = Sample(time.perf_counter() - self._began, self._counters.read())
        if self._read % self._each == 0:
            self._samples.append(sample)
            if len(self._samples) >= 2 * _SAMPLES:
                self._samples, self._each = self._samples[::2], 2 * self._each
        self._read += 1
        recent = self._timeline.recent()
        if len(recent.steps_s) < self._limits.window:
            self._latest.clear()  # memory that is taken while a job begins is no leak
        self._latest.append((sample.at_s, sample.readings))
        found = {(warned.kind, warned.device): warned for warned in judge(recent, tuple(self._latest), self._limits)}
        for key, warned in found.items():
            if key not in self._standing:
                self._warned.append(warned)
                self._tell(warned)
        self._standing = set(found)
