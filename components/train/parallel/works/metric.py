"""metric: metric learning over many classes. Rows become directions, classes too, and the angle between them decides.

A body of dense layers, then a head of one direction a class with a margin (ArcFace, CosFace: `components.train.parallel.margins`). In one
process the head is dense; strategy `sharded_head` shares its classes among processes.
Shapes: N rows, F inputs, B rows of a batch, D dimensions of a direction, C classes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from components.core.errors import ConfigError
from components.core.params import Frozen
from components.train.learners.arcface import Params
from components.train.parallel.head import ShardedHead, first_values
from components.train.parallel.margins import Margin
from components.train.parallel.strategies.base import Batch, Work
from components.train.parallel.works import Training
from components.train.rates import warm_cosine

__all__ = ["INPUTS", "LABELS", "Options", "make", "training_of"]

INPUTS, LABELS = "z.npy", "y.npy"


class Options(Frozen):
    """Of the work: what is in `job.json`.

    Attributes:
        folder: With `z.npy`, (N, F) float32, and `y.npy`, (N,) class numbers.
        classes: C.
        params: Hyperparameters.
        seed: Of everything random.
    """

    folder: Path
    classes: int = Field(ge=2)
    params: Params = Params()
    seed: int = 0


class _Cosines(nn.Module):
    """The dense head: (B, D) -> (B, C) cosines between rows and classes. Its first values are the sharded head's."""

    def __init__(self, classes: int, dim: int, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(first_values(0, classes, dim, seed=seed, device=torch.device("cpu"), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x) @ functional.normalize(self.weight).T


def make(options: Mapping[str, Any]) -> Training:
    """Return the work and its data, memory-mapped.

    Raises:
        ConfigError: An option is unknown or out of range, or there are no data.
    """
    try:
        given = Options.model_validate(dict(options))
        z, y = (np.load(given.folder / name, mmap_mode="r", allow_pickle=False) for name in (INPUTS, LABELS))
    except (ValidationError, OSError, ValueError) as error:
        raise ConfigError(f"the options of 'metric' are wrong: {error}", do="correct them") from error
    return training_of(z, y, given.classes, given.params, given.seed)


def training_of(z: Any, y: Any, classes: int, params: Params, seed: int) -> Training:
    """Return the work and its data.

    Args:
        z: (N, F) float32, standardised.
        y: (N,) class numbers from 0.
        classes: C.
        params: Hyperparameters.
        seed: Of weights and of the order of rows.
    """
    rows = min(params.batch, len(z))
    an_epoch = len(z) // rows  # an incomplete batch is left out: another epoch's order brings its rows

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Any:
        return np.random.default_rng([seed, epoch]).permutation(len(z))

    def batch(step: int) -> Batch:
        epoch, number = divmod(step, an_epoch)
        chosen = np.sort(order(epoch)[number * rows : (number + 1) * rows])
        return torch.from_numpy(np.asarray(z[chosen], dtype=np.float32)), torch.from_numpy(np.asarray(y[chosen], dtype=np.int64))

    work = Work(
        model=lambda: _model(z.shape[1], classes, params, seed),
        loss=lambda cosine, label: _loss(cosine, label, _margin(params)),
        # One parameter at a time: a sharded head's is a DTensor, which torch's lists of tensors can't be mixed with.
        optimiser=lambda given: torch.optim.AdamW(given, lr=params.lr, weight_decay=params.weight_decay, foreach=False),
        head=lambda mesh: _sharded(classes, params, seed, mesh),
        blocks=("body.*",),
    )
    steps = params.epochs * an_epoch
    return Training(work, batch, rate=lambda step: warm_cosine(step, steps), steps=steps)


def _model(inputs: int, classes: int, params: Params, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for number in range(params.layers):
            layers += [nn.Linear(params.hidden if number else inputs, params.hidden), nn.ReLU()]
        body = nn.Sequential(*layers, nn.Linear(params.hidden, params.dim))
    return nn.Sequential(OrderedDict(body=body, head=_Cosines(classes, params.dim, seed)))


def _margin(params: Params) -> Margin:
    return Margin(params.kind, params.scale, 0.0 if params.kind == "plain" else params.margin)


def _sharded(classes: int, params: Params, seed: int, mesh: DeviceMesh) -> ShardedHead:
    given: dict[str, Any] = {"margin": _margin(params), "mesh": mesh, "share": params.share, "keep": params.keep_mib << 20, "seed": seed}
    return ShardedHead(classes, params.dim, averaged=True, **given)


def _loss(cosine_BC: Tensor, label_B: Tensor, margin: Margin) -> Tensor:
    own_B = cosine_BC.gather(1, label_B[:, None])[:, 0]
    phi_B, slope_B = margin.apply(own_B.detach(), least_sine=math.sqrt(torch.finfo(own_B.dtype).eps))
    phi_B = phi_B + slope_B * (own_B - own_B.detach())  # its value and its derivative, finite where row and class coincide
    return functional.cross_entropy(margin.scale * cosine_BC.scatter(1, label_B[:, None], phi_B[:, None]), label_B)
