"""Counts the bytes that tensors hold while a step runs, on real tensors or on fake ones, which have sizes and no memory.

As `torch.distributed._tools.mem_tracker.MemTracker` does, its oracle in the tests, without its cost: that one imports torch's compiler.
What an operation takes and gives back inside its kernel is not seen, nor what an allocator rounds up to.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["LiveBytes", "held_by", "pretended"]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within `with`: bytes of the storages that operations have made and that are still alive.

    Args:
        ignored: Tensors whose storages do not count: parameters, gradients, the batch.

    Attributes:
        now: Bytes alive.
        peak: The most at once since the last `restart`.
    """

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._ignored = [tensor.untyped_storage() for tensor in ignored]  # held, so that their addresses stay theirs
        self._known: dict[int, weakref.ref[torch.UntypedStorage] | None] = {id(storage): None for storage in self._ignored}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return out

    def restart(self) -> int:
        """Return the peak since the last call, and begin anew."""
        peak, self.peak = self.peak, self.now
        return peak

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_reference: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def held_by(model: nn.Module, given: Any = None) -> list[Tensor]:
    """Return the model's parameters, their gradients and buffers, and the tensors in `given`."""
    params = list(model.parameters())
    gradients = [param.grad for param in params if param.grad is not None]
    return [*params, *gradients, *model.buffers(), *(leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))]


@contextmanager
def pretended(model: nn.Module, given: Any, *, gradients: bool = True) -> Iterator[Any]:
    """Within `with` the model's parameters and buffers are fake tensors and every operation makes fake ones: no memory, no arithmetic.

    Args:
        model: With plain parameters.
        given: Any nesting of tensors.
        gradients: Parameters that need gradients have them already, as from the second micro-batch on.

    Yields:
        `given`, fake.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    own: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
    fakes: dict[int, Any] = {}

    def fake(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        if id(tensor) not in fakes:  # tied weights stay tied
            made: Tensor = mode.from_tensor(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, requires_grad=tensor.requires_grad)
                if gradients and tensor.requires_grad:
                    with mode:
                        made.grad = torch.zeros_like(made)
            fakes[id(tensor)] = made
        return fakes[id(tensor)]

    with torch.random.fork_rng(devices=[]):
        try:
            for module in model.modules():
                own.append((module, dict(module._parameters), dict(module._buffers)))
                for name, param in own[-1][1].items():
                    setattr(module, name, fake(param))  # not into the dict: recurrent layers keep a list of their weights
                module._buffers.update({name: fake(buffer) for name, buffer in own[-1][2].items()})
            with mode:
                yield tree_map_only(Tensor, fake, given)
        finally:
            for module, params, buffers in own:
                for name, param in params.items():
                    setattr(module, name, param)
                module._buffers.update(buffers)
