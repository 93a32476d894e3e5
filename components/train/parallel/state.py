"""Weights and optimizer state as one flat mapping of tensors, whose names do not depend on the strategy.

`model.<parameter>` and `optim.state.<parameter>.<entry>`, with the parameter's name in the untouched model. Hyperparameters are not
state: they come from the code, and the learning rate is given at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from components.core.errors import IntegrityError

__all__ = ["MODEL", "OPTIM", "Part", "full_model_state", "load_state", "state_of"]

MODEL, OPTIM = "model.", "optim."
Part = tuple[nn.Module, Optimizer]
"""A module and the optimizer of its parameters: one a rank, or one a stage of a pipeline."""
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def state_of(parts: Sequence[Part]) -> dict[str, Tensor]:
    """Return what lies on this rank; shards are DTensors."""
    found: dict[str, Tensor] = {}
    for model, optimiser in parts:
        found |= {MODEL + name: value for name, value in get_model_state_dict(model).items() if isinstance(value, Tensor)}
        entries: dict[str, Any] = get_optimizer_state_dict(model, optimiser, options=_FLAT)
        found |= {OPTIM + name: value for name, value in entries.items() if isinstance(value, Tensor) and name.startswith("state.")}
    return found


def load_state(parts: Sequence[Part], state: dict[str, Tensor]) -> None:
    """Put a state, of the same names and shapes, into the modules and optimizers.

    Raises:
        IntegrityError: It lacks a tensor.
    """
    for model, optimiser in parts:
        weights: dict[str, Any] = dict(get_model_state_dict(model))
        entries: dict[str, Any] = dict(get_optimizer_state_dict(model, optimiser, options=_FLAT))
        try:
            weights = {name: state[MODEL + name] if isinstance(value, Tensor) else value for name, value in weights.items()}
            entries = {name: _entry(name, value, state) for name, value in entries.items()}
        except KeyError as error:
            raise IntegrityError(
                f"the checkpoint has no {error}", do="resume it with the model and the optimizer that it was made of"
            ) from error
        set_model_state_dict(model, weights)
        set_optimizer_state_dict(model, optimiser, entries, options=_FLAT)


def _entry(name: str, value: Any, state: dict[str, Tensor]) -> Any:
    return state[OPTIM + name] if isinstance(value, Tensor) and name.startswith("state.") else value


def full_model_state(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights on the CPU of rank 0; a collective."""
    found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.is_initialized() and dist.get_rank():
        return {}
    return {name: value.detach().to("cpu", copy=True) for name, value in found.items() if isinstance(value, Tensor)}
