"""A small residual network on drawn numbers: shows on any machine that a strategy trains as one process does.

Its loss curve is the golden one of tests/golden/parallel_curve.json. The data are drawn, and say so: nothing is learned from the world.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

from components.core.errors import ConfigError
from components.core.params import Frozen
from components.train.parallel.strategies.base import Batch, Work
from components.train.parallel.works import Training

__all__ = ["Options", "make"]


class Options(Frozen):
    """What can be chosen.

    Attributes:
        rows: Of a global batch.
        width: Of the network.
        blocks: Residual ones; the chain has two layers more.
        dtype: Of weights and inputs.
        lr: Of AdamW.
        clip: The gradient's largest norm.
        seed: Of weights and data.
    """

    rows: int = Field(32, ge=1)
    width: int = Field(24, ge=2)
    blocks: int = Field(6, ge=1)
    dtype: Literal["float32", "float64"] = "float64"
    lr: float = Field(3e-3, gt=0)
    clip: float | None = Field(1.4, gt=0)
    seed: int = 0


_INPUTS, _CLASSES = 16, 10
_EPS = 1e-2  # Adam's usual 1e-8 would hide a gradient that is wrong by a factor


class _Block(nn.Module):
    """x + down(gelu(up(norm(x)))), (B, width) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(functional.gelu(self.up(self.norm(x))))
        return x + hidden


def make(options: Mapping[str, Any]) -> Training:
    """Return the work and its data.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    try:
        given = Options.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(f"the options of 'probe' are wrong: {error}", do="correct them") from error
    dtype = getattr(torch, given.dtype)

    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            layers: list[tuple[str, nn.Module]] = [("inlet", nn.Linear(_INPUTS, given.width, dtype=torch.float64))]
            layers += [(f"block{number}", _Block(given.width).double()) for number in range(given.blocks)]
            layers.append(("outlet", nn.Linear(given.width, _CLASSES, dtype=torch.float64)))
        return nn.Sequential(OrderedDict(layers)).to(dtype)

    work = Work(
        model=model,
        loss=functional.cross_entropy,
        optimiser=lambda params: torch.optim.AdamW(params, lr=given.lr, eps=_EPS),
        tensor=_split,
        clip=given.clip,
        blocks=("block*",),
    )
    return Training(work, lambda step: _batch(given, dtype, step), rate=lambda step: min(1.0, (step + 1) / 5))


def _split(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split each block's first layer by columns and its second by rows (Megatron-LM, arXiv 1909.08053, section 3)."""
    for layer in model.children():
        if isinstance(layer, _Block):
            parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def _batch(given: Options, dtype: torch.dtype, step: int) -> Batch:
    """Draw inputs; the class is the largest of ten fixed directions."""
    direction = torch.randn(_INPUTS, _CLASSES, generator=torch.Generator().manual_seed(given.seed), dtype=torch.float64)
    draw = torch.Generator().manual_seed(given.seed * 1_000_003 + step + 1)
    x = torch.randn(given.rows, _INPUTS, generator=draw, dtype=torch.float64)
    return x.to(dtype), (x @ direction).argmax(dim=1)
