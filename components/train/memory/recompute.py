"""Recomputation (Chen et al. 2016, arXiv 1604.06174) put onto blocks from outside: less memory, the same gradients bit for bit.

A recomputed block keeps its inputs only and runs its forward pass again when the backward pass comes to it. `selective` also keeps what its
matrix products gave, so that only cheap operations run twice (Korthikanti et al. 2022, arXiv 2205.05198, section 5: the scores of an
attention that is written out are recomputed, too). Masks of dropout are kept where drawing them anew would cost (`keeping`); other random
numbers, and autocast, are as in the first pass (`torch.utils.checkpoint`).

The block's class is exchanged for a subclass of its own, as `fully_shard` does: names, state dicts and `isinstance` stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from components.core.errors import ConfigError, nearest
from components.train.memory.keeping import Giving, Keeping

__all__ = ["MODES", "Mode", "applied", "apply", "modes_of", "refuse_wrapped", "remove"]

Mode = Literal["none", "selective", "full"]
"""What a block keeps for the backward pass: everything, its inputs and matrix products, its inputs."""
MODES: tuple[Mode, ...] = ("none", "selective", "full")


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
        _recompute_draws: Whether masks of dropout are worth looking for, as the first pass in training found; likewise.
    """

    _recompute_mode: Mode
    _recompute_draws: bool
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
    vars(block).setdefault("_recompute_draws", True)


def _contexts(block: _Recomputed) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    norms = [module for module in block.modules() if isinstance(module, _NormBase) and module.running_mean is not None]
    products = block._recompute_mode == "selective"
    keeping = Keeping(products=products, needed=block._recompute_needed) if products or block._recompute_draws else None
    return _first(block, keeping), _again(block, norms, keeping)


@contextmanager
def _first(block: _Recomputed, keeping: Keeping | None) -> Iterator[None]:
    with keeping or nullcontext():
        yield
    if keeping is not None and block.training:
        vars(block)["_recompute_draws"] = bool(keeping.masks)


@contextmanager
def _again(block: _Recomputed, norms: list[_NormBase], keeping: Keeping | None) -> Iterator[None]:
    """The second pass: batch statistics go into copies, products and masks come from the first pass."""
    own = [dict(norm._buffers) for norm in norms]
    with ExitStack() as stack:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})
            stack.callback(norm._buffers.update, buffers)
        giving = stack.enter_context(Giving(keeping)) if keeping is not None else None
        try:
            yield
        finally:
            if giving is not None and block._recompute_mode == "selective" and block._recompute_needed is None:
                vars(block)["_recompute_needed"] = dict(giving.calls)


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
