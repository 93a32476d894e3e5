"""Device watch: predictions, prefetching, counters, warnings, rules, the page. Loaders and steps are real ones that sleep or compute."""

from __future__ import annotations

import gc
import json
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.core.errors import ConfigError, DataError
from components.train.watch import (
    Cost,
    CpuCounters,
    Facts,
    Limits,
    MemoryForecast,
    Monitor,
    NvmlCounters,
    Placer,
    Prefetch,
    Preflight,
    Reading,
    Syncs,
    Warned,
    advise,
    choose,
    count_syncs,
    find_counters,
    forecast_memory,
    overlapped_stall,
    predict,
    prefetched,
    preflight,
    serial_stall,
    twice,
    write_report,
)
from components.train.watch.alarms import judge
from components.train.watch.measure import LockProbe, time_loads
from components.train.watch.prediction import with_friction
from components.train.watch.timeline import Recent, Timeline

_loader = SourceFileLoader("well_formed", str(Path(__file__).parents[1] / "well_formed.py"))
_module = module_from_spec(spec_from_loader("well_formed", _loader))  # type: ignore[arg-type]
_loader.exec_module(_module)
WellFormed = _module.WellFormed

pytestmark = pytest.mark.alone

SECONDS = st.floats(0.001, 1.0)
VARYING = st.lists(SECONDS, min_size=1, max_size=12).map(tuple)


def cost(seconds: float, **kind: float) -> Cost:
    return Cost((seconds,), **kind)


# prediction


