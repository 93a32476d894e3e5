"""torch's layers as ONNX: what several networks' exports share. Batch norms are folded into the convolutions before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.train.onnx_graph import OnnxGraph

__all__ = ["add_conv", "add_gru", "array"]

Floats = NDArray[np.float64]


def add_conv(graph: OnnxGraph, x: str, conv: Any, norm: Any, pool: Sequence[int] | None = None) -> str:
    """Add a convolution, with or without a bias, and the batch norm after it; returns the output's name.

    With a maximum over so many rows and columns between them, the norm stays: where it turns the sign, it does not go through a maximum.
    """
    scale = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
    weight = array(conv.weight)
    before = 0.0 if conv.bias is None else array(conv.bias)
    bias = (before - array(norm.running_mean)) * scale + array(norm.bias)
    if pool is None:
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    shape = {"kernel_shape": list(conv.kernel_size), "strides": list(conv.stride), "pads": [int(p) for p in conv.padding] * 2}
    if pool is None:
        return graph.add("Conv", x, graph.weight(weight), graph.weight(bias), group=conv.groups, **shape)
    y = graph.add("Conv", x, graph.weight(weight), group=conv.groups, **shape)
    y = graph.add("MaxPool", y, kernel_shape=list(pool), strides=list(pool), ceil_mode=1)
    after = (-1, *[1] * (weight.ndim - 2))
    return graph.add("Add", graph.add("Mul", y, graph.weight(scale.reshape(after))), graph.weight(bias.reshape(after)))


def add_gru(graph: OnnxGraph, x_TND: str, gru: nn.GRU) -> str:
    """Add a bidirectional layer; returns the name of (N, T, 2 * hidden).

    PyTorch orders the gates reset, update, new; ONNX update, reset, hidden.
    """
    hidden = gru.hidden_size

    def gates(name: str) -> Floats:
        reset, update, new = np.split(array(getattr(gru, name)), 3)
        return np.concatenate([update, reset, new])

    w = np.stack([gates(f"weight_ih_l0{end}") for end in ("", "_reverse")])
    r = np.stack([gates(f"weight_hh_l0{end}") for end in ("", "_reverse")])
    b = np.stack([np.concatenate([gates(f"bias_ih_l0{end}"), gates(f"bias_hh_l0{end}")]) for end in ("", "_reverse")])
    y_TEND = graph.add("GRU", x_TND, *map(graph.weight, (w, r, b)), hidden_size=hidden, direction="bidirectional", linear_before_reset=1)
    y_NTED = graph.add("Transpose", y_TEND, perm=[2, 0, 1, 3])
    return graph.add("Reshape", y_NTED, graph.weight(np.array([0, 0, 2 * hidden])))


def array(tensor: Tensor | None) -> Floats:
    """Return a parameter's values.

    Raises:
        TypeError: The layer has no such parameter.
    """
    if tensor is None:
        raise TypeError("the layer has no such parameter")
    values: Floats = tensor.detach().cpu().to(torch.float64).numpy()
    return values
