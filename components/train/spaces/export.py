"""Networks as ONNX, written by hand as everywhere in ATLAS: equal weights give equal bytes. Batch norms are folded into convolutions.

Shapes as in `components.train.spaces.network`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.train.onnx_graph import OnnxGraph
from components.train.spaces.network import Classes, ConvNorm, Gate, Inverted, Line, Network, Residual

__all__ = ["to_onnx", "write"]

Floats = NDArray[np.float64]


def to_onnx(net: Network) -> bytes:
    """Write a network in evaluation mode: `x` (N, C, H, W) -> `y`, what `Network` returns; N and W vary, and H but for lines."""
    line = isinstance(net.head, Line)
    graph = OnnxGraph(["N", net.shape.stem.inputs, net.shape.stem.rows if line else "H", "W"])
    y = write(graph, "x", net)
    classes = net.shape.head.classes
    return graph.to_bytes(y, ["N", "T", classes] if line else ["N", classes])


def write(graph: OnnxGraph, x: str, module: nn.Module) -> str:
    """Add a network's module to a graph; returns its output's name.

    Raises:
        TypeError: It is no module of `components.train.spaces.network`.
    """
    if isinstance(module, nn.Identity):
        return x
    if isinstance(module, ConvNorm):
        return _activated(graph, _conv(graph, x, module.conv, module.norm), module.activation)
    if isinstance(module, Gate):
        return _gate(graph, x, module)
    if isinstance(module, Inverted):
        y = x
        for part in (module.expand, module.spatial, module.gate, module.project):
            y = write(graph, y, part)
        return graph.add("Add", x, y) if module.shape.keeps else y
    if isinstance(module, Residual):
        y = x
        for part in (module.expand, module.spatial, module.project):
            y = write(graph, y, part)
        return _activated(graph, graph.add("Add", write(graph, x, module.shortcut), y), module.shape.activation)
    if isinstance(module, Classes):
        mean = graph.add("ReduceMean", write(graph, x, module.widen), axes=[2, 3], keepdims=0)
        return graph.dense(mean, _array(module.out.weight), _array(module.out.bias))
    if isinstance(module, Line):
        return _line(graph, x, module)
    if isinstance(module, Network):
        for part in (module.stem, *module.blocks, module.head):
            x = write(graph, x, part)
        return x
    raise TypeError(f"{type(module).__name__} can't be written")


def _conv(graph: OnnxGraph, x: str, conv: nn.Conv1d | nn.Conv2d, norm: Any) -> str:
    scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    weight = _array(conv.weight)
    weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = _array(norm.bias) - _array(norm.running_mean) * scale
    shape = {"kernel_shape": list(conv.kernel_size), "strides": list(conv.stride), "pads": [int(p) for p in conv.padding] * 2}
    return graph.add("Conv", x, graph.weight(weight), graph.weight(bias), group=conv.groups, **shape)


def _gate(graph: OnnxGraph, x: str, gate: Gate) -> str:
    mean = graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    inner = graph.add("Relu", graph.dense(mean, _array(gate.reduce.weight), _array(gate.reduce.bias)))
    scale = graph.add("HardSigmoid", graph.dense(inner, _array(gate.expand.weight), _array(gate.expand.bias)), alpha=1 / 6, beta=0.5)
    return graph.add("Mul", x, graph.add("Reshape", scale, graph.weight(np.array([0, -1, 1, 1]))))


def _line(graph: OnnxGraph, x: str, head: Line) -> str:
    x = graph.add("Reshape", x, graph.weight(np.array([0, head.squeeze.in_channels, -1])))
    x = graph.add("Relu", _conv(graph, x, head.squeeze, head.norm))
    x = _gru(graph, graph.add("Transpose", x, perm=[2, 0, 1]), head.gru)
    x = graph.add("MatMul", x, graph.weight(_array(head.out.weight).T))
    return graph.add("LogSoftmax", graph.add("Add", x, graph.weight(_array(head.out.bias))), axis=2)


def _gru(graph: OnnxGraph, x_TND: str, gru: nn.GRU) -> str:
    """PyTorch orders the gates reset, update, new; ONNX update, reset, hidden. Returns (N, T, 2 * hidden)."""
    hidden = gru.hidden_size

    def gates(name: str) -> Floats:
        reset, update, new = np.split(_array(getattr(gru, name)), 3)
        return np.concatenate([update, reset, new])

    w = np.stack([gates(f"weight_ih_l0{end}") for end in ("", "_reverse")])
    r = np.stack([gates(f"weight_hh_l0{end}") for end in ("", "_reverse")])
    b = np.stack([np.concatenate([gates(f"bias_ih_l0{end}"), gates(f"bias_hh_l0{end}")]) for end in ("", "_reverse")])
    y_TEND = graph.add("GRU", x_TND, *map(graph.weight, (w, r, b)), hidden_size=hidden, direction="bidirectional", linear_before_reset=1)
    y_NTED = graph.add("Transpose", y_TEND, perm=[2, 0, 1, 3])
    return graph.add("Reshape", y_NTED, graph.weight(np.array([0, 0, 2 * hidden])))


def _activated(graph: OnnxGraph, x: str, activation: str | None) -> str:
    if activation is None:
        return x
    return graph.add("Relu" if activation == "relu" else "HardSwish", x)


def _array(tensor: Tensor | None) -> Floats:
    if tensor is None:
        raise TypeError("the layer has no such parameter")
    values: Floats = tensor.detach().cpu().to(torch.float64).numpy()
    return values