@given(load=SECONDS, step=SECONDS, workers=st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_equal_times_on_enough_cores_are_the_formula(load: float, step: float, workers: int) -> None:
    replayed = predict(cost(load, busy=0.7), cost(step, busy=0.9), workers=workers, cores=8)
    assert replayed.iteration_s == pytest.approx(max(load / workers, step), rel=0.02)
    assert replayed.stall_share == pytest.approx(overlapped_stall(load, step, workers), abs=0.02)


@given(load=VARYING, step=VARYING, workers=st.integers(1, 4), cores=st.sampled_from([1.0, 2.0, 4.0, math.inf]), busy=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_overlap_is_never_faster_than_its_bound_nor_slower_than_serial(
    load: tuple[float, ...], step: tuple[float, ...], workers: int, cores: float, busy: float
) -> None:
    loads, steps = Cost(load, busy), Cost(step, busy)
    replayed = predict(loads, steps, workers=workers, cores=cores)
    slack = 1.0 / 100  # the 360 counted iterations are no whole number of the times' rounds
    assert replayed.iteration_s >= (1 - slack) * max(min(load) / workers, min(step))
    assert replayed.iteration_s >= busy * (min(load) + min(step)) / cores * (1 - slack)
    assert replayed.iteration_s <= (max(load) + max(step)) * (1 + slack)
    assert 0 <= replayed.stall_share <= 1
    # Not "never faster than without a lock": who takes turns computes while the other waits, who shares a core may not (1.0 against 1.5 s
    # where load and step both wait 0.5 s, then compute 0.5 s, on one core).
    held = predict(Cost(load, busy, busy), steps, workers=workers, cores=cores)
    assert held.iteration_s >= (1 - slack) * max(busy * min(load), min(load) / workers, min(step))


@given(load=VARYING, step=VARYING)
@settings(deadline=None, max_examples=40)
def test_serial_is_the_sum_and_overlap_gains_at_most_two(load: tuple[float, ...], step: tuple[float, ...]) -> None:
    loads, steps = Cost(load), Cost(step)
    serial = predict(loads, steps, workers=0)
    assert serial.iteration_s == pytest.approx(loads.mean_s + steps.mean_s)
    assert serial.stall_share == pytest.approx(serial_stall(loads.mean_s, steps.mean_s))
    assert overlapped_stall(loads.mean_s, steps.mean_s, 1) <= serial.stall_share
    assert serial.iteration_s / max(loads.mean_s, steps.mean_s) <= 2 + 1e-9


def test_two_computing_parts_on_one_core_gain_nothing_and_on_two_they_double() -> None:
    load = step = cost(0.01, busy=1.0)
    assert predict(load, step, workers=1, cores=1).iteration_s == pytest.approx(0.02, rel=0.02)
    assert predict(load, step, workers=1, cores=2).iteration_s == pytest.approx(0.01, rel=0.02)
    waiting = cost(0.01)
    assert predict(waiting, step, workers=1, cores=1).iteration_s == pytest.approx(0.01, rel=0.02)


def test_pythons_lock_serialises_whatever_the_cores() -> None:
    load, step = cost(0.01, busy=1.0, locked=1.0), cost(0.01, busy=1.0, locked=1.0)
    assert predict(load, step, workers=1, cores=8).iteration_s == pytest.approx(0.02, rel=0.02)
    # A step of many short calls needs the lock between them; one that waits (a disk, a device) does not.
    assert predict(load, cost(0.01, busy=1.0), workers=1, cores=8).iteration_s == pytest.approx(0.02, rel=0.02)
    assert predict(load, cost(0.01), workers=1, cores=8).iteration_s == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("frictions", [(1.3, 1.1), (0.9, 0.95)])
def test_what_computing_parts_lose_to_each_other_is_found_again(workers: int, frictions: tuple[float, float]) -> None:
    load, step = cost(0.012 * workers, busy=1.0), cost(0.010, busy=0.9)
    slow = tuple(replace(part, friction=friction) for part, friction in zip((load, step), frictions, strict=True))
    loop = {"workers": workers, "cores": 4, "batches": 100}
    seen = predict(*slow, **loop)
    assert (seen.iteration_s > predict(load, step, **loop).iteration_s) == (frictions[0] > 1)
    again = predict(*with_friction(load, step, seen, **loop), **loop)
    assert again.iteration_s == pytest.approx(seen.iteration_s, rel=0.01)
    assert again.stall_share == pytest.approx(seen.stall_share, abs=0.01)
    waits = cost(0.012)
    assert predict(replace(waits, friction=1.3), step, workers=1) == predict(waits, step, workers=1), "who only waits loses nothing"


def test_a_step_that_waits_has_its_turn_while_a_load_keeps_the_lock() -> None:
    seen = predict(cost(0.020, busy=1.0, locked=1.0), cost(0.010, busy=0.01), workers=1, cores=2)
    assert seen.iteration_s == pytest.approx(0.020, rel=0.02)
    assert seen.step_s == pytest.approx(0.010 + sys.getswitchinterval(), rel=0.05)


def test_jitter_costs_more_than_the_means_say_and_a_deeper_queue_takes_it_back() -> None:
    load, step = Cost((0.002,) * 9 + (0.082,)), cost(0.010)  # both 10 ms in the mean
    shallow, deep = predict(load, step, workers=1, depth=1), predict(load, step, workers=1, depth=32)
    assert shallow.iteration_s > 1.3 * 0.010
    assert deep.iteration_s < 1.1 * 0.010


@pytest.mark.parametrize("wrong", [{"times_s": ()}, {"times_s": (math.nan,)}, {"times_s": (1.0,), "busy": 0.1, "locked": 0.5}])
def test_a_cost_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Cost(**wrong)


def test_senseless_loops_are_refused() -> None:
    with pytest.raises(DataError):
        predict(cost(1.0), cost(1.0), workers=-1)
    with pytest.raises(DataError):
        overlapped_stall(1.0, 1.0, 0)


# prefetching


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch-")}


@given(count=st.integers(0, 30), workers=st.integers(0, 4), extra=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_the_order_is_the_sources_whatever_loads_when(count: int, workers: int, extra: int) -> None:
    def load(key: int) -> int:
        time.sleep(0.0004 * (key * 7 % 3))
        return 10 * key

    loader = Prefetch(range(count), load, workers=workers, depth=workers + extra or 1)
    expected = [10 * key for key in range(count)]
    assert list(loader) == expected
    assert list(loader) == expected  # a second epoch
    assert len(loader) == count
    assert not threads()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("bad", [0, 1, 6])
def test_an_exception_comes_where_its_batch_would_have_come(workers: int, bad: int) -> None:
    def load(key: int) -> int:
        if key == bad:
            raise OSError(f"item {key} can't be read")
        return key

    seen: list[int] = []
    with pytest.raises(OSError, match=f"item {bad}"):
        seen.extend(Prefetch(range(20), load, workers=workers))
    assert not threads()
    assert seen == list(range(bad))
    assert not threads()


def test_an_exception_of_the_source_comes_too() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("the shard has ended early")

    seen: list[int] = []
    with pytest.raises(OSError, match="shard"):
        seen.extend(Prefetch(source()))
    assert seen == [0, 1, 2]
    assert not threads()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_loop_left_early_leaves_no_thread(workers: int) -> None:
    for batch in Prefetch(range(10**9), abs, workers=workers):
        if batch == 5:
            break
    gc.collect()
    assert not threads()


def test_an_endless_source_is_never_read_further_than_the_depth() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    taken = 0
    for _ in Prefetch(endless(), depth=3):
        taken += 1
        time.sleep(0.002)
        assert len(made) <= taken + 3
        if taken == 30:
            break
    assert taken == 30


def test_batches_that_are_done_with_are_freed_while_the_next_one_loads() -> None:
    class Batch:
        pass

    alive: list[weakref.ref[Batch]] = []
    most = 0

    def load(_: int) -> Batch:
        batch = Batch()
        alive.append(weakref.ref(batch))
        return batch

    for batch in Prefetch(range(40), load, workers=2, depth=2):
        most = max(most, sum(reference() is not None for reference in alive))
        del batch
    assert most <= 1 + 2  # the loop's own, and the depth


def test_a_shuffling_dataloader_gives_the_batches_of_the_serial_loop() -> None:
    data = torch.arange(64)

    def batches(prefetch: bool) -> list[list[int]]:
        torch.manual_seed(7)
        loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)  # type: ignore[arg-type]
        found = []
        for batch in Prefetch(loader) if prefetch else loader:
            torch.rand(3)  # the step draws from the same generator
            found.append(batch.tolist())
        return found

    assert batches(prefetch=True) == batches(prefetch=False)


def test_impossible_prefetching_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 workers for one iterator"):
        Prefetch([1, 2], workers=2)
    with pytest.raises(ConfigError, match="depth"):
        Prefetch([1, 2], abs, workers=4, depth=2)
    with pytest.raises(ConfigError):
        Prefetch([1, 2], workers=-1)


def test_on_a_cpu_batches_are_not_copied() -> None:
    batch = {"x": torch.ones(3)}
    (taken,) = Prefetch([batch], placer=Placer(torch.device("cpu")))
    assert taken is batch


# counters


class DriverAbsent(Exception):
    """Stands for NVMLError_LibraryNotFound."""


@dataclass
class FakeNvml:
    """The driver, as far as it is used."""

    busy: list[int] = field(default_factory=lambda: [30, 90])
    there: bool = True
    fails: set[int] = field(default_factory=set)
    open: int = 0
    NVMLError: type[Exception] = DriverAbsent

    def nvmlInit(self) -> None:
        if not self.there:
            raise DriverAbsent("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.busy)

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int, /) -> bytes:
        return f"Card {handle}".encode()

    def nvmlDeviceGetUtilizationRates(self, handle: int, /) -> Any:
        return SimpleNamespace(gpu=self.busy[handle])

    def nvmlDeviceGetMemoryInfo(self, handle: int, /) -> Any:
        if handle in self.fails:
            raise DriverAbsent("GPU is lost")
        return SimpleNamespace(used=(handle + 1) * 2**30, total=8 * 2**30)


def test_two_devices_are_read_and_the_driver_is_let_go() -> None:
    nvml = FakeNvml()
    counters = find_counters(nvml)
    assert isinstance(counters, NvmlCounters)
    assert counters.read() == (Reading("0: Card 0", 0.3, 2**30, 2**33), Reading("1: Card 1", 0.9, 2**31, 2**33))
    counters.close()
    assert nvml.open == 0


def test_one_chosen_device_and_one_that_is_not_there() -> None:
    assert [reading.device for reading in find_counters(FakeNvml(), [1]).read()] == ["1: Card 1"]
    with pytest.raises(ConfigError, match=r"\[2\] of 2"):
        find_counters(FakeNvml(), [2])


@pytest.mark.parametrize("nvml", [FakeNvml(there=False), FakeNvml(busy=[])])
def test_without_a_driver_or_a_device_the_process_is_read(nvml: FakeNvml) -> None:
    counters = find_counters(nvml)
    assert isinstance(counters, CpuCounters)
    assert "driver" in counters.why
    assert nvml.open == 0
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    (reading,) = counters.read()
    assert reading.utilisation is not None
    assert 0 < reading.utilisation <= 1
    assert reading.memory_bytes is not None
    assert reading.limit_bytes is not None
    assert 2**20 < reading.memory_bytes <= reading.limit_bytes


def test_the_real_library_says_whether_there_is_a_driver() -> None:
    pytest.importorskip("pynvml")
    counters = find_counters()
    assert counters.kind == ("nvml" if torch.cuda.is_available() else "cpu")
    counters.close()


# the monitor


class Script:
    """Counters that replay readings; the last one repeats."""

    kind, why = "nvml", "a script"

    def __init__(self, readings: list[tuple[Reading, ...]]) -> None:
        self._left, self.closed = readings, False

    def read(self) -> tuple[Reading, ...]:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]

    def close(self) -> None:
        self.closed = True


def slow(batches: int, seconds: float) -> Iterator[int]:
    for number in range(batches):
        time.sleep(seconds)
        yield number


def test_waits_steps_and_marked_parts_are_told_apart() -> None:
    stepped = 0.0
    with Monitor(CpuCounters(), every_s=0.02) as monitor:
        for number in monitor.watch(slow(20, 0.02)):
            before = time.perf_counter()
            time.sleep(0.01)
            stepped += time.perf_counter() - before
            if number % 10 == 9:
                with monitor.during("validation"):
                    time.sleep(0.2)
    seen = monitor.result()
    assert seen.steps == 20
    assert seen.wait_s >= 20 * 0.02
    assert seen.parts_s["validation"] >= 0.4
    assert stepped <= seen.step_s < stepped + 0.2  # neither waits nor the validation are in it
    assert seen.stall_share == pytest.approx(seen.wait_s / (seen.wait_s + seen.step_s))
    assert seen.wait_s + seen.step_s + seen.parts_s["validation"] <= seen.wall_s
    assert math.fsum(part.wait_s for part in seen.timeline) == pytest.approx(seen.wait_s)
    assert sum(part.steps for part in seen.timeline) == 20
    assert len(seen.samples) > 3
    assert "device-watch" not in {thread.name for thread in threading.enumerate()}
    assert json.loads(seen.to_json())["stall_share"] == seen.stall_share


def test_a_starved_loop_is_warned_of_once_and_a_fed_one_never() -> None:
    told: list[Warned] = []
    limits = Limits(window=5, slower=1000.0)
    with Monitor(CpuCounters(), every_s=0.01, limits=limits, warn=told.append) as monitor:
        for _ in monitor.watch(slow(40, 0.02)):
            time.sleep(0.002)
    assert [warned.kind for warned in told] == ["stall"]
    assert "loader" in told[0].cause
    assert monitor.result().warned == tuple(told)
    told.clear()
    with Monitor(CpuCounters(), every_s=0.01, limits=limits, warn=told.append) as monitor:
        for _ in monitor.watch(range(30)):
            time.sleep(0.01)
    assert not told


def test_a_device_that_fails_in_the_middle_is_told_and_the_other_is_still_read() -> None:
    nvml, told = FakeNvml(), []
    with Monitor(find_counters(nvml), every_s=0.01, warn=told.append) as monitor:
        for number in monitor.watch(range(30)):
            if number == 10:
                nvml.fails.add(0)
            time.sleep(0.01)
    seen = monitor.result()
    assert [(warned.kind, warned.device) for warned in told] == [("lost", "0: Card 0")]
    assert seen.samples[0].readings[0].memory_bytes == 2**30
    assert seen.samples[-1].readings[0].lost == "GPU is lost"
    assert seen.samples[-1].readings[1].memory_bytes == 2**31
    assert nvml.open == 0


@pytest.mark.parametrize("leaves", [True, False])
def test_leaving_the_loop_ends_the_prefetching_below_it(leaves: bool) -> None:
    with Monitor(CpuCounters()) as monitor:
        for batch in monitor.watch(Prefetch(range(50), abs, workers=2)):
            if leaves and batch == 3:
                break
        gc.collect()
        assert not threads()
    assert monitor.result().steps == (3 if leaves else 50)


def test_counters_that_break_end_the_watch_and_not_the_job(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Script):
        def read(self) -> tuple[Reading, ...]:
            raise RuntimeError("no such register")

    with Monitor(Broken([]), every_s=0.01) as monitor:
        steps = sum(1 for _ in monitor.watch(slow(5, 0.01)))
    assert steps == 5
    (warned,) = monitor.result().warned
    assert warned.kind == "watch"
    assert "no such register" in warned.cause
    assert "no such register" in caplog.text


def test_a_long_job_is_kept_in_little_memory_and_loses_no_step() -> None:
    line = Timeline(10)
    for step in range(20_000):
        line.add(step * 1.5, 0.5, 1.0)
    parts = line.bins()
    assert len(parts) <= 256
    assert sum(part.steps for part in parts) == line.steps == 20_000
    assert math.fsum(part.wait_s for part in parts) == pytest.approx(10_000)
    assert all(a.start_s + a.length_s == pytest.approx(b.start_s) for a, b in pairwise(parts))


LIMITS = Limits(window=10, samples=16)


def recent(wait: float, step: float, best: tuple[float, float] = (0.0, 0.01)) -> Recent:
    return Recent((wait,) * 10, (step,) * 10, *best, finished=100)


def readings(sizes: list[int], busy: list[float] | None = None) -> list[tuple[float, tuple[Reading, ...]]]:
    shares = busy or [0.9] * len(sizes)
    pairs = zip(sizes, shares, strict=True)
    return [(float(at), (Reading("0: Card", share, size * 2**20, 8 * 2**30),)) for at, (size, share) in enumerate(pairs)]


def test_memory_that_creeps_is_a_leak_and_a_saw_tooth_or_a_plateau_is_not() -> None:
    (leak,) = judge(recent(0, 0.01), readings([1000 + 50 * at for at in range(16)]), LIMITS)
    assert leak.kind == "memory"
    assert "50 MiB a second" in leak.said
    assert "full in" in leak.said
    assert not judge(recent(0, 0.01), readings([1000 + 400 * (at % 4) for at in range(16)]), LIMITS)
    assert not judge(recent(0, 0.01), readings([1000] * 8 + [3000] * 8), LIMITS)
    assert not judge(recent(0, 0.01), readings([1000 + at for at in range(16)]), LIMITS)  # 16 MiB


def test_the_cause_of_a_falling_speed_follows_what_has_grown() -> None:
    flat = readings([1000] * 16)
    (grown,) = [w for w in judge(recent(0.02, 0.01), flat, LIMITS) if w.kind == "slower"]
    assert grown.cause.startswith("the data")
    (itself,) = judge(recent(0.0, 0.02), flat, LIMITS)
    assert itself.cause.startswith("the step itself")
    (shared,) = judge(recent(0.0, 0.02), readings([1000] * 16, [0.9] * 8 + [0.3] * 8), LIMITS)
    assert "fell from 90% to 30%" in shared.cause
    assert not judge(recent(0.0, 0.011), flat, LIMITS)


def test_a_few_slow_batches_are_another_cause_than_a_slow_loader() -> None:
    spiky = replace(recent(0.001, 0.01), waits_s=(0.2,) + (0.0,) * 9)
    assert "few very slow batches" in next(w.cause for w in judge(spiky, [], LIMITS) if w.kind == "stall")


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ConfigError):
        Limits(stall_share=2)
    with pytest.raises(ConfigError):
        Monitor(CpuCounters(), every_s=0)


