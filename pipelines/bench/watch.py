"""Running one process tree under observation: wall clock, CPU seconds, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Watched", "watch"]

EVERY_S = 0.2


@dataclass(frozen=True)
class Watched:
    """What a process and its descendants used.

    Attributes:
        code: Exit code; negative: the signal that ended it.
        began: `time.monotonic()` when it was started. That clock is the same in all processes of a machine.
        wall_s: Until it ended.
        cpu_s: User and system seconds of the tree.
        peak_mb: The largest sum of the tree's proportional set sizes (shared pages are counted once), sampled every 0.2 s;
            resident set sizes where the kernel does not tell those.
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
    peak, cpu, overdue = 0.0, 0.0, False
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
                seconds, megabytes = _usage(process.pid)
                cpu, peak = max(cpu, seconds), max(peak, megabytes)  # a child that nobody waited for takes its seconds with it
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
    return Watched(process.returncode, began, wall, max(cpu, used.ru_utime + used.ru_stime), peak, tuple(samples), overdue)


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


def _usage(pid: int) -> tuple[float, float]:
    """Return the CPU seconds and the megabytes of a process tree at this moment."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    seconds = megabytes = 0.0
    for process in family:
        try:
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            megabytes += _bytes(process) / 2**20
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it ended while we looked; its parent's figures have it next time
    return seconds, megabytes


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
