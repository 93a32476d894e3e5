"""Networks as ONNX, written by hand as everywhere in ATLAS: equal weights give equal bytes. Batch norms are folded into convolutions.

Shapes as in `components.train.spaces.network`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import nn

from components.train.onnx_graph import OnnxGraph
from components.train.onnx_layers import add_conv, add_gru, array
from components.train.spaces.network import Bottleneck, Classes, ConvNorm, Gate, Inverted, Line, Network, Plain

__all__ = ["to_onnx", "write"]


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
        return _activated(graph, add_conv(graph, x, module.conv, module.norm, module.pool), module.activation)
    if isinstance(module, Gate):
        return _gate(graph, x, module)
    if isinstance(module, Inverted):
        y = _through(graph, x, (module.expand, module.spatial, module.gate, module.project))
        return graph.add("Add", x, y) if module.shape.keeps else y
    if isinstance(module, Bottleneck):
        y = _through(graph, x, (module.expand, module.spatial, module.project))
        return _activated(graph, graph.add("Add", write(graph, x, module.shortcut), y), module.shape.activation)
    if isinstance(module, Plain):
        y = write(graph, x, module.project)
        return _activated(graph, graph.add("Add", x, y) if module.shape.keeps else y, module.shape.activation)
    if isinstance(module, Classes):
        mean = graph.add("ReduceMean", write(graph, x, module.widen), axes=[2, 3], keepdims=0)
        return graph.dense(mean, array(module.out.weight), array(module.out.bias))
    if isinstance(module, Line):
        return _line(graph, x, module)
    if isinstance(module, Network):
        return _through(graph, x, (module.stem, *module.blocks, module.head))
    raise TypeError(f"{type(module).__name__} can't be written")


def _through(graph: OnnxGraph, x: str, modules: Iterable[nn.Module]) -> str:
    for module in modules:
        x = write(graph, x, module)
    return x


def _gate(graph: OnnxGraph, x: str, gate: Gate) -> str:
    mean = graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    inner = graph.add("Relu", graph.dense(mean, array(gate.reduce.weight), array(gate.reduce.bias)))
    scale = graph.add("HardSigmoid", graph.dense(inner, array(gate.expand.weight), array(gate.expand.bias)), alpha=1 / 6, beta=0.5)
    return graph.add("Mul", x, graph.add("Reshape", scale, graph.weight(np.array([0, -1, 1, 1]))))


def _line(graph: OnnxGraph, x: str, head: Line) -> str:
    x = graph.add("Reshape", x, graph.weight(np.array([0, head.squeeze.in_channels, -1])))
    x = graph.add("Relu", add_conv(graph, x, head.squeeze, head.norm))
    x = add_gru(graph, graph.add("Transpose", x, perm=[2, 0, 1]), head.gru)
    x = graph.add("MatMul", x, graph.weight(array(head.out.weight).T))
    return graph.add("LogSoftmax", graph.add("Add", x, graph.weight(array(head.out.bias))), axis=2)


def _activated(graph: OnnxGraph, x: str, activation: str | None) -> str:
    if activation is None:
        return x
    return graph.add("Relu" if activation == "relu" else "HardSwish", x)
