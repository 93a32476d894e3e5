"""Forecasts what a training step needs, without allocating it: the step runs on fake tensors, which have shapes and no storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils import _pytree as pytree

from components.core.errors import DataError

__all__ = ["MemoryForecast", "forecast_memory", "measure_peak"]

_STEPS = 2
"""The first one creates the optimiser's state after its peak; the second is as all others."""
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class MemoryForecast:
    """A step's peak.

    Attributes:
        peak_bytes: Of tensors; what libraries and the allocator's fragmentation add is not in it.
        parts: Bytes at the peak by kind, as PyTorch's tracker names them: Parameter, Gradient, Activation, Optstate, Temp, Buffer, Other.
        how: `fake tensors` or `measured`.
    """

    peak_bytes: int
    parts: dict[str, int]
    how: str


def forecast_memory(
    build: Callable[[], tuple[nn.Module, torch.optim.Optimizer]],
    batch: Any,
    loss: Callable[[nn.Module, Any], torch.Tensor],
    *,
    device: torch.device,
) -> MemoryForecast:
    """Return the peak of one training step.

    Args:
        build: Makes the model, on `device`, and its optimiser; it is called under fake tensors, so nothing is allocated.
        batch: A real batch, or one of its shapes; it is not read.
        loss: (model, batch) -> the loss, shape ().
        device: Where it will train; a CUDA device needs to be there.

    Raises:
        DataError: The step reads values (`.item()`, a condition on a tensor), which fake tensors don't have.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = pytree.tree_map_only(torch.Tensor, lambda tensor: mode.from_tensor(tensor).to(device), batch)
        model, optimiser = build()
        tracker = MemTracker()
        tracker.track_external(model, optimiser)
        try:
            with tracker:
                for _ in range(_STEPS):
                    value = loss(model, fake)
                    torch.autograd.backward(value)
                    del value
                    optimiser.step()
                    optimiser.zero_grad()
                    tracker.reset_mod_stats()
        except torch._subclasses.fake_tensor.DataDependentOutputException as error:
            raise DataError(f"the step reads a tensor's value: {error}", do="measure the first step's peak instead") from error
    kinds: dict[str, int] = {}
    for snapshot in tracker.get_tracker_snapshot("peak").values():
        for kind, size in snapshot.items():
            name = getattr(kind, "value", None) or str(kind)
            kinds[name] = kinds.get(name, 0) + int(size)
    peak = kinds.pop("Total", 0)
    return MemoryForecast(peak, {name: size for name, size in kinds.items() if size}, "fake tensors")


def measure_peak(step: Callable[[], object], device: torch.device) -> MemoryForecast | None:
    """Return the peak while a step is executed: the device's, or this process's resident set; None where neither can be told.

    On a CPU it holds the whole process, libraries too, because that is what the limit is compared with.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return MemoryForecast(torch.cuda.max_memory_allocated(device), {}, "measured")
    if device.type != "cpu" or not _reset_high_water():
        step()
        return None
    step()
    resident = psutil.Process().memory_info().rss
    marked = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return MemoryForecast(max(resident, *(int(kilobytes) * 1024 for kilobytes in marked)), {}, "measured")


def _reset_high_water() -> bool:
    """Let the kernel measure the resident set's peak anew; False where it won't."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _STATUS.is_file()
