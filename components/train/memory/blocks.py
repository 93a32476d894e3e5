"""Which modules of a model are its blocks: the units that are measured and recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from components.core.errors import ConfigError, nearest

__all__ = ["find"]


def find(model: nn.Module, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Return name -> block, in the model's order.

    Args:
        model: Not yet wrapped by DDP or FSDP.
        names: Names as in `model.named_modules()`; `*` stands for one part of a name (`layers.*`). None: the entries of the `nn.ModuleList`
            that holds the most parameters, the first of equals.

    Raises:
        ConfigError: A name matches nothing, a block lies within another, or no names are given and the model has no `nn.ModuleList`.
    """
    found = _named(model, names) if names else _largest_list(model)
    for name in found:
        inside = next((other for other in found if name.startswith(f"{other}.")), None)
        if inside is not None:
            raise ConfigError(f"block '{name}' lies within block '{inside}'", do="name one of them")
    return found


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    modules = {name: module for name, module in model.named_modules() if name}
    for pattern in names:
        if not any(_matches(name, pattern) for name in modules):
            raise ConfigError(f"the model has no module '{pattern}'", do=nearest(pattern, modules))
    return {name: module for name, module in modules.items() if any(_matches(name, pattern) for pattern in names)}


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=True))


def _largest_list(model: nn.Module) -> dict[str, nn.Module]:
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ConfigError(f"{type(model).__name__} has no nn.ModuleList to take its blocks from", do="name the blocks, e.g. ['layer1.*']")
    name, largest = max(lists, key=lambda entry: sum(param.numel() for param in entry[1].parameters()))
    return {f"{name}.{key}" if name else key: block for key, block in largest.named_children()}