# rules: each fires on a job with its fault and on no other


HEALTHY = Facts(cost(0.008), cost(0.010), ahead=2, depth=4, cores=4.0, pinned=True, doubled=cost(0.02), epoch_batches=100)
LOCKED = replace(HEALTHY, ahead=0, depth=0, load=cost(0.010, busy=1.0, locked=1.0), step=cost(0.010, busy=1.0, locked=1.0))
SYNC = Syncs("train.py:12", ".item()", 3.0, 0.002, "cuda")
FAULTY: dict[str, Facts] = {
    "workers": replace(HEALTHY, load=cost(0.020)),
    "lock": LOCKED,
    "loader bound": replace(HEALTHY, load=cost(0.2)),
    "pinning": replace(HEALTHY, device="cuda", pinned=False, copy_s=0.002),
    "host syncs": replace(HEALTHY, device="cuda", syncs=(SYNC,)),
    "batch": replace(HEALTHY, doubled=cost(0.011)),
    "validation": replace(HEALTHY, validation_s=1.0),
    "crowded": replace(HEALTHY, crowded=0.5),
    "memory": replace(HEALTHY, memory=MemoryForecast(95, {}, "measured"), limit_bytes=100),
    "step bound": HEALTHY,
}


@pytest.mark.parametrize("rule", FAULTY)
def test_a_rule_fires_where_its_fault_is(rule: str) -> None:
    said = {advice.rule: advice for advice in advise(FAULTY[rule])}
    advice = said[rule]
    assert all((advice.seen, advice.why, advice.do))
    assert advice.gain is None or advice.gain >= 1
    assert said.keys() - {rule, "step bound", "workers"} == set()


