"""CRNN (Shi, Bai & Yao, arXiv 1507.05717): convolutions, a recurrent or convolutional head, log-probabilities for CTC.

Shapes: N images, H height, W width, T = W / 4 time steps, C = 1 + len(alphabet) symbols (0 is the blank).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from components.core.params import Frozen
from components.train.onnx_graph import OnnxGraph
from components.train.onnx_layers import add_conv, add_gru, array

__all__ = ["Crnn", "Shape", "to_onnx"]


class Shape(Frozen):
    """The network's size.

    Attributes:
        channels: Channels of the first convolution; the next ones have 2x and 4x.
        hidden: Width of the head.
        head: `gru`, bidirectional; or `conv`, two convolutions over time.
    """

    channels: int = Field(16, ge=4, le=128)
    hidden: int = Field(96, ge=8, le=512)
    head: Literal["gru", "conv"] = "gru"


class Crnn(nn.Module):
    """(N, 1, H, W) ink values -> (N, T, C) log-probabilities."""

    def __init__(self, shape: Shape, height: int, symbols: int, dropout: float = 0.0) -> None:
        super().__init__()
        c, hidden = shape.channels, shape.hidden
        self.shape = shape
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, c), (c, 2 * c), (2 * c, 4 * c))])
        self.norms = nn.ModuleList([nn.BatchNorm2d(o) for o in (c, 2 * c, 4 * c)])
        self.pools: list[tuple[int, int]] = [(2, 2), (2, 2), (2, 1)]
        self.squeeze = nn.Conv1d(4 * c * (height // 8), hidden, 3, padding=1)
        self.squeeze_norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        if shape.head == "gru":
            self.gru = nn.GRU(hidden, hidden // 2, batch_first=True, bidirectional=True)
        else:
            self.heads = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, padding=1) for _ in range(2)])
            self.head_norms = nn.ModuleList([nn.BatchNorm1d(hidden) for _ in range(2)])
        self.out = nn.Linear(2 * (hidden // 2) if shape.head == "gru" else hidden, symbols)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = torch.max_pool2d(torch.relu(norm(conv(x))), pool)
        x_NDT = self.dropout(torch.relu(self.squeeze_norm(self.squeeze(x.flatten(1, 2)))))
        if self.shape.head == "gru":
            x_NTD = self.gru(x_NDT.transpose(1, 2))[0]
        else:
            for conv, norm in zip(self.heads, self.head_norms, strict=True):
                x_NDT = torch.relu(norm(conv(x_NDT))) + x_NDT
            x_NTD = x_NDT.transpose(1, 2)
        return torch.log_softmax(self.out(self.dropout(x_NTD)), dim=2)


def to_onnx(net: Crnn) -> bytes:
    """Write the network in evaluation mode, batch norms folded into the convolutions before them; N and W vary."""
    graph = OnnxGraph(["N", 1, "H", "W"])
    x = "x"
    for conv, norm, pool in zip(net.convs, net.norms, net.pools, strict=True):
        x = graph.add("Relu", add_conv(graph, x, conv, norm))
        x = graph.add("MaxPool", x, kernel_shape=list(pool), strides=list(pool))
    features = net.squeeze.in_channels
    x = graph.add("Reshape", x, graph.weight(np.array([0, features, -1])))
    x = graph.add("Relu", add_conv(graph, x, net.squeeze, net.squeeze_norm))
    if net.shape.head == "gru":
        x = add_gru(graph, graph.add("Transpose", x, perm=[2, 0, 1]), net.gru)
    else:
        for conv, norm in zip(net.heads, net.head_norms, strict=True):
            x = graph.add("Add", graph.add("Relu", add_conv(graph, x, conv, norm)), x)
        x = graph.add("Transpose", x, perm=[0, 2, 1])
    x = graph.add("MatMul", x, graph.weight(array(net.out.weight).T))
    x = graph.add("Add", x, graph.weight(array(net.out.bias)))
    return graph.to_bytes(graph.add("LogSoftmax", x, axis=2), ["N", "T", net.out.out_features])
