"""What a job's measurements say should change: each rule is silent, or says what was seen, why it costs, what to do and what it gains.

Gains are predicted iterations now / then (1.5: the epoch takes two thirds of the time), by `prediction.predict` on what was measured.
Thresholds are where a change is worth a person's minute, not physics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from components.train.watch.memory import MemoryForecast
from components.train.watch.prediction import Cost, Prediction, predict
from components.train.watch.syncs import Syncs

__all__ = ["RULES", "WORTH", "Advice", "Facts", "advise", "best_workers"]

WORTH = 1.05
"""Gain from which a change is worth it."""
_ENOUGH = 0.98
"""Fewer workers are taken when they reach this share of the best speed."""
_STALL, _LOCKED, _VALIDATION, _VALIDATION_GOOD, _BATCH, _FULL, _CROWDED = 0.1, 0.5, 0.25, 0.1, 0.8, 0.9, 0.15


@dataclass(frozen=True)
class Facts:
    """What was measured of a job before it runs.

    Attributes:
        load: Of one batch: alone; as the loop sees it when the loader has workers of its own.
        step: Of one step, alone.
        ahead: Workers that the loader has already; 0: it loads when it is asked.
        depth: Batches that those hold, at most.
        cores: That this process may use.
        device: Type of the device that trains: `cpu`, `cuda`.
        pinned: Whether batches arrive in pinned memory; None: they hold no CPU tensor.
        copy_s: A batch's copy to the device; 0: not measured.
        syncs: Lines of the step that wait for the device.
        doubled: Of a step on a batch of twice the size; None: not measured.
        epoch_batches: Batches of an epoch; 0: unknown.
        validation_s: Of the validation after each epoch.
        memory: Forecast or measured; None: neither.
        limit_bytes: Of memory; 0: unknown.
        crowded: Share of time in which a computing thread did not get a core, while this was measured.
    """

    load: Cost
    step: Cost
    ahead: int = 0
    depth: int = 0
    cores: float = 1.0
    device: str = "cpu"
    pinned: bool | None = None
    copy_s: float = 0.0
    syncs: tuple[Syncs, ...] = ()
    doubled: Cost | None = None
    epoch_batches: int = 0
    validation_s: float = 0.0
    memory: MemoryForecast | None = None
    limit_bytes: int = 0
    crowded: float = 0.0

    def loop(self, load: Cost | None = None, step: Cost | None = None) -> Prediction:
        """Predict the loop as it is arranged, with its own load and step or others."""
        # A loader's own workers are in the time between its batches: to the loop they are one worker that delivers so often.
        return self._predict(load or self.load, step or self.step, workers=min(self.ahead, 1), depth=self.depth)

    def with_workers(self, workers: int) -> Prediction:
        """Predict the loop with other workers: threads for a loader that has none, as many processes for one that has some."""
        if not self.ahead:
            return self._predict(self.load, self.step, workers=workers)
        scale = self.ahead / workers
        faster = replace(self.load, times_s=tuple(seconds * scale for seconds in self.load.times_s))
        depth = max(self.depth, 2 * workers)
        return self._predict(faster, self.step, workers=1, depth=depth)

    def _predict(self, load: Cost, step: Cost, *, workers: int, depth: int = 0) -> Prediction:
        return predict(load, step, workers=workers, depth=depth, cores=self.cores, batches=self.epoch_batches)


@dataclass(frozen=True)
class Advice:
    """One thing to change, or to know.

    Attributes:
        rule: Its name.
        seen: What was measured.
        why: Why it costs.
        do: What to do.
        gain: Predicted speed-up of an epoch; None: it can't be predicted here.
    """

    rule: str
    seen: str
    why: str
    do: str
    gain: float | None


def advise(facts: Facts) -> tuple[Advice, ...]:
    """Return what the rules say, the largest predicted gain first."""
    said = [found for found in (rule(facts) for rule in RULES) if found is not None]
    return tuple(sorted(said, key=lambda advice: -(advice.gain or 0.0)))


def best_workers(facts: Facts, allowed: Sequence[int]) -> tuple[int, float]:
    """Return the fewest workers that are about as good as the best ones allowed, and their gain over the loop as it is."""
    now = facts.loop().iteration_s
    then = {workers: facts.with_workers(workers).iteration_s for workers in allowed}
    best = min(then.values())
    workers = min(count for count, seconds in then.items() if best >= _ENOUGH * seconds)
    return workers, now / then[workers] if then[workers] > 0 else 1.0


def _workers(facts: Facts) -> Advice | None:
    if facts.loop().stall_share < _STALL:
        return None
    workers, gain = best_workers(facts, range(facts.ahead + 1, max(facts.ahead + 2, math.floor(facts.cores) + 1)))
    if gain < WORTH:
        return None
    how = f"{facts.ahead} workers deliver a batch every" if facts.ahead else "No worker loads ahead: a batch takes"
    seen = f"{how} {_ms(facts.load)}, a step {_ms(facts.step)}: the loop waits {facts.loop().stall_share:.0%} of its time."
    does = f"Load {workers} at a time beside the step: Prefetch(…, workers={workers}) or DataLoader(num_workers={workers})."
    return Advice("workers", seen, "Nothing trains while the loop waits for a batch.", does, gain)


def _lock(facts: Facts) -> Advice | None:
    if facts.ahead or facts.load.locked < _LOCKED * max(facts.load.busy, _LOCKED) or facts.loop().stall_share < _STALL:
        return None
    # A process has a lock and a core of its own: to the step its loads are waits.
    apart = replace(facts, load=replace(facts.load, busy=0.0, locked=0.0))
    workers, gain = best_workers(apart, range(1, max(2, math.floor(facts.cores))))
    if gain < WORTH or facts.cores < 2:
        return None
    seen = f"Loading holds Python's lock {facts.load.locked:.0%} of its {_ms(facts.load)}."
    why = "Threads of one process run Python one at a time, so loading in a thread would only slow the step down."
    return Advice("lock", seen, why, f"Load in processes: DataLoader(num_workers={workers}), or do the work in NumPy or Arrow.", gain)


def _loader_bound(facts: Facts) -> Advice | None:
    allowed = range(max(1, facts.ahead), max(2, facts.ahead + 1, math.floor(facts.cores) + 1))
    workers, _ = best_workers(facts, allowed)
    best = facts.with_workers(workers)
    if best.stall_share < _STALL:
        return None
    seen = f"Even with {workers} workers on {facts.cores:g} cores the loop would wait {best.stall_share:.0%} of its time."
    do = "Make a load cheaper: decode and resize once and keep the result, read larger files in order, keep the data on a nearer disk."
    gain = facts.loop().iteration_s / facts.step.mean_s if facts.step.mean_s > 0 else None
    return Advice(
        "loader bound", seen, "The data can't be delivered as fast as the step takes them.", f"{do} The gain is for free loads.", gain
    )


def _step_bound(facts: Facts) -> Advice | None:
    now = facts.loop()
    if now.stall_share >= _STALL / 2:
        return None
    seen = f"A step takes {_ms(facts.step)}, the loop waits {now.stall_share:.1%} of its time for data."
    do = "Leave the loader alone; larger batches, lower precision, a compiled model or more devices make the step faster."
    most = 1 / (1 - now.stall_share)
    return Advice("step bound", seen, "The step is the limit: faster data could gain no more than is said here.", do, most)


def _pinning(facts: Facts) -> Advice | None:
    if facts.device != "cuda" or facts.pinned is not False:
        return None
    before = facts.loop().iteration_s
    copied = f" Its copy takes {1e3 * facts.copy_s:.2g} ms." if facts.copy_s else ""
    gain = before / (before - facts.copy_s) if 0 < facts.copy_s < before else None
    why = "A copy from pageable memory goes through a pinned buffer of the driver's, and the host waits for it."
    do = "DataLoader(pin_memory=True) and .to(device, non_blocking=True), or Prefetch(…, placer=Placer(device)). The gain is at most this."
    return Advice("pinning", f"Batches arrive in pageable memory.{copied}", why, do, gain)


def _syncs(facts: Facts) -> Advice | None:
    if not facts.syncs:
        return None
    count = math.fsum(sync.count for sync in facts.syncs)
    lines = "; ".join(f"{sync.what} at {sync.where}" for sync in facts.syncs[:3])
    waited = math.fsum(sync.seconds for sync in facts.syncs if sync.device != "cpu")
    before = facts.loop().iteration_s
    gain = before / (before - waited) if 0 < waited < before else None
    why = "The host stops there until the device has caught up, and the device then idles until the host has queued more work."
    why += "" if waited else " On a CPU nothing runs ahead, so it costs nothing here: it will on an accelerator."
    do = "Keep figures as tensors on the device and read them every hundredth step; replace conditions by torch.where."
    return Advice("host syncs", f"{count:.3g} in each step: {lines}.", why, do, gain)


def _batch(facts: Facts) -> Advice | None:
    if facts.doubled is None or facts.doubled.mean_s > 2 * _BATCH * facts.step.mean_s:
        return None
    twice = replace(facts.load, times_s=tuple(2 * seconds for seconds in facts.load.times_s))
    gain = 2 * facts.loop().iteration_s / facts.loop(twice, facts.doubled).iteration_s
    seen = f"Twice the batch takes {facts.doubled.mean_s / max(facts.step.mean_s, 1e-12):.2f} × the step: a sample gets cheaper."
    why = "A step's fixed cost (launches, Python, optimiser) is spread over few samples."
    return Advice(
        "batch", seen, why, "Double the batch, and the learning rate with it where the optimiser wants that; then look again.", gain
    )


def _validation(facts: Facts) -> Advice | None:
    trains = facts.epoch_batches * facts.loop().iteration_s
    if not trains or facts.validation_s / (trains + facts.validation_s) <= _VALIDATION:
        return None
    share = facts.validation_s / (trains + facts.validation_s)
    every = math.ceil(facts.validation_s * (1 - _VALIDATION_GOOD) / (_VALIDATION_GOOD * trains))
    gain = (trains + facts.validation_s) / (trains + facts.validation_s / every)
    do = f"Validate every {every} epochs, or on a part of the rows between; larger batches without gradients fit."
    return Advice("validation", f"Validation would take {share:.0%} of an epoch.", "It trains nothing.", do, gain)


def _memory(facts: Facts) -> Advice | None:
    if facts.memory is None or not facts.limit_bytes or facts.memory.peak_bytes <= _FULL * facts.limit_bytes:
        return None
    peak, limit = facts.memory.peak_bytes / 2**30, facts.limit_bytes / 2**30
    why = "What the allocator can't reuse comes on top: the job ends out of memory."
    do = "Halve the batch and accumulate gradients, recompute activations, or shard the optimiser."
    return Advice("memory", f"A step needs {peak:.2f} GiB ({facts.memory.how}) of {limit:.2f} GiB.", why, do, None)


def _crowded(facts: Facts) -> Advice | None:
    if facts.crowded <= _CROWDED:
        return None
    seen = f"A thread that only computes waited {facts.crowded:.0%} of its time for a core."
    why = "Others use this machine: loads and steps took longer than they need, and what is predicted from them is unsure."
    return Advice("crowded", seen, why, "Measure again when the machine is quiet, or give the job cores of its own.", None)


RULES: tuple[Callable[[Facts], Advice | None], ...] = (
    _workers,
    _lock,
    _loader_bound,
    _step_bound,
    _pinning,
    _syncs,
    _batch,
    _validation,
    _memory,
    _crowded,
)


def _ms(cost: Cost) -> str:
    return f"{1e3 * cost.mean_s:.3g} ms"
