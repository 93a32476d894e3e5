"""Before a job: its loader alone, its step alone, and from these what the loop will wait for, what it needs and what should change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import length_hint
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from components.train.watch.devices import cores
from components.train.watch.job import Stateful, ahead_of, copy_seconds, limit_bytes, pinned, restored, waiter
from components.train.watch.measure import crowding, time_loads, time_steps, try_ahead
from components.train.watch.memory import MemoryForecast, measure_peak
from components.train.watch.prediction import Prediction, with_friction
from components.train.watch.prefetch import Placer, Prefetch
from components.train.watch.rules import WORTH, Advice, Facts, advise, best_workers
from components.train.watch.syncs import count_syncs

__all__ = ["Plan", "Preflight", "choose", "prefetched", "preflight", "twice"]

T = TypeVar("T")
_SYNC_STEPS = 2
_COMPUTES = 0.2
"""Share of its time from which a load or a step is said to compute."""


@dataclass(frozen=True)
class Plan:
    """Whether and how to prefetch.

    Attributes:
        prefetch: Whether it is worth it.
        workers: Threads; 0 without prefetching.
        gain: Predicted iterations now / then.
        then: The loop that is predicted with the plan.
        why: One sentence.
    """

    prefetch: bool
    workers: int
    gain: float
    then: Prediction
    why: str


@dataclass(frozen=True)
class Preflight:
    """What was measured and what follows.

    Attributes:
        facts: Measured.
        first_load_s: The first batch, which also starts workers.
        now: The loop as it is arranged.
        plan: What can be switched on without touching the job.
        advice: What to change, the largest predicted gain first.
    """

    facts: Facts
    first_load_s: float
    now: Prediction
    plan: Plan
    advice: tuple[Advice, ...]

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=1)


def preflight(
    loader: Iterable[T],
    step: Callable[[T], object],
    *,
    device: torch.device | None = None,
    batches: int = 20,
    budget_s: float = 10.0,
    restores: Sequence[Stateful] = (),
    parallel: int = 1,
    double: Callable[[T], T] | None = None,
    epoch_batches: int = 0,
    validate: Callable[[T], object] | None = None,
    validation_batches: int = 0,
    forecast: MemoryForecast | None = None,
) -> Preflight:
    """Measure a job for a moment; nothing that it reports needs the loop to exist.

    Args:
        loader: One iteration of it is begun, and closed; a second one where loads or steps compute.
        step: Trains on a batch. It is executed: `restores` says what to put back.
        device: That the step uses; None: the CPU.
        batches: Loads and steps that are timed, at most.
        budget_s: For each of loads, steps and steps on the doubled batch.
        restores: Their state, and the global random generators', are afterwards as before.
        parallel: Loads that prefetching could do at a time: 1 for an iterator, more where `Prefetch` is given `load`.
        double: Makes a batch of twice the size; None: that is not measured. `twice` concatenates tensors.
        epoch_batches: Batches of an epoch; 0: the loader's length where it has one.
        validate: Validates on a batch; None: there is no validation.
        validation_batches: Of each validation.
        forecast: Of memory; None: the first step's peak is measured.

    Raises:
        DataError: The loader has no batch.
    """
    device = device or torch.device("cpu")
    wait = waiter(device)
    ahead, depth = ahead_of(loader)
    with restored(restores):
        loaded = time_loads(loader, batches=batches, budget_s=budget_s, skip=max(1, depth))
        kept = loaded.batches
        peak = forecast or measure_peak(lambda: step(kept[0]), device)
        cost = time_steps(step, kept, steps=batches, budget_s=budget_s, wait=wait)
        syncs = count_syncs(step, kept[:_SYNC_STEPS])
        load = loaded.cost
        if not ahead and max(load.busy, cost.busy) > _COMPUTES:  # what only waits is in nobody's way
            tried = try_ahead(loader, step, workers=parallel, steps=batches, budget_s=budget_s, wait=wait)
            if tried is not None:
                load, cost = with_friction(load, cost, tried[0], workers=tried[1], cores=cores(), batches=tried[2])
        doubled = None if double is None else time_steps(step, [double(kept[0])], steps=batches, budget_s=budget_s, wait=wait)
        validated = 0.0
        if validate is not None and validation_batches:
            one = time_steps(validate, kept, steps=max(1, batches // 4), budget_s=budget_s, wait=wait).mean_s
            validated = validation_batches * (one + loaded.cost.mean_s)
    facts = Facts(
        load,
        cost,
        ahead=ahead,
        depth=depth,
        cores=cores(),
        device=device.type,
        pinned=pinned(kept[0]),
        copy_s=copy_seconds(kept, device, wait),
        syncs=syncs,
        doubled=doubled,
        epoch_batches=epoch_batches or length_hint(loader),
        validation_s=validated,
        memory=peak,
        limit_bytes=limit_bytes(device),
        crowded=crowding(),
    )
    return Preflight(facts, loaded.first_s, facts.loop(), choose(facts, parallel=parallel), advise(facts))


def choose(facts: Facts, *, parallel: int = 1) -> Plan:
    """Decide whether prefetching threads are worth it: only where they are predicted to save 5 % or more.

    Args:
        facts: Measured.
        parallel: Loads that may be done at a time.
    """
    now = facts.loop()
    if facts.ahead:
        return Plan(False, 0, 1.0, now, f"The loader has {facts.ahead} workers of its own.")
    workers, gain = best_workers(facts, range(1, max(1, parallel) + 1))
    then = facts.with_workers(workers)
    if gain < WORTH:
        lock = f" Loading holds Python's lock {facts.load.locked:.0%} of its time." if facts.load.locked > facts.load.busy / 2 > 0.1 else ""
        return Plan(False, 0, 1.0, now, f"Prefetching would make an iteration {gain:.2f} × as fast, less than the {WORTH:g} it must.{lock}")
    why = f"{workers} {'thread' if workers == 1 else 'threads'} beside the step: stall {now.stall_share:.0%} to {then.stall_share:.0%}."
    return Plan(True, workers, gain, then, why)


def prefetched(
    loader: Iterable[Any], plan: Plan, *, load: Callable[[Any], T] | None = None, device: torch.device | None = None
) -> Prefetch[T]:
    """Return the loader with the plan applied.

    Args:
        loader: Batches; with `load`: what names them.
        plan: From the preflight.
        load: Makes a batch of what names it.
        device: Batches are moved there, from pinned memory and beside the step.
    """
    return Prefetch(loader, load, workers=plan.workers, placer=Placer(device or torch.device("cpu")))


def twice(batch: T) -> T:
    """Return a batch of twice the size: every tensor with itself along its first dimension."""
    doubled: T = pytree.tree_map_only(torch.Tensor, lambda tensor: torch.cat([tensor, tensor]) if tensor.ndim else tensor, batch)
    return doubled
