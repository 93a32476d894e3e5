"""When a running job is going wrong, and what the likely cause is: pure functions of what the monitor has seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from components.core.errors import ConfigError
from components.train.watch.devices import Reading
from components.train.watch.timeline import Recent

__all__ = ["Limits", "Warned", "judge"]

_QUARTERS = 4


@dataclass(frozen=True)
class Limits:
    """When it warns.

    Attributes:
        window: Steps that are judged together.
        stall_share: Of the window's time.
        slower: Median iteration against the fastest window's.
        creep_bytes: Growth of the memory's floor over the judged samples, at least; and
        creep_share: of what it was.
        samples: That memory is judged by.
    """

    window: int = 50
    stall_share: float = 0.2
    slower: float = 1.3
    creep_bytes: int = 64 * 2**20
    creep_share: float = 0.05
    samples: int = 24

    def __post_init__(self) -> None:
        if self.window < 2 or self.samples < 2 * _QUARTERS or not 0 < self.stall_share < 1 or self.slower <= 1:
            raise ConfigError(
                f"limits {self}", do=f"window from 2, samples from {2 * _QUARTERS}, stall_share between 0 and 1, slower above 1 are needed"
            )


@dataclass(frozen=True)
class Warned:
    """One warning.

    Attributes:
        kind: `stall`, `memory`, `slower`, `lost` or `watch`; `device` tells those of one kind apart.
        at_s: Since the watch began.
        said: What was seen.
        cause: The likely one.
        do: What to do.
        device: That it is about; empty: the loop.
    """

    kind: str
    at_s: float
    said: str
    cause: str
    do: str
    device: str = ""

    def __str__(self) -> str:
        return f"{self.said} Likely cause: {self.cause} -> {self.do}"


def judge(recent: Recent, samples: Sequence[tuple[float, Sequence[Reading]]], limits: Limits) -> list[Warned]:
    """Return what is wrong now.

    Args:
        recent: The last steps.
        samples: (seconds, readings), oldest first; those since the first window was full.
        limits: When to warn.
    """
    at = samples[-1][0] if samples else 0.0
    found = [] if len(recent.steps_s) < limits.window else [*_stalls(at, recent, limits), *_slower(at, recent, samples, limits)]
    for number, reading in enumerate(samples[-1][1] if samples else ()):
        if reading.lost:
            do = "look at the kernel's log for Xid errors; checkpoint and move the job if it does not come back"
            found.append(Warned("lost", at, f"{reading.device} does not answer any more.", reading.lost, do, reading.device))
        else:
            found += _creeps(at, reading, [(when, readings[number].memory_bytes) for when, readings in samples], limits)
    return found


def _stalls(at: float, recent: Recent, limits: Limits) -> list[Warned]:
    waited = math.fsum(recent.waits_s)
    total = waited + math.fsum(recent.steps_s)
    if total <= 0 or waited / total <= limits.stall_share:
        return []
    median = statistics.median(recent.waits_s)
    rare = median * len(recent.waits_s) < waited / 2
    cause = (
        "a few very slow batches (cold files, a large item, a network drive)" if rare else "the loader delivers slower than the step takes"
    )
    do = "load further ahead (depth)" if rare else "load ahead with more workers; the preflight says how many"
    return [Warned("stall", at, f"The last {len(recent.waits_s)} steps waited {waited / total:.0%} of their time for data.", cause, do)]


def _slower(at: float, recent: Recent, samples: Sequence[tuple[float, Sequence[Reading]]], limits: Limits) -> list[Warned]:
    if recent.best_wait_s is None or recent.best_step_s is None:
        return []
    wait, step = statistics.median(recent.waits_s), statistics.median(recent.steps_s)
    best = recent.best_wait_s + recent.best_step_s
    if best <= 0 or wait + step <= limits.slower * best:
        return []
    said = f"An iteration takes {1e3 * (wait + step):.3g} ms; it has taken {1e3 * best:.3g} ms."
    if wait - recent.best_wait_s > step - recent.best_step_s:
        return [Warned("slower", at, said, "the data: waiting has grown most", "look at the disk, the network and the loader's workers")]
    then, now = _utilisation(samples[: len(samples) // 3]), _utilisation(samples[-max(1, len(samples) // 3) :])
    if then is not None and now is not None and now < 0.8 * then:
        cause = f"others use the machine, or the host holds it up: utilisation fell from {then:.0%} to {now:.0%}"
        return [Warned("slower", at, said, cause, "look for other processes, and for new reads of values on the host")]
    cause = "the step itself: longer inputs, a graph or a list that grows with the steps, or lower clocks"
    return [Warned("slower", at, said, cause, "detach what is kept of a step; look at temperatures and clocks")]


def _utilisation(samples: Sequence[tuple[float, Sequence[Reading]]]) -> float | None:
    seen = [reading.utilisation for _, readings in samples for reading in readings if reading.utilisation is not None]
    return statistics.fmean(seen) if seen else None


def _creeps(at: float, reading: Reading, used: Sequence[tuple[float, int | None]], limits: Limits) -> list[Warned]:
    """Warn when the floor of the memory rises from each quarter of the samples to the next; a saw-tooth's floor does not."""
    known = [(when, size) for when, size in used[-limits.samples :] if size is not None]
    if len(known) < limits.samples:
        return []
    length = len(known) // _QUARTERS
    floors = [min(size for _, size in known[number * length : (number + 1) * length]) for number in range(_QUARTERS)]
    growth = floors[-1] - floors[0]
    rises = all(later - earlier >= growth / (2 * _QUARTERS) for earlier, later in pairwise(floors))
    if not rises or growth < max(limits.creep_bytes, limits.creep_share * floors[0], 1):
        return []
    rate = growth / (known[(_QUARTERS - 1) * length][0] - known[0][0])
    said = f"Memory of {reading.device} rises by {rate / 2**20:.3g} MiB a second and does not fall."
    if reading.limit_bytes:
        said += f" At that rate it is full in {max(0.0, (reading.limit_bytes - known[-1][1]) / rate) / 60:.3g} minutes."
    do = "keep `loss.item()` or `loss.detach()`, not the loss; empty lists and caches that grow; look at the loader's workers"
    return [Warned("memory", at, said, "a leak: something keeps tensors or batches of past steps", do, reading.device)]
