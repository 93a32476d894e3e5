"""Exact softmax cross-entropy over classes that are sharded over ranks; the logits never exist whole.

Two passes over chunks of a shard's classes. Forward: Σ exp(z) over the classes that are not a row's own, and the row's own logit; one
all-reduce of (2, B). Backward: the chunk's probabilities anew, from them dE and dW; one reduce-scatter of dE. A cosine is bounded, so the
largest logit is known beforehand (`scale`) and need not be looked for; the shift is 0, since exp(scale) is a finite float. The sums are
kept apart from the own class and in float64: a loss near 0 and its gradient keep their digits.

What both passes compute may also be kept between them, as far as a number of bytes goes: of a kept chunk the backward pass needs one
product less (2 instead of 3) and no exponential.

Chunks after Wijmans et al. 2024 (Cut Cross-Entropy, arXiv 2411.09009) and shards after An et al. 2022 (Partial FC, arXiv 2203.15565).
Shapes: B rows of all ranks, b of this one, c classes of the shard, n that take part, k of a chunk, T rows whose class lies in the shard, D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from components.train.parallel.exchange import Exchange, Gathered
from components.train.parallel.margins import Margin

__all__ = ["Shard", "softmax_loss"]

_LEAST_NORM = 1e-12  # as functional.normalize


@dataclass(frozen=True)
class Shard:
    """This rank's classes in one step.

    Attributes:
        first: Id of the first class.
        taken_n: Ascending positions of the classes that take part; None: all.
        chunk: Classes whose logits exist at one time.
        keep: Bytes of exp(logits) that the forward pass may leave for the backward one.
        margin: Applied to a row's own class.
        exchange: Between the ranks.
        lr: Where given, the backward pass does W -= lr · dW chunk by chunk, and dW never exists whole.
        averaged: Whether gradients of what lies before the head will be averaged over the ranks; dE is then multiplied by their number.
    """

    first: int
    taken_n: Tensor | None
    chunk: int
    keep: int
    margin: Margin
    exchange: Exchange
    lr: float | None
    averaged: bool


@dataclass(frozen=True)
class _Chunk:
    at: slice | Tensor  # its classes in the shard
    unit_kD: Tensor  # of length `scale`
    norm_k1: Tensor
    own: slice  # its part of `_Own`


@dataclass(frozen=True)
class _Own:
    """The rows whose class lies in this shard, by class."""

    row_T: Tensor
    class_T: Tensor  # within the chunk
    bounds: list[int]  # of the chunks' parts
    phi_T: Tensor
    slope_T: Tensor


def softmax_loss(embedding_bD: Tensor, weight_cD: Tensor, rows: Gathered, shard: Shard) -> Tensor:
    """Return the mean loss over the rows of all ranks: the same number on every rank.

    Its gradients, of this one number: dE (b, D) of this rank's rows, dW (c, D) of this rank's classes. All ranks must call `backward`.

    Args:
        embedding_bD: Of unit length; what `rows` has of this rank.
        weight_cD: Of any length, float32 or float64.
        rows: Of all ranks.
        shard: What else is to know.
    """
    loss: Tensor = _Softmax.apply(embedding_bD, weight_cD, rows, shard)  # type: ignore[no-untyped-call]
    return loss


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding_bD: Tensor, weight_cD: Tensor, rows: Gathered, shard: Shard) -> Tensor:
        with torch.autocast(weight_cD.device.type, enabled=False):
            own = _own(rows, weight_cD, shard)
            figures = torch.zeros(2, len(rows.label_B), dtype=torch.float64, device=weight_cD.device)
            others_B, logit_B = figures
            logit_B[own.row_T] = shard.margin.scale * own.phi_T
            kept = weight_cD.new_empty(_kept(weight_cD, rows, shard) if any(ctx.needs_input_grad) else 0, shard.chunk, len(rows.label_B))
            for number, chunk in enumerate(_chunks(weight_cD, shard, own)):
                to_kB = kept[number, : len(chunk.unit_kD)] if number < len(kept) else None
                z_kB = torch.mm(chunk.unit_kD, rows.embedding_BD.T, out=to_kB)  # this way around dW's product has no transposed factor
                z_kB[own.class_T[chunk.own], own.row_T[chunk.own]] = -math.inf
                others_B += z_kB.exp_().sum(0)
            shard.exchange.sum(figures)
            odds_B = others_B.log() - logit_B  # of another class, logarithmic
            loss_B = torch.logaddexp(odds_B, torch.zeros_like(odds_B))
            ctx.rows, ctx.shard, ctx.own, ctx.kept = rows, shard, own, kept
            ctx.save_for_backward(weight_cD, logit_B + loss_B, odds_B.sigmoid())
            return loss_B.mean().to(weight_cD.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight_cD, total_B, rest_B = ctx.saved_tensors
        rows, shard, own = ctx.rows, ctx.shard, ctx.own
        with torch.autocast(weight_cD.device.type, enabled=False):
            e_BD = rows.embedding_BD
            share = grad / len(e_BD)
            scaled_BD, total_B = e_BD * (share * shard.margin.scale), total_B.to(e_BD.dtype)
            own_T = (-rest_B[own.row_T] * own.slope_T).to(e_BD.dtype)
            de_BD = torch.zeros_like(e_BD)
            learns = ctx.needs_input_grad[1]
            to_cD = _room(weight_cD, shard) if learns else weight_cD
            inverse_B = (-total_B).exp()
            for number, chunk in enumerate(_chunks(weight_cD, shard, own)):
                if number < len(ctx.kept):
                    p_kB = ctx.kept[number, : len(chunk.unit_kD)] * inverse_B
                else:
                    p_kB = (chunk.unit_kD @ e_BD.T).sub_(total_B).exp_()
                p_kB[own.class_T[chunk.own], own.row_T[chunk.own]] = own_T[chunk.own]
                de_BD.addmm_(p_kB.T, chunk.unit_kD)
                if learns:
                    _learn(p_kB @ scaled_BD, chunk, to_cD, shard)
            de_BD *= share * shard.exchange.world if shard.averaged else share
            return shard.exchange.scatter(de_BD, rows), to_cD if learns and shard.lr is None else None, None, None


def _kept(weight_cD: Tensor, rows: Gathered, shard: Shard) -> int:
    """Chunks whose exp(logits) are kept."""
    taken = len(weight_cD) if shard.taken_n is None else len(shard.taken_n)
    return min(-(-taken // shard.chunk), shard.keep // (shard.chunk * len(rows.label_B) * weight_cD.element_size()))


def _room(weight_cD: Tensor, shard: Shard) -> Tensor:
    """Where the gradient goes: a tensor of its own, or, as a step, the weights themselves."""
    if shard.lr is not None:
        return weight_cD
    return torch.empty_like(weight_cD) if shard.taken_n is None else torch.zeros_like(weight_cD)


def _own(rows: Gathered, weight_cD: Tensor, shard: Shard) -> _Own:
    place_B = rows.label_B - shard.first
    place_T, order = place_B.sort(stable=True)
    here = (place_T >= 0) & (place_T < len(weight_cD))
    row_T, place_T = order[here], place_T[here]
    unit_TD = functional.normalize(weight_cD[place_T].double(), eps=_LEAST_NORM)
    cosine_T = (rows.embedding_BD[row_T].double() * unit_TD).sum(1)
    phi_T, slope_T = shard.margin.apply(cosine_T, least_sine=math.sqrt(torch.finfo(weight_cD.dtype).eps))
    taken = len(weight_cD) if shard.taken_n is None else len(shard.taken_n)
    if shard.taken_n is not None:
        place_T = torch.searchsorted(shard.taken_n, place_T)
    starts = torch.arange(0, taken + shard.chunk, shard.chunk, device=place_T.device)
    return _Own(row_T, place_T % shard.chunk, torch.searchsorted(place_T, starts).tolist(), phi_T, slope_T)


def _chunks(weight_cD: Tensor, shard: Shard, own: _Own) -> Iterator[_Chunk]:
    taken = len(weight_cD) if shard.taken_n is None else len(shard.taken_n)
    for number, start in enumerate(range(0, taken, shard.chunk)):
        part = slice(start, min(start + shard.chunk, taken))
        at = part if shard.taken_n is None else shard.taken_n[part]
        weight_kD = weight_cD[at]
        norm_k1 = weight_kD.norm(dim=1, keepdim=True).clamp_min(_LEAST_NORM)
        yield _Chunk(at, weight_kD * (shard.margin.scale / norm_k1), norm_k1, slice(own.bounds[number], own.bounds[number + 1]))


def _learn(d_kD: Tensor, chunk: _Chunk, to_cD: Tensor, shard: Shard) -> None:
    """Turn a gradient of unit vectors into that of the vectors (less what points along them, divided by their length); keep or apply it."""
    along_k1 = (d_kD * chunk.unit_kD).sum(1, keepdim=True) / shard.margin.scale**2
    d_kD.addcmul_(chunk.unit_kD, along_k1, value=-1).div_(chunk.norm_k1)
    if shard.lr is None:
        to_cD[chunk.at] = d_kD
    elif isinstance(chunk.at, slice):
        to_cD[chunk.at].sub_(d_kD, alpha=shard.lr)
    else:
        to_cD.index_add_(0, chunk.at, d_kD, alpha=-shard.lr)
