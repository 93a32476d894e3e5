"""GraphSAGE (Hamilton, Ying & Leskovec, arXiv 1706.02216) over sampled blocks, in plain PyTorch.

Shapes: S sources and T targets of a block, the targets being the first sources; e edges; D width in, H heads, K width a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.train.graph.sampler import Block

__all__ = ["Aggregate", "AttentionSage", "Edges", "GraphSage", "MeanSage"]

Aggregate = Literal["mean", "attention"]


@dataclass(frozen=True)
class Edges:
    """A block as tensors; see `Block`."""

    targets: int
    source: Tensor
    target: Tensor

    @classmethod
    def of(cls, block: Block, device: torch.device | None = None) -> Edges:
        """Move a block to a device."""
        source, target = (torch.from_numpy(ends).to(device, torch.int64) for ends in (block.source, block.target))
        return cls(block.targets, source, target)


class MeanSage(nn.Module):
    """(S, D) -> (T, width): W x + V mean of the neighbours' x; without neighbours the mean is 0."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(features, width)
        self.neighbours = nn.Linear(features, width, bias=False)

    def forward(self, x_SD: Tensor, edges: Edges) -> Tensor:
        sums_TD = x_SD.new_zeros(edges.targets, x_SD.shape[1]).index_add_(0, edges.target, x_SD.index_select(0, edges.source))
        degree_T = torch.bincount(edges.target, minlength=edges.targets).clamp(min=1)
        result: Tensor = self.own(x_SD[: edges.targets]) + self.neighbours(sums_TD / degree_T.unsqueeze(1).to(x_SD.dtype))
        return result


class AttentionSage(nn.Module):
    """(S, D) -> (T, H * K): W x + the neighbours' values, weighted by a softmax of GATv2's scores (Brody, Alon & Yahav, arXiv 2105.14491).

    Raises:
        ValueError: The width is no multiple of the heads.
    """

    def __init__(self, features: int, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.own = nn.Linear(features, width)
        self.values = nn.Linear(features, width, bias=False)
        self.asking = nn.Linear(features, width, bias=False)
        self.score = nn.Parameter(torch.empty(heads, width // heads))
        nn.init.xavier_uniform_(self.score)

    def forward(self, x_SD: Tensor, edges: Edges) -> Tensor:
        T = edges.targets
        values_SHK = self.values(x_SD).unflatten(1, (self.heads, -1))
        asking_THK = self.asking(x_SD[:T]).unflatten(1, (self.heads, -1))
        values_eHK = values_SHK.index_select(0, edges.source)
        mixed_eHK = functional.leaky_relu(values_eHK + asking_THK.index_select(0, edges.target), 0.2)
        weights_eH = _segment_softmax((mixed_eHK * self.score).sum(2), edges.target, T)
        sums_THK = x_SD.new_zeros(T, *values_eHK.shape[1:]).index_add_(0, edges.target, values_eHK * weights_eH.unsqueeze(2))
        result: Tensor = self.own(x_SD[:T]) + sums_THK.flatten(1)
        return result


def _segment_softmax(scores_eH: Tensor, target_e: Tensor, targets: int) -> Tensor:
    index_eH = target_e.unsqueeze(1).expand_as(scores_eH)
    # The maximum only keeps exp in range: no gradient flows through it.
    top_TH = scores_eH.detach().new_full((targets, scores_eH.shape[1]), -torch.inf)
    top_TH = top_TH.scatter_reduce(0, index_eH, scores_eH.detach(), "amax")
    weights_eH = (scores_eH - top_TH.index_select(0, target_e)).exp()
    sums_TH = scores_eH.new_zeros(top_TH.shape).index_add_(0, target_e, weights_eH)
    return weights_eH / sums_TH.index_select(0, target_e)


class GraphSage(nn.Module):
    """(n, D) features of a sample's nodes -> (T, classes) logits of the nodes that were asked for; one layer a block."""

    def __init__(
        self, features: int, hidden: int, classes: int, layers: int, *, aggregate: Aggregate = "mean", heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [features, *[hidden] * layers]
        self.layers = nn.ModuleList(MeanSage(a, b) if aggregate == "mean" else AttentionSage(a, b, heads) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x_nD: Tensor, blocks: Sequence[Edges]) -> Tensor:
        for layer, block in zip(self.layers, blocks, strict=True):
            x_nD = self.dropout(functional.relu(layer(x_nD, block)))
        logits: Tensor = self.head(x_nD)
        return logits
