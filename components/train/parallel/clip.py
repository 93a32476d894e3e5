"""Clipping the norm of a gradient whose parts lie on several meshes, or on several stages of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor

__all__ = ["clip_gradient"]


def clip_gradient(params: Iterable[nn.Parameter], limit: float, stages: dist.ProcessGroup | None = None) -> None:
    """Scale gradients in place so that their common L2 norm is at most `limit`; a collective.

    Args:
        params: Those on this rank.
        limit: The norm.
        stages: Ranks that hold other parameters of the same model; None: there are none.
    """
    by_mesh: dict[Any, list[nn.Parameter]] = {}
    for param in params:
        if param.grad is not None:
            by_mesh.setdefault(param.grad.device_mesh if isinstance(param.grad, DTensor) else None, []).append(param)
    squares = [_norm([p.grad for p in group if p.grad is not None]) ** 2 for group in by_mesh.values()]
    total = torch.stack(squares).sum()
    if stages is not None:
        dist.all_reduce(total, group=stages)
    for group in by_mesh.values():
        nn.utils.clip_grads_with_norm_(group, limit, total.sqrt())


def _norm(gradients: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
