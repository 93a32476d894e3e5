"""What a recomputed block keeps from its first pass for its second: products of matrices, and masks of dropout.

For products this is what `torch.utils.checkpoint.create_selective_checkpoint_contexts` does, but an operation that is not kept costs less
time. As there, what is kept is given once, and must not be changed in place.

Masks are kept a byte an element. On a CPU drawing is most of what dropout costs and copying is a fiftieth of it; on a GPU drawing is nearly
free, and there none is kept. Who does not draw leaves the generator where it was, so masks stand in for draws only where nothing else is
random: what is drawn after them would be other numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from components.core.errors import ConfigError

__all__ = ["Giving", "Keeping"]

_aten = torch.ops.aten
_PRODUCTS = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.convolution.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
    }
)
_BATCHED, _DRAW = _aten.bmm.default, _aten.bernoulli_.float


class Keeping(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within `with`, the first pass: keeps.

    Args:
        products: Whether products are kept, too.
        needed: Product -> how many calls of it the second pass asks for; None: not known, all are kept.

    Attributes:
        masks: Those drawn; None once something else was random.
    """

    def __init__(self, *, products: bool, needed: Mapping[Any, int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.masks: deque[Tensor] | None = deque()
        self.products: dict[Any, deque[tuple[Any, list[int]]]] = defaultdict(deque)
        self._keeps, self._needed = products, needed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _is_product(func, args, kwargs):
            kept = self.products[func]
            if self._keeps and (self._needed is None or len(kept) < self._needed.get(func, 0)):
                kept.append(_apart(out))
        elif _is_random(func) and self.masks is not None:
            if func is _DRAW and out.device.type == "cpu" and not kwargs:
                self.masks.append(out.to(torch.int8))
            else:
                self.masks = None
        return out


class Giving(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within `with`, the second pass: gives what was kept.

    Attributes:
        calls: Of products so far.

    Raises:
        ConfigError: A product was changed in place after it was kept.
    """

    def __init__(self, kept: Keeping) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[Any] = Counter()
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DRAW and self._kept.masks:
            return args[0].copy_(self._kept.masks.popleft())
        if _is_product(func, args, kwargs):
            self.calls[func] += 1
            if kept := self._kept.products.get(func):
                return _unchanged(*kept.popleft())
        return func(*args, **(kwargs or {}))


def _is_product(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether it is a product that is worth its room, and draws nothing: who is given a result does not move the generator on.

    Batched products, (n, k) times (k, m), are not if a number of the result took fewer than m multiplications. So of an attention that is
    written out the scores are computed again, and what they weigh together is kept.
    """
    if func is _BATCHED:
        return bool(args[0].shape[-1] >= args[1].shape[-1])
    # Attentions are said to be random, and are if they drop out: of their arguments only that one is a float.
    return func in _PRODUCTS and not any(type(value) is float and value > 0 for value in (*args, (kwargs or {}).get("dropout_p")))


@cache
def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _apart(out: Any) -> tuple[Any, list[int]]:
    """Return a result without its history, which would hold the block's graph, and the versions of its tensors."""
    versions: list[int] = []

    def detached(tensor: Tensor) -> Tensor:
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):  # changes in place are seen
            alone = tensor.detach()
        versions.append(alone._version)
        return alone

    return tree_map_only(Tensor, detached, out), versions


def _unchanged(out: Any, versions: list[int]) -> Any:
    left = iter(versions)

    def check(tensor: Tensor) -> Tensor:
        if tensor._version != next(left):
            what = "a block changes the result of a matrix product in place, so `selective` can't keep it"
            raise ConfigError(what, do="use the mode `full`, or an activation that is not in place")
        return tensor

    return tree_map_only(Tensor, check, out)
