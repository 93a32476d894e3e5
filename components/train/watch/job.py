"""What can be told of a training job from outside: how its loader loads, where its batches are, and how to leave no trace in it."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils import _pytree as pytree

from components.train.watch.devices import memory_limit
from components.train.watch.prefetch import Prefetch

__all__ = ["Stateful", "ahead_of", "copy_seconds", "limit_bytes", "pinned", "restored", "waiter"]


class Stateful(Protocol):
    """A model, an optimiser, a schedule: what a step changes."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


def ahead_of(loader: Any) -> tuple[int, int]:
    """Return (workers, batches that they hold at most) of a DataLoader or a `Prefetch`; 0 workers: it loads when it is asked."""
    if isinstance(loader, Prefetch):
        return loader.workers, loader.depth
    workers = int(getattr(loader, "num_workers", 0))
    return workers, workers * int(getattr(loader, "prefetch_factor", None) or 2)


def pinned(batch: Any) -> bool | None:
    """Return whether a batch's CPU tensors are in pinned memory; None: it has none."""
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"]
    return all(tensor.is_pinned() for tensor in tensors) if tensors else None


def copy_seconds(batches: Sequence[Any], device: torch.device, wait: Callable[[], None]) -> float:
    """Return the seconds that copying a batch to the device takes, the fastest of a few; 0 on a CPU, where none is made."""
    if device.type == "cpu":
        return 0.0
    times = []
    for batch in batches:
        before = time.perf_counter()
        pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)
        wait()
        times.append(time.perf_counter() - before)
    return min(times)


def limit_bytes(device: torch.device) -> int:
    """Return the memory there is for what trains on a device; 0: it can't be told."""
    if device.type == "cpu":
        return memory_limit()
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def waiter(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done all it was given."""
    return _nothing if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)


@contextmanager
def restored(parts: Sequence[Stateful]) -> Iterator[None]:
    """Put the parts and the global generators of Python, NumPy and torch back when the block ends."""
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)


def _nothing() -> None:
    return
