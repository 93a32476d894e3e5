"""What the devices do at this moment: NVML where there is an NVIDIA driver, else this process's share of the CPUs.

NVML is injected: `nvidia-ml-py`'s module `pynvml` is one implementation of `Nvml`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from components.core.errors import ConfigError

__all__ = ["Counters", "CpuCounters", "Nvml", "NvmlCounters", "Reading", "cores", "find_counters", "memory_limit"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Reading:
    """One device at one moment.

    Attributes:
        device: Its name.
        utilisation: Share of the last interval in which it worked, 0 to 1; None when it can't be told.
        memory_bytes: In use; None when it can't be told.
        limit_bytes: What there is.
        lost: Why it does not answer; empty: it does.
    """

    device: str
    utilisation: float | None
    memory_bytes: int | None
    limit_bytes: int | None
    lost: str = ""


class Counters(Protocol):
    """Reads devices. One thread at a time."""

    kind: str
    """`nvml` or `cpu`."""
    why: str
    """Why it is this kind."""

    def read(self) -> tuple[Reading, ...]:
        """Return one reading a device, always in the same order."""

    def close(self) -> None:
        """Let go of the driver."""


class Nvml(Protocol):
    """The part of NVML that is used; `pynvml` has it."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...
    def nvmlDeviceGetName(self, handle: Any, /) -> str | bytes: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Any, /) -> Any: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any: ...


class NvmlCounters:
    """NVIDIA devices. `utilisation` is NVML's: the share of time in which any kernel ran, not how much of the device it filled.

    Args:
        nvml: Already initialised.
        devices: Indices in NVML's order (by bus id, whatever CUDA_VISIBLE_DEVICES says); None: all.

    Raises:
        ConfigError: There is no such device.
    """

    kind = "nvml"

    def __init__(self, nvml: Nvml, devices: Sequence[int] | None = None, *, why: str = "an NVIDIA driver answers") -> None:
        self.why, self._nvml = why, nvml
        count = nvml.nvmlDeviceGetCount()
        wanted = range(count) if devices is None else devices
        if any(not 0 <= index < count for index in wanted):
            raise ConfigError(f"devices {list(wanted)} of {count}", do=f"give indices from 0 to {count - 1}")
        self._handles = [(index, nvml.nvmlDeviceGetHandleByIndex(index)) for index in wanted]
        self._names = {index: _text(nvml.nvmlDeviceGetName(handle)) for index, handle in self._handles}

    def read(self) -> tuple[Reading, ...]:
        """Return one reading a device; one that fails is reported as lost, the others are read all the same."""
        return tuple(self._read(index, handle) for index, handle in self._handles)

    def _read(self, index: int, handle: Any) -> Reading:
        name = f"{index}: {self._names[index]}"
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except self._nvml.NVMLError as error:
            return Reading(name, None, None, None, lost=str(error) or type(error).__name__)
        return Reading(name, busy, int(memory.used), int(memory.total))

    def close(self) -> None:
        """Shut NVML down; a driver that has gone needs none."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return


class CpuCounters:
    """This process on its CPUs: its share of the cores it may use, and its resident memory. Worker processes are not counted."""

    kind = "cpu"

    def __init__(self, why: str = "asked for") -> None:
        self.why = why
        self._process, self._cores = psutil.Process(), cores()
        self._limit = memory_limit()
        self._name = f"process on {self._cores:g} cores"
        self._last = (time.perf_counter(), time.process_time())

    def read(self) -> tuple[Reading, ...]:
        """Return the process since the last call."""
        now, (before, used) = (time.perf_counter(), time.process_time()), self._last
        passed, worked = now[0] - before, now[1] - used
        self._last = now
        share = min(1.0, worked / (passed * self._cores)) if passed > 0 else None
        return (Reading(self._name, share, int(self._process.memory_info().rss), self._limit),)

    def close(self) -> None:
        """Nothing is held."""


def find_counters(nvml: Nvml | None = None, devices: Sequence[int] | None = None) -> Counters:
    """Return NVML's counters where its driver answers, else the CPU's; `why` says which and for what reason.

    Args:
        nvml: None: `pynvml`, when nvidia-ml-py is installed.
        devices: As in `NvmlCounters`.

    Raises:
        ConfigError: There is no such device.
    """
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return CpuCounters("nvidia-ml-py is not installed")
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return CpuCounters(f"there is no NVIDIA driver: {str(error) or type(error).__name__}")
    try:
        if nvml.nvmlDeviceGetCount():
            return NvmlCounters(nvml, devices)
        why = "the NVIDIA driver has no device"
    except nvml.NVMLError as error:
        why = f"NVML can't list its devices: {str(error) or type(error).__name__}"
    nvml.nvmlShutdown()
    return CpuCounters(why)


def cores() -> float:
    """Return the cores that this process may use: its affinity, less when its cgroup has a smaller quota."""
    allowed = float(len(os.sched_getaffinity(0)))
    quota, _, period = _read(_CGROUP_QUOTA).partition(" ")
    return min(allowed, int(quota) / int(period)) if quota.isdigit() and period.strip().isdigit() else allowed


def memory_limit() -> int:
    """Return the bytes that this process may have: the machine's, less when its cgroup has a limit."""
    total, limit = int(psutil.virtual_memory().total), _read(_CGROUP_LIMIT).strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _read(path: Path) -> str:
    """Return a file of the kernel's; empty where this kernel has none."""
    return path.read_text() if path.is_file() else ""


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
