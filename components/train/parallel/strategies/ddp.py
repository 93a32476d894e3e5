"""Data parallel: whole models, gradients averaged in buckets while the backward pass still runs (Li et al., arXiv 2006.15704)."""

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel

from components.train.parallel.mesh import Mesh
from components.train.parallel.section import Parallel
from components.train.parallel.strategies.base import Strategy, Work, build
from components.train.parallel.strategies.whole import Whole

__all__ = ["make"]


def make(parallel: Parallel, mesh: Mesh, work: Work, device: torch.device) -> Strategy:
    """Return the strategy; rank 0's weights and buffers are sent to all.

    Raises:
        ConfigError: The world is not the mesh.
    """
    data = mesh.device_mesh(device.type)["data"]
    model = DistributedDataParallel(
        build(work).to(device), process_group=data.get_group(), bucket_cap_mb=parallel.bucket_mb, gradient_as_bucket_view=True
    )

    def synchronise(last: bool) -> None:
        model.require_backward_grad_sync = last  # what `no_sync` sets, without a context around forward and backward

    return Whole(
        model,
        work.optimiser(model.parameters()),
        work,
        device,
        place=data.get_local_rank(),
        places=mesh.data,
        group=data.get_group(),
        synchronise=synchronise,
        parts=parallel.micro_batches,
    )
