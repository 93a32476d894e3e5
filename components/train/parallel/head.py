"""A classification head of any number of classes, sharded over ranks: metric learning (ArcFace, CosFace) on millions of identities.

Shapes: B rows of all ranks, b of this one, C classes, c of the shard, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as Sharded
from torch.nn import functional

from components.core.errors import ConfigError
from components.train.parallel.exchange import Exchange
from components.train.parallel.margins import Margin
from components.train.parallel.sampling import sample
from components.train.parallel.softmax import Shard, softmax_loss

__all__ = ["ShardedHead", "first_values"]

_LARGEST_SCALE = {torch.float32: 64.0, torch.float64: 500.0}  # chunks of exp(scale) and their gradients stay finite
_CELLS = {"cpu": 1 << 17}  # logits of a chunk: they should stay in a core's cache
_CELLS_ELSEWHERE = 1 << 26
_LEAST_CHUNK = 128
_BLOCK = 4096  # classes that are drawn from one seed
_SPREAD = 0.01


class ShardedHead(nn.Module):
    """Exact model-parallel softmax cross-entropy over cosines, with a margin.

    Rank r of W has the classes from r · ⌈C / W⌉ on, as torch's `Shard(0)` cuts them; the last shards may be smaller or empty. The ranks may
    have different numbers of rows. In a step they do three collectives (rows, (2, B) figures, dE); when a rank has more rows than any rank
    before, the first is done twice.

    `weight` is a DTensor when there is a mesh: `torch.distributed.checkpoint` saves it at one world size and loads it at another, and its
    first values are the same at every world size.

    Args:
        classes: C.
        dim: D.
        margin: And scale.
        mesh: One dimension: the ranks that share the classes. None: one rank has them all and no process group is needed.
        device: Of the weight; None: the mesh's, or torch's default.
        dtype: float32 or float64. Embeddings are cast to it, autocast is off: sums over millions of classes need the digits.
        chunk: Classes whose logits exist at one time; 0: by the number of rows. Time and memory depend on it, the result does not.
        keep: Bytes of a batch's logits that a rank may keep from the forward pass to the backward one, which computes only the rest anew:
            memory for time. The room that `fused_lr` saves holds the logits of as many rows as there are dimensions.
        share: Partial FC: the share of classes that takes part in a training step; the batch's own always do. 1 is exact. The gradient of
            the others is 0, so that momentum and weight decay still move them; dW is as large as before.
        seed: Of the first values and of the sample.
        fused_lr: Where given, the backward pass itself does W -= fused_lr · dW, chunk by chunk, and dW never exists whole: plain SGD,
            without momentum, clipping or accumulation over batches. `weight.grad` stays None. It may be changed between steps.
        averaged: Set it when DDP or FSDP averages the backbone's gradients over these ranks: dE is then multiplied by their number, and
            the average is the gradient of the loss. dW is nobody's average and is not touched.

    Raises:
        ConfigError: An argument is out of its range, or the mesh has more than one dimension.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        margin: Margin | None = None,
        mesh: DeviceMesh | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        chunk: int = 0,
        keep: int = 0,
        share: float = 1.0,
        seed: int = 0,
        fused_lr: float | None = None,
        averaged: bool = False,
    ) -> None:
        super().__init__()
        self.margin = margin or Margin()
        _check(classes, dim, self.margin, mesh, dtype, chunk, keep, share, fused_lr)
        self.classes, self.dim, self.chunk, self.share, self.seed, self.averaged = classes, dim, chunk, share, seed, averaged
        self.fused_lr, self.keep = fused_lr, keep
        self._exchange = Exchange(mesh.get_group() if mesh else None, classes=classes, dim=dim)
        each = -(-classes // self._exchange.world)
        self.first = min(self._exchange.rank * each, classes)
        last = min(self.first + each, classes)
        at = torch.device(device or (mesh.device_type if mesh else torch.get_default_device()))
        weight_cD = first_values(self.first, last, dim, seed=seed, device=at, dtype=dtype)
        if mesh is None:
            self.weight = nn.Parameter(weight_cD)
        else:
            shape = torch.Size((classes, dim))
            self.weight = nn.Parameter(DTensor.from_local(weight_cD, mesh, [Sharded(0)], run_check=False, shape=shape, stride=(dim, 1)))
        # Resumed with the weight: a job that goes on draws the samples it would have drawn.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=share < 1)
        self.steps: Tensor

    def local_weight(self) -> Tensor:
        """Return the shard's weights (c, D), with autograd to `weight`."""
        weight: Any = self.weight
        local: Tensor = weight.to_local() if isinstance(weight, DTensor) else weight
        return local

    def forward(self, embedding_bD: Tensor, label_b: Tensor) -> Tensor:
        """Return the mean loss over the rows of all ranks: a scalar, the same on every rank.

        Every rank of the mesh must call it, and `backward` of what it returns.

        Args:
            embedding_bD: This rank's rows, of any length but 0 (of length 0 they have no direction, and a gradient of no use).
            label_b: Their class ids, from 0 to C - 1.

        Raises:
            DataError: On every rank, when the input of any rank can't be used.
        """
        weight_cD = self.local_weight()
        if wrong := self._wrong(embedding_bD, label_b, weight_cD.device):
            self._exchange.refuse(weight_cD.detach(), wrong)
        unit_bD = functional.normalize(embedding_bD.to(weight_cD.dtype))
        rows = self._exchange.gather(unit_bD.detach(), label_b)
        taken_n = None
        if self.training and self.share < 1:
            drawn = {"first": self.first, "classes": len(weight_cD), "seed": self.seed, "step": int(self.steps)}
            taken_n = sample(rows.label_B, share=self.share, **drawn)
            self.steps += 1
        chunk = self.chunk or max(_LEAST_CHUNK, _CELLS.get(weight_cD.device.type, _CELLS_ELSEWHERE) // len(rows.label_B))
        shard = Shard(self.first, taken_n, chunk, self.keep, self.margin, self._exchange, self.fused_lr, self.averaged)
        return softmax_loss(unit_bD, weight_cD, rows, shard)

    def _wrong(self, embedding: Tensor, label: Tensor, device: torch.device) -> str:
        if embedding.ndim != 2 or embedding.shape[1] != self.dim or not embedding.is_floating_point():
            return f"embeddings {tuple(embedding.shape)} of {embedding.dtype}; the head takes (b, {self.dim}) of a floating type"
        if label.shape != embedding.shape[:1]:
            return f"labels of shape {tuple(label.shape)} for {len(embedding)} embeddings"
        if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
            return f"labels of {label.dtype}; class ids are whole numbers"
        if embedding.device != device or label.device != device:
            return f"embeddings on {embedding.device} and labels on {label.device}; the head is on {device}"
        return ""

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"classes={self.classes}, dim={self.dim}, shard={len(self.local_weight())} from {self.first}, {self.margin}"


def _check(
    classes: int,
    dim: int,
    margin: Margin,
    mesh: DeviceMesh | None,
    dtype: torch.dtype,
    chunk: int,
    keep: int,
    share: float,
    fused_lr: float | None,
) -> None:
    if classes < 1 or dim < 1:
        raise ConfigError(f"a head of {classes} classes and {dim} dimensions", do="give at least 1 of both")
    if dtype not in _LARGEST_SCALE:
        raise ConfigError(f"a head in {dtype}", do="use float32, or float64; embeddings may have any floating type")
    if margin.scale > _LARGEST_SCALE[dtype]:
        raise ConfigError(f"a scale of {margin.scale} in {dtype}", do=f"give at most {_LARGEST_SCALE[dtype]:g}, or use float64")
    if mesh is not None and mesh.ndim != 1:
        raise ConfigError(f"a mesh of {mesh.ndim} dimensions", do='give the one that shares the classes, as in mesh["tensor"]')
    if chunk < 0:
        raise ConfigError(f"chunks of {chunk} classes", do="give at least 1, or 0 to let the head choose")
    if keep < 0:
        raise ConfigError(f"{keep} bytes to keep logits in", do="give a number from 0; 0 keeps none")
    if not 0 < share <= 1:
        raise ConfigError(f"a share of {share} of the classes", do="give a number above 0, at most 1")
    if fused_lr is not None and not (math.isfinite(fused_lr) and fused_lr > 0):
        raise ConfigError(f"a fused learning rate of {fused_lr}", do="give a positive number, or None to use an optimiser")


def first_values(first: int, last: int, dim: int, *, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Draw the first values of classes `first` to `last`, (last - first, D).

    Block by block, each from a seed of its own: a class's do not depend on which rank has it.
    """
    weight_cD = torch.empty(last - first, dim, device=device, dtype=dtype)
    draw = torch.Generator(device)
    for start in range(first - first % _BLOCK, last, _BLOCK):
        draw.manual_seed((seed * 2**24 + start // _BLOCK) % 2**63)
        block = torch.randn(_BLOCK, dim, generator=draw, device=device, dtype=dtype) * _SPREAD
        low, high = max(start, first), min(start + _BLOCK, last)
        weight_cD[low - first : high - first] = block[low - start : high - start]
    return weight_cD
