"""How long an iteration takes, and how much of it is waiting for data, from times measured apart: before the loop is built.

Notation: L seconds to load a batch, S seconds a step, W batches loaded at a time while the step runs (0: loaded between steps), T seconds
an iteration. Stall share: what the loop waits for data, (T - S) / T.

- Serial: T = L + S, stall L / (L + S).
- Overlapped, equal times, a core for everybody: T = max(L / W, S), stall max(0, L / W - S) / max(L / W, S); so overlap gains at most 2,
  where L = S.
- What the formula leaves out is *replayed* on a virtual clock (`predict`): times that vary (a full queue hides a slow load, an empty one
  does not), cores shared by loads and step, and Python's lock. Every running part is a wait (rate 1), then computing: all that compute
  share the cores evenly, and are slower by a measured *friction* while another part is under way (a lock handed over between short calls,
  shared caches, a core that wakes up).
  While one keeps the lock (pure Python), who computes in short calls stands still, and who has waited gets it after the interpreter's
  switch interval. With equal times and enough cores the replay gives the formula.

Bounded queue between producer and consumer as in a tandem queue with blocking; shared cores as egalitarian processor sharing (Kleinrock
1976, "Queueing Systems" II, 4.4).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from components.core.errors import DataError

__all__ = ["Cost", "Prediction", "overlapped_stall", "predict", "serial_stall", "with_friction"]

_BATCHES = 400
"""Replayed at most; of a longer loop the first tenth only fills the queue and is not counted."""
_SMALLEST = 1e-12
_FITTED, _LEAST_FRICTION, _MOST_FRICTION = 8, 0.5, 4.0
_BRIEF_S = 2e-4
"""Who computes for less than this after a wait is done before anybody can ask for the lock."""


@dataclass(frozen=True)
class Cost:
    """What one load, or one step, takes when nothing else runs.

    Attributes:
        times_s: Wall clock of each one that was measured.
        busy: Share of that in which it computed; the rest it waited (disk, network, device).
        locked: Share in which it computed and kept Python's lock, for longer than the switch interval if let; at most `busy`.
        width: Cores that it computed on at once.
        friction: Times as long its computing takes while another part is under way, too; below 1 where that was measured on shorter ones.
    """

    times_s: tuple[float, ...]
    busy: float = 0.0
    locked: float = 0.0
    width: float = 1.0
    friction: float = 1.0

    def __post_init__(self) -> None:
        if not self.times_s or not all(math.isfinite(t) and t >= 0 for t in self.times_s):
            raise DataError(f"times of a load or a step: {self.times_s!r}", do="measure at least one; seconds from 0")
        if not (0 <= self.locked <= self.busy <= 1 and self.width >= 1 and self.friction > 0):
            given = f"busy {self.busy}, locked {self.locked}, width {self.width}, friction {self.friction}"
            raise DataError(given, do="0 <= locked <= busy <= 1, width from 1 and friction above 0 are needed")

    @property
    def mean_s(self) -> float:
        """Mean wall clock."""
        return math.fsum(self.times_s) / len(self.times_s)


@dataclass(frozen=True)
class Prediction:
    """A loop's expected iteration.

    Attributes:
        iteration_s: Seconds of wall clock from one step's start to the next one's.
        stall_share: Share of it in which the step waits for data.
        step_s: The step's part: more than alone when it must share cores with the loads.
    """

    iteration_s: float
    stall_share: float
    step_s: float


def serial_stall(load_s: float, step_s: float) -> float:
    """Return the stall share of a loop that loads, then steps; 0 when neither takes time."""
    return load_s / (load_s + step_s) if load_s + step_s > 0 else 0.0


def overlapped_stall(load_s: float, step_s: float, workers: int) -> float:
    """Return the stall share of a loop whose loads run `workers` at a time beside the step; equal times, a core for everybody.

    Raises:
        DataError: `workers` is below 1.
    """
    if workers < 1:
        raise DataError(f"{workers} workers beside the step", do="give 1 or more; `serial_stall` is for a loop without")
    slowest = max(load_s / workers, step_s)
    return (slowest - step_s) / slowest if slowest > 0 else 0.0


def predict(load: Cost, step: Cost, *, workers: int, depth: int = 0, cores: float = math.inf, batches: int = 0) -> Prediction:
    """Replay a loop on a virtual clock.

    Args:
        load: Of one batch.
        step: Of one step.
        workers: Loads at a time beside the step; 0: the loop itself loads between steps.
        depth: Batches that are being loaded or wait to be taken, at most; 0: twice the workers.
        cores: That loads and step may use together.
        batches: Of the loop, which begins with an empty queue; 0: so many that its beginning does not count.

    Raises:
        DataError: `workers`, `batches` or `depth` is negative, or there is no core.
    """
    if min(workers, depth, batches) < 0 or cores <= 0:
        given = f"{workers} workers, depth {depth}, {batches} batches, {cores} cores"
        raise DataError(given, do="give workers, depth and batches from 0, cores above 0")
    if workers == 0:
        total = load.mean_s + step.mean_s
        return Prediction(total, serial_stall(load.mean_s, step.mean_s), step.mean_s)
    short = 0 < batches <= _BATCHES
    waits, steps = _Replay(load, step, workers, max(depth or 2 * workers, workers), cores).run(batches if short else _BATCHES)
    start = 0 if short else _BATCHES // 10
    waited, stepped = math.fsum(waits[start:]), math.fsum(steps[start:])
    count = len(steps) - start
    return Prediction((waited + stepped) / count, serial_stall(waited, stepped), stepped / count)


def with_friction(load: Cost, step: Cost, seen: Prediction, *, workers: int, cores: float, batches: int) -> tuple[Cost, Cost]:
    """Return load and step with the frictions with which the replay of a short loop comes to what was seen of it.

    Args:
        load: Alone.
        step: Alone.
        seen: Of the loop.
        workers: Of the loop, as are the others: see `predict`.
        cores: That it may use.
        batches: It had.
    """
    for _ in range(_FITTED):
        said = predict(load, step, workers=workers, cores=cores, batches=batches)
        load = replace(load, friction=_within(load.friction * seen.iteration_s / said.iteration_s))
        step = replace(step, friction=_within(step.friction * seen.step_s / said.step_s))
    return load, step


def _within(friction: float) -> float:
    # Not at least 1: what varies is shorter in half of all short loops, and to cut those off would tell every loop too slow.
    return min(max(_LEAST_FRICTION, friction), _MOST_FRICTION)


@dataclass
class _Task:
    """A load or a step that runs: seconds left of waiting, of asking for the lock after it, of computing, of computing under the lock."""

    left: list[float]
    width: float
    friction: float
    began: float

    def phase(self) -> int:
        """0: waits, 1: asks for the lock, 2: computes, 3: computes and keeps the lock, 4: done."""
        return next((index for index, seconds in enumerate(self.left) if seconds > _SMALLEST), 4)


@dataclass
class _Replay:
    load: Cost
    step: Cost
    workers: int
    depth: int
    cores: float
    switch_s: float = field(default_factory=sys.getswitchinterval)
    now: float = 0.0
    loads: dict[int, _Task] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)

    def run(self, batches: int) -> tuple[list[float], list[float]]:
        """Return for each of the first `batches` iterations its seconds of waiting, and of the step."""
        waits: list[float] = []
        steps: list[float] = []
        started, delivered, free = 0, False, 0.0
        step: _Task | None = None
        while len(steps) < batches:
            if step is None and len(steps) in self.ready:
                self.ready.remove(len(steps))
                waits.append(self.now - free)
                step = _task(self.step, len(steps), self.now)
            # The first batch is loaded alone, as `Prefetch` does.
            while len(self.loads) < (self.workers if delivered else 1) and len(self.loads) + len(self.ready) < self.depth:
                self.loads[started] = _task(self.load, started, self.now)
                started += 1
            self._advance([*self.loads.values(), *([step] if step else [])])
            for number in [number for number, task in self.loads.items() if task.phase() == 4]:
                self.ready.add(number)
                del self.loads[number]
                delivered = True
            if step is not None and step.phase() == 4:
                steps.append(self.now - step.began)
                step, free = None, self.now
        return waits, steps

    def _advance(self, tasks: Sequence[_Task]) -> None:
        """Let time pass until the next phase of any task ends."""
        phases = [task.phase() for task in tasks]
        holders = phases.count(3)
        running = (3,) if holders else (2,)  # what computes in short calls needs the lock between them
        wanted = math.fsum(task.width for task, phase in zip(tasks, phases, strict=True) if phase in running)
        share = min(1.0, self.cores / wanted) if wanted else 1.0
        of_phase = [1.0, 1.0, 0.0 if holders else share, min(share, 1.0 / max(holders, 1)), 0.0]
        rates = [
            of_phase[phase] / (task.friction if len(tasks) > 1 and phase == 2 else 1.0) for task, phase in zip(tasks, phases, strict=True)
        ]
        going = [(task, phase, rate) for task, phase, rate in zip(tasks, phases, rates, strict=True) if rate]
        passed = min((task.left[phase] / rate for task, phase, rate in going), default=0.0)
        for task, phase, rate in going:
            task.left[phase] -= passed * rate
            if phase == 0 and task.left[0] <= _SMALLEST:
                task.left[1] = self.switch_s
        self.now += passed
        if not any(task.phase() == 3 for task in tasks):
            for task in tasks:
                task.left[1] = 0.0


def _task(cost: Cost, number: int, now: float) -> _Task:
    wall = cost.times_s[number % len(cost.times_s)]
    waits, computes, keeps = wall * (1 - cost.busy), wall * (cost.busy - cost.locked), wall * cost.locked
    if waits and not keeps and computes < _BRIEF_S:
        waits, computes = wall, 0.0
    return _Task([waits, 0.0, computes, keeps], cost.width, cost.friction, now)