def test_a_short_epoch_pays_for_its_first_load() -> None:
    load = step = cost(0.01)
    endless, short = predict(load, step, workers=1), predict(load, step, workers=1, batches=4)
    assert endless.stall_share == pytest.approx(0.0, abs=0.01)
    assert short.iteration_s == pytest.approx(0.05 / 4)  # one load, then four steps
    assert short.stall_share == pytest.approx(1 / 5)


def test_a_healthy_job_is_told_only_that_its_step_is_the_limit() -> None:
    assert [advice.rule for advice in advise(HEALTHY)] == ["step bound"]
    assert "step bound" not in {advice.rule for advice in advise(FAULTY["workers"])}


def test_predicted_gains_are_those_of_the_arithmetic() -> None:
    gains = {rule: {advice.rule: advice.gain for advice in advise(facts)}[rule] for rule, facts in FAULTY.items()}
    assert gains["workers"] == pytest.approx(2, rel=0.03)  # 20 ms between batches, 10 ms a step
    assert gains["lock"] == pytest.approx(2, rel=0.03)
    assert gains["loader bound"] == pytest.approx(20, rel=0.03)
    assert gains["pinning"] == gains["host syncs"] == pytest.approx(1.25, rel=0.03)
    assert gains["batch"] == pytest.approx(20 / 16, rel=0.05)  # then the loads of 2 × 8 ms are the limit
    assert gains["validation"] == pytest.approx(2 / (1 + 1 / 9), rel=0.03)
    assert gains["memory"] is None


