"""resnet: a residual network for tables (Gorishniy et al. 2021), in PyTorch; exported to ONNX.

Batch normalisation is a multiplication and an addition once training is over: the export folds it into the next layer.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import IntegrityError
from components.core.params import Frozen
from components.train.features import Matrices, prepare
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import NetworkFeatures, fits_tables
from components.train.network import NetworkParams, train_network, write_dense
from components.train.onnx_graph import OnnxGraph

__all__ = ["LEARNER"]


class Params(NetworkParams):
    """The recipe's `params`, beside those of every network.

    Attributes:
        width: Of the stream that blocks add to.
        factor: A block's hidden layer is that many times as wide.
    """

    width: int = Field(96, ge=2, le=1024)
    blocks: int = Field(2, ge=1, le=8)
    factor: float = Field(2.0, ge=0.5, le=4)


class _ResNet:
    name = "resnet"
    features: type[Frozen] = NetworkFeatures
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        return train_network(part, params, lambda inputs: _Trunk(inputs, params), seed, progress)


class _Block(nn.Module):
    """x + drop(linear(drop(relu(linear(norm(x))))))."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.up, self.down, self.drop = (
            nn.BatchNorm1d(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.drop(self.down(self.drop(functional.relu(self.up(self.norm(x))))))
        return x + added

    def write(self, graph: OnnxGraph, x: str) -> str:
        scale, shift = _affine(self.norm)
        weight, bias = self.up.weight.detach(), self.up.bias.detach()
        hidden = graph.add("Relu", graph.dense(x, (weight * scale).numpy(), (bias + weight @ shift).numpy()))
        return graph.add("Add", x, write_dense(graph, hidden, self.down))


class _Trunk(nn.Module):
    def __init__(self, inputs: int, params: Params) -> None:
        super().__init__()
        self.width = params.width
        self.first = nn.Linear(inputs, params.width)
        hidden = max(2, round(params.width * params.factor))
        self.blocks = nn.ModuleList([_Block(params.width, hidden, params.dropout) for _ in range(params.blocks)])
        self.norm = nn.BatchNorm1d(params.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return functional.relu(self.norm(x))

    def write(self, graph: OnnxGraph, x: str) -> str:
        x = write_dense(graph, x, self.first)
        for block in self.blocks:
            x = cast(_Block, block).write(graph, x)
        scale, shift = _affine(self.norm)
        return graph.add("Relu", graph.add("Add", graph.add("Mul", x, graph.weight(scale.numpy())), graph.weight(shift.numpy())))


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return (width,) what a trained batch normalisation multiplies by, and then adds."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise IntegrityError("the normalisation keeps no statistics", do="report this: the model is not saved")
    scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
    return scale, norm.bias.detach() - mean * scale


LEARNER = _ResNet()
