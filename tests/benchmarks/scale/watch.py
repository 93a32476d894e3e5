"""Device watch against what jobs really do: predicted and measured stalls, predicted and actual gain of prefetching, the watch's own cost.

    python tests/benchmarks/scale/watch.py [--quick]

A job is (load time, step time, workers, jitter, kind of load, kind of step). Loads and steps are workloads, executed in this process:
`sleep` waits as for a disk or a device; `numpy` computes outside Python's lock; `python` holds it. The preflight times loads and steps
apart; then the loop runs as it is and with prefetching threads, and the monitor says what it saw. Every pass draws its loads anew, so the
preflight never sees the times that it predicts. What waits is measured; what a GPU does with it is not shown here. It needs a quiet machine
of two cores; how quiet it was during each job stands on stderr.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from components.train.watch import CpuCounters, Monitor, Prefetch, Watched, overlapped_stall, preflight
from pipelines.bench.row import Row, row

__all__ = ["JOBS", "Job", "rows"]

_STALL, _GAIN, _BUSY, _COST = 0.05, 0.10, 1.9, 0.01
"""The issue's goals."""
_SHORTEST_STEP_S = 0.005
"""A step for which the watch's share is told; longer ones pay less."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        load_ms: Mean of a load.
        step_ms: Mean of a step.
        workers: Prefetching threads that are tried.
        jitter: Standard deviation of a load over its mean.
        load: `sleep`, `numpy` or `python`.
        step: `sleep` or `numpy`.
    """

    load_ms: float
    step_ms: float
    workers: int
    jitter: float
    load: str = "sleep"
    step: str = "sleep"

    def __str__(self) -> str:
        return f"{self.load} {self.load_ms:g} ms ±{self.jitter:.0%}, {self.step} step {self.step_ms:g} ms, {self.workers} workers"


BALANCED = Job(10, 10, 1, 0.0)
JOBS: tuple[Job, ...] = (
    BALANCED,
    Job(10, 10, 1, 0.3),
    *(Job(load, step, 1, jitter) for load, step in ((3, 10), (6, 10), (10, 6), (20, 5)) for jitter in (0.0, 0.3)),
    *(Job(load, step, 2, jitter) for load, step in ((15, 10), (20, 5)) for jitter in (0.0, 0.3)),
    Job(20, 5, 4, 0.3),
    *(Job(load, step, 1, jitter, "numpy") for load, step in ((5, 10), (10, 10), (15, 8)) for jitter in (0.0, 0.3)),
    *(Job(load, step, 1, 0.0, "numpy", "numpy") for load, step in ((5, 10), (10, 10), (15, 8))),
    Job(15, 8, 2, 0.3, "numpy", "numpy"),
    *(Job(load, step, 1, 0.0, "python") for load, step in ((5, 10), (10, 10))),
    Job(10, 10, 1, 0.0, "python", "numpy"),
)


@dataclass(frozen=True)
class Pairs:
    """(predicted, measured) of each turn."""

    turns: tuple[tuple[float, float], ...]

    @property
    def said(self) -> float:
        """What was predicted, median."""
        return statistics.median(said for said, _ in self.turns)

    @property
    def seen(self) -> float:
        """What was measured, median."""
        return statistics.median(seen for _, seen in self.turns)

    @property
    def apart(self) -> float:
        """How far predicted and measured are apart, median over turns: neighbours in time; errors of both signs do not cancel."""
        return statistics.median(abs(seen - said) for said, seen in self.turns)

    @property
    def relative(self) -> float:
        """How far predicted over measured is from one, likewise."""
        return statistics.median(abs(said / seen - 1) for said, seen in self.turns)


@dataclass(frozen=True)
class Outcome:
    """A job's figures, as `Pairs` or by the formula on the means; `crowded` as of `Facts`, `friction` the step's.

    Pairs called `again` are of the loop with prefetching and of the same loop once more: what the machine leaves to any prediction.
    """

    job: Job
    stall: Pairs
    stall_then: Pairs
    stall_again: Pairs
    formula: float
    gain: Pairs
    gain_again: Pairs
    formula_gain: float
    busy: float
    crowded: float
    friction: float