def test_processes_are_no_advice_where_there_is_one_core() -> None:
    assert "lock" not in {advice.rule for advice in advise(replace(LOCKED, cores=1.0))}


def test_waits_on_a_cpu_are_named_and_promise_nothing() -> None:
    facts = replace(HEALTHY, syncs=(replace(SYNC, device="cpu"),))
    (advice,) = [advice for advice in advise(facts) if advice.rule == "host syncs"]
    assert advice.gain is None
    assert "train.py:12" in advice.seen


# syncs


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, torch.optim.AdamW(model.parameters())


def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


BATCH = (torch.randn(16, 8), torch.zeros(16, dtype=torch.long))


def trainer(model: nn.Module, optimiser: torch.optim.Optimizer, after: Callable[[torch.Tensor], object]) -> Callable[[Any], None]:
    def step(batch: Any) -> None:
        optimiser.zero_grad()
        loss = loss_of(model, batch)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        after(loss)

    return step


def test_every_read_of_a_value_is_counted_where_it_stands() -> None:
    def reads(loss: torch.Tensor) -> None:
        loss.item()
        if loss > 1e9:
            raise AssertionError

    found = count_syncs(trainer(*network(), reads), [BATCH, BATCH, BATCH])
    assert [sync.count for sync in found] == [1, 1]
    lines = {int(sync.where.rpartition(":")[2]) for sync in found}
    assert all(Path(sync.where.rpartition(":")[0]).name == "test_watch.py" for sync in found)
    assert max(lines) - min(lines) == 1


