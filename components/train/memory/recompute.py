"""Recomputation (Chen et al. 2016, arXiv 1604.06174) put onto blocks from outside: less memory, the same gradients bit for bit.

A recomputed block keeps its inputs only and runs its forward pass again when the backward pass comes to it. `selective` also keeps what its
matrix products gave, so that only cheap operations run twice (Korthikanti et al. 2022, arXiv 2205.05198, section 5: the scores of an
attention that is written out are recomputed, too). Random numbers and autocast are as in the first pass (`torch.utils.checkpoint`).

The block's class is exchanged for a subclass of its own, as `fully_shard` does: names, state dicts and `isinstance` stay as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from components.core.errors import ConfigError, nearest

__all__ = ["MODES", "Mode", "applied", "apply", "modes_of", "refuse_wrapped", "remove"]

Mode = Literal["none", "selective", "full"]
"""What a block keeps for the backward pass: everything, its inputs and matrix products, its inputs."""
MODES: tuple[Mode, ...] = ("none", "selective", "full")

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


def apply(model: nn.Module, modes: Mapping[str, Mode]) -> None:
    """Make the named blocks recompute from now on; blocks that are not named stay as they are.

    BatchNorm's running statistics are updated in the first pass only. A `selective` block can be gone through backwards once. A block whose
    input is changed in place later fails in the backward pass, as autograd fails where a saved tensor is changed.

    Args:
        model: Before `torch.compile`, DDP and `fully_shard`.
        modes: Block name -> mode; `none` undoes.

    Raises:
        ConfigError: A name or a mode is unknown, or the model is wrapped already. Later, in the forward pass: a block changes a buffer that
            it may read again.
    """
    refuse_wrapped(model)
    modules = dict(model.named_modules())
    for name, mode in modes.items():
        if name not in modules:
            raise ConfigError(f"the model has no block '{name}'", do=nearest(name, modules))
        if mode not in MODES:
            raise ConfigError(f"'{mode}' is no mode of recomputation", do=nearest(mode, MODES))
    for name, mode in modes.items():
        _put(modules[name], mode)


def remove(model: nn.Module) -> None:
    """Give every block of the model its own class back.

    Raises:
        ConfigError: The model is wrapped already.
    """
    refuse_wrapped(model)
    for module in model.modules():
        _put(module, "none")


def modes_of(model: nn.Module) -> dict[str, Mode]:
    """Return name -> mode of the blocks that recompute."""
    return {name: module._recompute_mode for name, module in model.named_modules() if isinstance(module, _Recomputed)}


@contextmanager
def applied(model: nn.Module, modes: Mapping[str, Mode]) -> Iterator[None]:
    """Have exactly these blocks recompute within the `with` block, what recomputed before afterwards."""
    before = modes_of(model)
    remove(model)
    try:
        apply(model, modes)
        yield
    finally:
        remove(model)
        apply(model, before)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise ConfigError if DDP or FSDP wraps the model: its blocks, parameters and classes are no longer plain."""
    if isinstance(model, nn.parallel.DistributedDataParallel) or any(hasattr(module, "_get_fsdp_state") for module in model.modules()):
        raise ConfigError("the model is wrapped by DDP or FSDP already", do="plan and apply recomputation first, wrap then")


class _Recomputed(nn.Module):
    """Comes before a block's class in the order of resolution.

    Attributes:
        _recompute_needed: Product -> how many calls of it a recomputation asks for; None before the first one. It stops at the last tensor
            that the backward pass needs, so what comes later (the last product of most blocks) need not be kept. A wrong number costs
            time, never the result.
    """

    _recompute_mode: Mode
    _recompute_needed: Mapping[Any, int] | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        call, names, count = super().forward, tuple(kwargs), len(args)

        def run(*values: Any) -> Any:
            return call(*values[:count], **dict(zip(names, values[count:], strict=True)))

        before = _marks(self)
        out = checkpoint(run, *args, *kwargs.values(), use_reentrant=False, context_fn=partial(_contexts, self))
        _check_unchanged(self, before)
        return out


@cache
def _class(block: type[nn.Module]) -> type[nn.Module]:
    return type(f"Recomputed{block.__name__}", (_Recomputed, block), {"__module__": block.__module__, "_own_class": block})


def _put(block: nn.Module, mode: Mode) -> None:
    own: Any = getattr(type(block), "_own_class", type(block))
    changed: Any = block
    if mode == "none":
        if isinstance(block, _Recomputed):
            del block._recompute_mode
        changed.__class__ = own
        return
    changed.__class__ = _class(own)
    vars(block)["_recompute_mode"] = mode
    vars(block).setdefault("_recompute_needed", None)


def _contexts(block: _Recomputed) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    norms = [module for module in block.modules() if isinstance(module, _NormBase) and module.running_mean is not None]
    kept: AbstractContextManager[Any] = nullcontext()
    if block._recompute_mode == "full":
        return kept, _again(block, norms, None)
    caching, cached = create_selective_checkpoint_contexts(_policy(block._recompute_needed))  # type: ignore[no-untyped-call]
    return caching, _again(block, norms, cached)


def _policy(needed: Mapping[Any, int] | None) -> Callable[..., CheckpointPolicy]:
    calls: Counter[Any] = Counter()

    def decide(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        if operation not in _PRODUCTS:
            return CheckpointPolicy.PREFER_RECOMPUTE
        calls[operation] += 1
        keep = needed is None or calls[operation] <= needed.get(operation, 0)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return decide


@contextmanager
def _again(block: _Recomputed, norms: list[_NormBase], cached: TorchDispatchMode | None) -> Iterator[None]:
    """The second pass: batch statistics go into copies, products come from the first pass."""
    own = [dict(norm._buffers) for norm in norms]
    with ExitStack() as stack:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})
            stack.callback(norm._buffers.update, buffers)
        if cached is not None:
            stack.enter_context(cached)
        counting = stack.enter_context(_Products()) if cached is not None and block._recompute_needed is None else None
        try:
            yield
        except RuntimeError as error:
            if "has been mutated" in str(error):
                what = f"{type(block).__name__} changes the result of a matrix product in place, so `selective` can't keep it"
                raise ConfigError(what, do="use the mode `full`, or an activation that is not in place") from error
            raise
        finally:
            if counting is not None:
                vars(block)["_recompute_needed"] = dict(counting.calls)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts calls of products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            self.calls[func] += 1
        return func(*args, **(kwargs or {}))


def _marks(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Buffer name -> what changes with the buffer; those of norms are left out: their output in training does not depend on them."""
    return {
        f"{prefix}.{name}": (id(buffer), buffer._version)
        for prefix, module in block.named_modules()
        if not isinstance(module, _NormBase)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


def _check_unchanged(block: nn.Module, before: Mapping[str, tuple[int, int]]) -> None:
    after = _marks(block)
    changed = sorted(name.lstrip(".") for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        what = f"{type(block).__name__} changes its buffer '{changed[0]}' in the forward pass: a recomputation would read the changed one"
        raise ConfigError(what, do="leave this block out of the plan")