class Workloads:
    """Work of a wished length. Its speed is measured once, so that a load computes a fixed amount and not until a clock says so."""

    def __init__(self) -> None:
        self._matrix = np.random.default_rng(0).random((96, 96))
        self._per_s = {kind: self._speed(kind) for kind in ("numpy", "python")}

    def run(self, kind: str, seconds: float) -> None:
        """Wait or compute for about so long."""
        if kind == "sleep":
            time.sleep(seconds)
        else:
            self._units(kind, max(1, round(seconds * self._per_s[kind])))

    def _units(self, kind: str, count: int) -> None:
        if kind == "numpy":
            for _ in range(count):
                np.sin(self._matrix)
        else:
            sum(number * number for number in range(100 * count))

    def _speed(self, kind: str) -> float:
        fastest = float("inf")
        for _ in range(5):
            before = time.perf_counter()
            self._units(kind, 100)
            fastest = min(fastest, time.perf_counter() - before)
        return 100 / fastest


@dataclass(frozen=True)
class Loads:
    """Names of the batches of one pass: the seconds that each load takes; every pass draws anew."""

    job: Job
    count: int
    draw: random.Random

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[float]:
        mean, spread = self.job.load_ms / 1e3, self.job.jitter
        shape = 1 / spread**2 if spread else 0.0
        return iter([mean * (self.draw.gammavariate(shape, 1 / shape) if spread else 1.0) for _ in range(self.count)])


def run(job: Job, work: Workloads, *, measured: int, steps: int, passes: int, seed: int) -> Outcome:
    """Predict a job from `measured` loads and steps, then run it without, with and again with prefetching; `passes` times, medians count.

    A machine's speed drifts within a minute: turns are short, and a prediction is compared with the loops that follow it at once.
    """
    loads = Loads(job, steps, random.Random(f"{job} {seed}"))

    def load(seconds: float) -> int:
        work.run(job.load, seconds)
        return 0

    def step(_: Any) -> None:
        work.run(job.step, job.step_ms / 1e3)

    flown, serial, ahead, again = [], [], [], []
    for _ in range(passes):
        known = Prefetch(replace(loads, count=measured + 1), load, workers=0)
        flown.append(preflight(known, step, batches=measured, budget_s=30.0, parallel=job.workers, epoch_batches=steps).facts)
        serial.append(_watched(Prefetch(loads, load, workers=0), step))
        ahead.append(_watched(Prefetch(loads, load, workers=job.workers), step))
        again.append(_watched(Prefetch(loads, load, workers=job.workers), step))
    now, then = [facts.loop() for facts in flown], [facts.with_workers(job.workers) for facts in flown]
    load_s, step_s = statistics.median(facts.load.mean_s for facts in flown), statistics.median(facts.step.mean_s for facts in flown)
    return Outcome(
        job,
        _pairs((facts.stall_share for facts in now), (watched.stall_share for watched in serial)),
        _pairs((facts.stall_share for facts in then), (watched.stall_share for watched in ahead)),
        _pairs((watched.stall_share for watched in again), (watched.stall_share for watched in ahead)),
        overlapped_stall(load_s, step_s, job.workers),
        _pairs((a.iteration_s / b.iteration_s for a, b in zip(now, then, strict=True)), _gains(serial, ahead)),
        _pairs(_gains(serial, again), _gains(serial, ahead)),
        (load_s + step_s) / max(load_s / job.workers, step_s),
        statistics.median((1 - b.stall_share) / (1 - a.stall_share) for a, b in zip(serial, ahead, strict=True)),
        statistics.median(facts.crowded for facts in flown),
        statistics.median(facts.step.friction for facts in flown),
    )


def _gains(serial: Iterable[Watched], ahead: Iterable[Watched]) -> Iterator[float]:
    return (b.steps_per_s / a.steps_per_s for a, b in zip(serial, ahead, strict=True))


def _pairs(said: Iterable[float], seen: Iterable[float]) -> Pairs:
    return Pairs(tuple(zip(said, seen, strict=True)))


def _watched(batches: Prefetch[int], step: Callable[[Any], None]) -> Watched:
    with Monitor(CpuCounters(), every_s=0.5, warn=lambda warned: None) as monitor:
        for batch in monitor.watch(batches):
            step(batch)
    return monitor.result()