def test_a_step_that_reads_nothing_has_none_whatever_its_optimiser_reads() -> None:
    kept: list[torch.Tensor] = []
    assert count_syncs(trainer(*network(), lambda loss: kept.append(loss.detach())), [BATCH, BATCH]) == ()


# memory


def test_the_forecast_holds_parameters_gradients_and_adams_state_to_the_byte() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(256, 256)
        return model, torch.optim.AdamW(model.parameters())

    real = 4 * (256 * 256 + 256)
    few = (torch.zeros(2, 256), torch.zeros(2, dtype=torch.long))  # so that the peak is the optimiser's
    found = forecast_memory(build, few, loss_of, device=torch.device("cpu"))
    assert found.parts["Parameter"] == real
    assert found.parts["Gradient"] == real
    assert found.parts["Optstate"] >= 2 * real
    assert found.peak_bytes == sum(found.parts.values())


def test_a_batch_that_could_never_be_allocated_can_be_forecast() -> None:
    def wide() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(8, 2**20)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    huge = torch.zeros(1, 8).expand(2**20, 8)  # its output would have 4 TiB
    found = forecast_memory(wide, huge, lambda model, x: model(x).sum(), device=torch.device("cpu"))
    assert found.peak_bytes >= 4 * 2**40


def test_a_step_that_reads_values_cant_be_forecast() -> None:
    def reads(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = loss_of(model, batch)
        return loss * 2 if loss.item() > 0 else loss

    with pytest.raises(DataError, match="value"):
        forecast_memory(network, BATCH, reads, device=torch.device("cpu"))


# the preflight


class Sleeping:
    """A loader of `count` batches that each take `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            time.sleep(self.seconds)
            yield BATCH


def test_a_balanced_sleeping_job_is_told_to_prefetch_and_doing_so_helps() -> None:
    loader, step = Sleeping(60, 0.02), lambda batch: time.sleep(0.02)
    found = preflight(loader, step, batches=8)
    assert 0.35 < found.now.stall_share < 0.65
    assert found.plan.prefetch
    assert found.plan.workers == 1
    assert found.plan.gain > 1.3
    assert "workers" in {advice.rule for advice in found.advice}
    assert found.facts.epoch_batches == 60
    assert found.facts.load.friction == found.facts.step.friction == 1

    def iteration(batches: Any) -> float:
        with Monitor(CpuCounters()) as monitor:
            for batch in monitor.watch(batches):
                step(batch)
        return 1 / monitor.result().steps_per_s

    assert iteration(loader) / iteration(prefetched(loader, found.plan)) > 1.2


def test_a_job_whose_data_are_there_is_left_alone() -> None:
    found = preflight([BATCH] * 30, lambda batch: time.sleep(0.02), batches=8, double=twice)
    assert not found.plan.prefetch
    assert found.now.stall_share < 0.1
    rules = {advice.rule for advice in found.advice}
    assert "step bound" in rules
    assert "batch" in rules  # twice the batch takes as long
    assert list(prefetched(range(3), found.plan, load=abs)) == [0, 1, 2]
    assert not rules & {"workers", "lock", "loader bound", "pinning", "host syncs", "validation"}


def test_the_lock_is_seen_where_it_is_held_and_not_where_all_sleep() -> None:
    with LockProbe() as held:
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
    assert held.share > 0.6
    free = []
    for _ in range(8):
        with LockProbe() as probe:
            time.sleep(0.05)
        free.append(probe.share)
    assert min(free) < 0.5  # the least: where others use the cores, a thread wakes up late for their sake


def test_loads_in_pure_python_are_no_work_for_threads() -> None:
    def loads() -> Iterator[int]:
        for _ in range(6):
            end = time.thread_time() + 0.04
            while time.thread_time() < end:
                pass
            yield 0

    load = time_loads(loads(), batches=4, budget_s=5.0).cost
    assert load.locked > 0.6 * load.busy > 0
    alone = replace(load, busy=1.0, locked=load.locked / load.busy)  # as if nobody else had used the cores
    facts = Facts(alone, cost(0.04, busy=1.0, locked=1.0), cores=4)
    assert choose(facts).gain < 1.5


def test_the_preflight_leaves_no_trace_in_what_it_restores() -> None:
    model, optimiser = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found = preflight(
        [BATCH] * 6, trainer(model, optimiser, lambda loss: loss.item()), restores=[model, optimiser], batches=4, validation_batches=3,
        validate=lambda batch: loss_of(model, batch),
    )  # fmt: skip
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimiser.state_dict()["state"]
    assert [sync.count for sync in found.facts.syncs] == [1]
    assert found.facts.validation_s > 0
    assert found.facts.memory is not None
    assert 2**20 < found.facts.memory.peak_bytes
    assert json.loads(found.to_json())["plan"]["why"] == found.plan.why


def test_a_loader_with_workers_of_its_own_is_not_wrapped_again() -> None:
    found = preflight(Prefetch([BATCH] * 30, lambda batch: batch, workers=2), lambda batch: time.sleep(0.005), batches=5)
    assert found.facts.ahead == 2
    assert not found.plan.prefetch
    assert "2 workers" in found.plan.why


def test_an_empty_loader_is_refused_and_a_tiny_one_is_measured() -> None:
    with pytest.raises(DataError, match="no batch"):
        preflight([], lambda batch: None)
    assert time_loads([np.zeros(3)], batches=5, budget_s=1.0).ended


def test_more_loads_at_a_time_are_chosen_only_where_they_pay() -> None:
    facts = Facts(cost(0.040), cost(0.010), cores=8.0)
    assert choose(facts, parallel=1).workers == 1
    assert choose(facts, parallel=8).workers == 4
    assert choose(facts, parallel=8).gain == pytest.approx(5, rel=0.03)
    assert not choose(replace(facts, load=cost(0.0004)), parallel=8).prefetch


# the page


def parsed(path: Path) -> Any:
    return WellFormed(path.read_text())


EVIL = "<script>alert('x')</script> & \"y\""


def test_the_page_is_well_formed_and_says_what_to_change(tmp_path: Path) -> None:
    facts = replace(FAULTY["loader bound"], ahead=0, depth=0, syncs=(replace(SYNC, where=EVIL),))
    before = Preflight(facts, 0.1, facts.loop(), choose(facts), advise(facts))
    script = Script([(Reading(f"0: {EVIL}", 0.5, 2**30, 2**33), Reading("1: Card", None, None, None, lost="gone"))])
    with Monitor(script, every_s=0.02, warn=lambda warned: None) as monitor:
        for _ in monitor.watch(slow(12, 0.01)):
            time.sleep(0.005)
        with monitor.during(EVIL):
            time.sleep(0.01)
    assert script.closed
    path = write_report(tmp_path / "observed", monitor.result(), before, title=EVIL)
    page = parsed(path)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "img"}
    assert page.links == []
    assert EVIL in page.text
    for said in ("Where the time went", "waiting for data", "What to change", "predicted gain", "loader bound", "does not answer", "train"):
        assert said in page.text, said
    told = json.loads((path.parent / "watch.json").read_text())
    assert told["watched"]["steps"] == 12
    assert told["preflight"]["advice"][0]["rule"] == "loader bound"


def test_a_page_of_a_job_that_never_stepped_and_was_never_measured(tmp_path: Path) -> None:
    with Monitor(CpuCounters()) as monitor:
        assert not list(monitor.watch([]))
    page = parsed(write_report(tmp_path, monitor.result(), title="empty"))
    assert page.open == []
    assert "No preflight was made" in page.text
