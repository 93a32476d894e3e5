"""mlp: a feed-forward network over embedded numbers (MLP-PLE of Gorishniy et al. 2022), in PyTorch; exported to ONNX."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from components.core.params import Frozen
from components.train.features import Matrices, prepare
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import NetworkFeatures, fits_tables
from components.train.network import NetworkParams, train_network, write_dense
from components.train.onnx_graph import OnnxGraph

__all__ = ["LEARNER"]


class Params(NetworkParams):
    """The recipe's `params`, beside those of every network."""

    hidden: int = Field(128, ge=2, le=1024)
    layers: int = Field(2, ge=1, le=6)


class _Mlp:
    name = "mlp"
    features: type[Frozen] = NetworkFeatures
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        return train_network(part, params, lambda inputs: _Trunk(inputs, params), seed, progress)


class _Trunk(nn.Module):
    def __init__(self, inputs: int, params: Params) -> None:
        super().__init__()
        self.width = params.hidden
        layers: list[nn.Module] = []
        for index in range(params.layers):
            layers += [nn.Linear(params.hidden if index else inputs, params.hidden), nn.ReLU(), nn.Dropout(params.dropout)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layers(x)
        return hidden

    def write(self, graph: OnnxGraph, x: str) -> str:
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = graph.add("Relu", write_dense(graph, x, layer))
        return x


LEARNER = _Mlp()