def own_cost(repeats: int) -> tuple[float, float]:
    """Return the processor seconds that the watch takes for a step, and for a second of wall clock; the least of several."""
    steps, a_step = 20_000, float("inf")
    for _ in range(repeats):
        used = time.process_time()
        for _ in range(steps):
            pass
        bare, used = time.process_time() - used, time.process_time()
        with Monitor(CpuCounters(), every_s=60.0, warn=lambda warned: None) as monitor:
            for _ in monitor.watch(range(steps)):
                pass
            watched = time.process_time() - used
        a_step = min(a_step, (watched - bare) / steps)
    with Monitor(CpuCounters(), every_s=1.0, warn=lambda warned: None) as monitor:
        for _ in monitor.watch(range(600)):
            time.sleep(_SHORTEST_STEP_S)
    seen = monitor.result()
    return a_step, seen.own_s / seen.wall_s


def rows(outcomes: Sequence[Outcome], cost: tuple[float, float], seed: int) -> Iterator[Row]:
    """Yield the table."""
    jobs = f"{len(outcomes)} jobs"

    def figure(name: str, errors: Sequence[float], rival: Sequence[float], again: Sequence[float], limit: float) -> Iterator[Row]:
        for which, of in (("worst", max), ("median", statistics.median)):
            yield row(f"{name}, {which} of {jobs}", of(errors), "difference", "the goal", limit, "<=", seed=seed)
            yield row(f"{name}, {which} of {jobs}", of(errors), "difference", "the formula on the means", of(rival), "<=", seed=seed)
            yield row(f"{name}, {which} of {jobs}", of(errors), "difference", "the loop itself, run again", of(again), "", seed=seed)

    both = [pairs.apart for outcome in outcomes for pairs in (outcome.stall, outcome.stall_then)]
    plain = [outcome.stall.apart for outcome in outcomes]
    plain += [abs(outcome.formula - outcome.stall_then.seen) for outcome in outcomes]
    again = [outcome.stall_again.apart for outcome in outcomes]
    yield from figure("predicted - measured stall share", both, plain, again, _STALL)
    gains = [outcome.gain.relative for outcome in outcomes]
    formula = [abs(outcome.formula_gain / outcome.gain.seen - 1) for outcome in outcomes]
    again = [outcome.gain_again.relative for outcome in outcomes]
    yield from figure("predicted / actual gain of prefetching - 1", gains, formula, again, _GAIN)
    balanced = next(outcome for outcome in outcomes if outcome.job == BALANCED)
    yield row(
        f"busy time with / without prefetching, {BALANCED}", balanced.busy, "ratio", "the goal (2 is the most)", _BUSY, ">=", seed=seed
    )
    a_step, a_second = cost
    yield row(
        "the watch's processor time a step", 1e6 * a_step, "µs", "1 % of a step of 5 ms", 1e6 * _COST * _SHORTEST_STEP_S, "<=", seed=seed
    )
    share = a_step / _SHORTEST_STEP_S + a_second
    yield row("the watch's share of a loop with steps of 5 ms", share, "share", "the goal", _COST, "<=", seed=seed)


def main() -> None:
    """Print the rows as JSON, the jobs on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, one pass")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    work, outcomes = Workloads(), []
    measured, steps, passes = (25, 25, 1) if given.quick else (50, 60, 7)
    print(
        f"{'job':56}  stall: said seen apart   ahead: said seen apart again  formula "
        "  gain: said seen apart again  formula  crowded friction",
        file=sys.stderr,
    )
    for job in JOBS:
        found = run(job, work, measured=measured, steps=steps, passes=passes, seed=given.seed)
        outcomes.append(found)
        stalls = "".join(f"{pairs.said:11.3f} {pairs.seen:.3f} {pairs.apart:6.3f} " for pairs in (found.stall, found.stall_then))
        stalls += f"{found.stall_again.apart:.3f}"
        gains = f"{found.gain.said:11.2f} {found.gain.seen:.2f} {found.gain.relative:6.3f} {found.gain_again.relative:.3f}"
        gains += f" {found.formula_gain:8.2f}"
        print(
            f"{job!s:56}{stalls} {found.formula:8.3f} {gains} {found.crowded:8.0%} {found.friction:8.2f}",
            file=sys.stderr,
            flush=True,
        )
    for line in rows(outcomes, own_cost(2 if given.quick else 5), given.seed):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
