"""Heads that head.py compares: ours, and two that keep their logits. All compute the softmax of `SCALE` times cosines, without a margin.

Shapes: B rows of all ranks, b of this one, C classes, c of the shard, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn import functional

from components.train.parallel.head import ShardedHead
from components.train.parallel.margins import Margin

__all__ = ["HEADS", "SCALE", "Head", "Made"]

SCALE = 64.0
LR = 0.1
Head = Callable[[Tensor, Tensor], float]
"""Embeddings (b, D) and labels (b,) -> the loss; a forward and a backward pass, the gradients left in `.grad`."""
Made = tuple[Head, nn.Parameter]


def ours(classes: int, dim: int, mesh: DeviceMesh, **options: Any) -> Made:
    """ShardedHead."""
    head = ShardedHead(classes, dim, mesh=mesh, margin=Margin("plain", SCALE, 0.0), **options)

    def step(e_bD: Tensor, label_b: Tensor) -> float:
        loss = head(e_bD, label_b)
        loss.backward()
        return float(loss.detach())

    return step, head.weight


def fused(classes: int, dim: int, mesh: DeviceMesh) -> Made:
    """ShardedHead whose backward pass is the optimiser's step."""
    return ours(classes, dim, mesh, fused_lr=LR)


def fused_kept(classes: int, dim: int, mesh: DeviceMesh) -> Made:
    """The same, with logits kept in the room of the gradient that never exists whole."""
    return ours(classes, dim, mesh, fused_lr=LR, keep=-(-classes // mesh.size()) * dim * 4 + (1 << 20))


def dtensor(classes: int, dim: int, mesh: DeviceMesh) -> Made:
    """torch's own: DTensor and `loss_parallel`. The scale is applied to the rows, which spares it a pass over the logits."""
    weight = ShardedHead(classes, dim, mesh=mesh).weight

    def step(e_bD: Tensor, label_b: Tensor) -> float:
        rows = DTensor.from_local(functional.normalize(e_bD) * SCALE, mesh, [Shard(0)], run_check=False)
        labels = DTensor.from_local(label_b, mesh, [Shard(0)], run_check=False).redistribute(placements=[Replicate()])
        with loss_parallel():
            logits = rows.redistribute(placements=[Replicate()]) @ functional.normalize(weight).T
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
        return float(loss.full_tensor().detach())

    return step, weight


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e_bD: Tensor, world: int) -> Tensor:
        ctx.rows = len(e_bD)
        e_BD = e_bD.new_empty(world * len(e_bD), e_bD.shape[1])
        distributed.all_gather_single(e_BD, e_bD)
        return e_BD

    @staticmethod
    def backward(ctx: Any, grad_BD: Tensor) -> tuple[Tensor, None]:
        own = grad_BD.new_empty(ctx.rows, grad_BD.shape[1])
        distributed.reduce_scatter_single(own, grad_BD)
        return own, None


class _CrossEntropy(torch.autograd.Function):
    """In place where it can be, the probabilities kept for the backward pass, as in Partial FC's `DistCrossEntropy` (An et al. 2022).

    That one takes the logarithm of a probability that is at least 1e-30, which cuts losses off at 69; this one does not.
    """

    @staticmethod
    def forward(ctx: Any, z_Bc: Tensor, row_T: Tensor, column_T: Tensor) -> Tensor:
        largest_B1 = z_Bc.max(dim=1, keepdim=True)[0]
        distributed.all_reduce(largest_B1, distributed.ReduceOp.MAX)
        z_Bc.sub_(largest_B1)
        own_B = z_Bc.new_zeros(len(z_Bc))
        own_B[row_T] = z_Bc[row_T, column_T]
        distributed.all_reduce(own_B)
        sum_B1 = z_Bc.exp_().sum(dim=1, keepdim=True)
        distributed.all_reduce(sum_B1)
        z_Bc.div_(sum_B1)
        ctx.save_for_backward(z_Bc, row_T, column_T)
        return (sum_B1[:, 0].log() - own_B).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        p_Bc, row_T, column_T = ctx.saved_tensors
        p_Bc[row_T, column_T] -= 1
        return p_Bc.mul_(grad / len(p_Bc)), None, None


def plain(classes: int, dim: int, mesh: DeviceMesh) -> Made:
    """A sharded softmax that keeps its logits: normalised weights, one matrix product, in-place softmax."""
    head = ShardedHead(classes, dim, mesh=mesh)  # for its weights
    weight_cD = nn.Parameter(head.local_weight().detach())

    def step(e_bD: Tensor, label_b: Tensor) -> float:
        e_BD = _Gather.apply(functional.normalize(e_bD), mesh.size())
        label_B = label_b.new_empty(len(e_BD))
        distributed.all_gather_single(label_B, label_b)
        place_B = label_B - head.first
        row_T = ((place_B >= 0) & (place_B < len(weight_cD))).nonzero()[:, 0]
        logits_Bc = functional.linear(e_BD * SCALE, functional.normalize(weight_cD))
        loss = _CrossEntropy.apply(logits_Bc, row_T, place_B[row_T])
        loss.backward()
        return float(loss.detach())

    return step, weight_cD


def plain_sgd(classes: int, dim: int, mesh: DeviceMesh) -> Made:
    """The plain one, and the SGD step that `fused` includes."""
    step, weight = plain(classes, dim, mesh)

    def stepped(e_bD: Tensor, label_b: Tensor) -> float:
        loss = step(e_bD, label_b)
        with torch.no_grad():
            weight.sub_(weight.grad, alpha=LR)
        return loss

    return stepped, weight


HEADS: Mapping[str, Callable[[int, int, DeviceMesh], Made]] = {
    "ours": ours, "fused": fused, "fused_kept": fused_kept, "loss_parallel": dtensor, "plain": plain, "plain_sgd": plain_sgd,
}  # fmt: skip
