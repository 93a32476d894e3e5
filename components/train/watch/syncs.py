"""Finds where a step makes the host wait for the device: `.item()`, `if tensor:`, copies to the CPU."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Syncs", "count_syncs"]

_TORCH = str(Path(torch.__file__).parent)
_READS = {"aten::_local_scalar_dense": ".item() or a tensor as a Python number or condition", "aten::equal": "torch.equal"}
_SHAPED = {"aten::nonzero": "nonzero() or a boolean mask as an index", "aten::masked_select": "masked_select()"}
"""Their result's shape is known to the host only when the device has computed it."""
_COPIES = {"aten::_to_copy", "aten::copy_"}


@dataclass(frozen=True)
class Syncs:
    """One line of a step that makes the host wait.

    Attributes:
        where: `file:line`.
        what: The call that does it.
        count: In one step.
        seconds: The host waited there in one step.
        device: Type of the device it waited for. On a `cpu` nothing runs ahead, so there it costs no wait.
    """

    where: str
    what: str
    count: float
    seconds: float
    device: str


def count_syncs(step: Callable[[Any], object], batches: list[Any]) -> tuple[Syncs, ...]:
    """Execute the step on each batch and return its waits, the most frequent first.

    What PyTorch's own modules read from CPU tensors (an optimiser's step counter) is no wait and is left out. `.tolist()` and `.numpy()`
    of CPU tensors don't pass the dispatcher: they are not seen, and wait for nothing.
    """
    with _Seen() as seen:
        for batch in batches:
            step(batch)
    found = [
        Syncs(where, what, count / len(batches), seen.seconds[where, what, device] / len(batches), device)
        for (where, what, device), count in seen.counts.items()
    ]
    return tuple(sorted(found, key=lambda sync: (-sync.count, sync.where)))


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[tuple[str, str, str], int] = defaultdict(int)
        self.seconds: dict[tuple[str, str, str], float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        before = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        passed = time.perf_counter() - before
        what, device = _kind(func._schema.name, args, kwargs or {}, result)
        if what:
            where, own = _caller()
            if device != "cpu" or not own:
                self.counts[where, what, device] += 1
                self.seconds[where, what, device] += passed
        return result


def _kind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> tuple[str, str]:
    """Return what kind of wait an operation is, and of which device; empty: none."""
    if name not in _READS and name not in _SHAPED and name not in _COPIES:
        return "", ""
    devices = [leaf.device.type for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    device = next((kind for kind in devices if kind != "cpu"), "cpu")
    if name in _READS:
        return _READS[name], device
    if name in _SHAPED:
        return (_SHAPED[name], device) if device != "cpu" else ("", "")
    target, asynchronous = (args[0] if name == "aten::copy_" else result), kwargs.get("non_blocking") or (len(args) > 2 and args[2])
    to_host = isinstance(target, torch.Tensor) and target.device.type == "cpu" and device != "cpu" and not asynchronous
    return ("a copy to the CPU", device) if to_host else ("", "")


def _caller() -> tuple[str, bool]:
    """Return the innermost line outside PyTorch, and whether PyTorch's own code made the call."""
    frame = sys._getframe(2)
    inner, own = frame, False
    while inner is not None and (inner.f_code.co_filename.startswith(_TORCH) or inner.f_code.co_filename == __file__):
        # `Tensor.item` and its like come directly from C: a frame of torch/optim or torch/nn in between is PyTorch's own reading.
        own = own or any(part in inner.f_code.co_filename for part in ("/optim/", "/nn/", "/amp/", "/autograd/"))
        if inner.f_back is None:
            break
        inner = inner.f_back
    return f"{inner.f_code.co_filename}:{inner.f_lineno}", own
