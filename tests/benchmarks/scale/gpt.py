"""A small GPT (Radford et al. 2019, as nanoGPT writes it): the model whose memory is measured. Nothing in it knows of recomputation.

Shapes: B sequences, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Gpt", "Size"]


@dataclass(frozen=True)
class Size:
    """Sizes; `dropout` acts on embeddings, attention and both residual branches."""

    layers: int = 6
    width: int = 64
    heads: int = 4
    tokens: int = 32
    vocabulary: int = 64
    dropout: float = 0.0


class Block(nn.Module):
    """(B, T, D) -> (B, T, D): attention, then a perceptron of width 4 D, each behind a norm and beside the residual stream."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv, self.mix = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)
        self.rise, self.fall = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x_BTD)).unflatten(-1, (3 * self.size.heads, -1)).transpose(1, 2).chunk(3, dim=1)
        dropout = self.size.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(*parts, dropout_p=dropout, is_causal=True).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + self.dropout(self.mix(mixed))
        return x_BTD + self.dropout(self.fall(functional.gelu(self.rise(self.norm2(x_BTD)))))


class Gpt(nn.Module):
    """(B, T) token ids -> (B, T, V) logits; the output layer shares the embedding's weight."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(size.vocabulary, size.width), nn.Embedding(size.tokens, size.width)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD = self.dropout(self.tokens(ids_BT) + self.places(torch.arange(ids_BT.shape[1], device=ids_BT.device)))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV: Tensor = self.head(self.norm(x_BTD))
        return logits_BTV
