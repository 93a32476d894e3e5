"""Fully sharded data parallel by `fully_shard`: weights, gradients and optimizer state lie in shards, gathered a layer at a time
(ZeRO-3, arXiv 1910.02054; PyTorch FSDP, arXiv 2304.11277). Over a second dimension each layer may be split by the work's tensor plan.

The model is made whole on every rank's CPU before it is sharded, so that its weights are the single process's: it must fit there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import fully_shard

from components.core.errors import ConfigError
from components.train.parallel.mesh import Mesh
from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Strategy, Work, build, layers_of
from components.train.parallel.strategies.whole import Whole

__all__ = ["make"]


def make(parallel: Parallel, mesh: Mesh, work: Work, device: torch.device) -> Strategy:
    """Return the strategy.

    Raises:
        ConfigError: The world is not the mesh, or the work has no tensor plan and `tensor` is above 1.
    """
    if mesh.tensor > 1 and work.tensor is None:
        raise ConfigError(f"tensor is {mesh.tensor}, but this work does not say how its layers are split", do="set tensor to 1")
    whole = mesh.device_mesh(device.type)
    data = whole["data"]
    model = build(work).to(device)
    if mesh.tensor > 1 and work.tensor is not None:
        work.tensor(model, whole["tensor"])
    for layer in layers_of(model):
        fully_shard(layer, mesh=data)
    sharded: Any = fully_shard(model, mesh=data)  # the same model, its class extended by FSDPModule
    return Whole(
        sharded,
        work.optimiser(sharded.parameters()),
        work,
        device,
        place=data.get_local_rank(),
        places=mesh.data,
        group=data.get_group(),
        synchronise=sharded.set_requires_gradient_sync,
        parts=parallel.micro_batches,
    )
