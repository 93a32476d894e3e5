"""Running one process tree under observation: wall clock, CPU seconds, memory."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["Watched", "watch"]

EVERY_S = 0.2
_GROWN = 1.02
_SHARE = 0.01
"""Of the wall clock that asking for shared pages may take: the kernel walks through all of a process's, while the process could compute."""


@dataclass(frozen=True)
class Watched:
    """What a process and its descendants used.

    Attributes:
        code: Exit code; negative: the signal that ended it.
        began: `time.monotonic()` when it was started. That clock is the same in all processes of a machine.
        wall_s: Until it ended.
        cpu_s: User and system seconds of the tree.
        peak_mb: The largest sum of the tree's proportional set sizes (shared pages are counted once), sampled whenever its resident set
            has grown by 2 % and every few seconds; resident set sizes where the kernel does not tell those.
        samples: (seconds since `began`, CPU seconds so far), ascending.
        overdue: Whether it was ended because it took too long.
    """

    code: int
    began: float
    wall_s: float
    cpu_s: float
    peak_mb: float
    samples: tuple[tuple[float, float], ...]
    overdue: bool

    def cpu_at(self, at_s: float) -> float:
        """Return the CPU seconds that were used `at_s` seconds after the start, interpolated between samples."""
        points = [(0.0, 0.0), *self.samples, (self.wall_s, self.cpu_s)]
        after = min(bisect_left(points, (at_s, 0.0)), len(points) - 1)
        (t0, c0), (t1, c1) = points[max(after - 1, 0)], points[after]
        return c1 if t1 <= t0 else c0 + (c1 - c0) * min(max((at_s - t0) / (t1 - t0), 0.0), 1.0)


def watch(command: Sequence[str], *, env: Mapping[str, str], cores: int, folder: Path, log: Path, limit_s: float) -> Watched:
    """Run a command to its end on `cores` cores, in `folder`, output into `log`; whatever it leaves behind is ended too."""
    began = time.monotonic()
    samples: list[tuple[float, float]] = []
    memory, cpu, overdue = _Memory(), 0.0, False
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _pin(process.pid, cores)
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for a pid that is gone
                    break
                family = _family(process.pid)
                cpu = max(cpu, _seconds(family))  # a child that nobody waited for takes its seconds with it
                memory.look(family)
                samples.append((time.monotonic() - began, cpu))
                if not overdue and time.monotonic() - began > limit_s:
                    overdue = True
                    _end(process.pid)
                time.sleep(EVERY_S)
        finally:
            _end(process.pid)
            if process.returncode is None:
                process.wait()
    wall = time.monotonic() - began
    return Watched(process.returncode, began, wall, max(cpu, used.ru_utime + used.ru_stime), memory.peak_mb, tuple(samples), overdue)


def _pin(pid: int, cores: int) -> None:
    """Allow the process its cores and no others; what it starts inherits that."""
    try:
        os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[:cores])
    except ProcessLookupError:
        return  # it has ended already; its exit code says why


def _end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _seconds(family: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds that a process tree has used."""
    return _sum(family, lambda process: math.fsum(process.cpu_times()[:4]))


def _sum(family: Sequence[psutil.Process], figure: Callable[[psutil.Process], float]) -> float:
    total = 0.0
    for process in family:
        try:
            total += figure(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it ended while we looked; its parent's figures have it next time
    return total


@dataclass
class _Memory:
    """A process tree's peak. Resident set sizes are cheap to ask for, and say when proportional ones are worth asking for."""

    peak_mb: float = 0.0
    _resident: float = 0.0
    _next: float = field(default_factory=time.monotonic)

    def look(self, family: Sequence[psutil.Process]) -> None:
        """Ask for the memory of the tree, if it may have a new peak."""
        resident = _sum(family, lambda process: process.memory_info().rss)
        if resident <= _GROWN * self._resident and time.monotonic() < self._next:
            return
        began = time.thread_time()
        self.peak_mb = max(self.peak_mb, _sum(family, _bytes) / 2**20)
        self._resident, self._next = resident, time.monotonic() + (time.thread_time() - began) / _SHARE


def _bytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return float(process.memory_info().rss)
