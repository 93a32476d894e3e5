"""Networks for tables: numbers embedded piecewise-linearly, trained by AdamW, written to ONNX by hand.

Piecewise-linear embeddings: Gorishniy et al. 2022, "On Embeddings for Numerical Features". Shapes: N rows, D columns, E embedded
numbers, K outputs.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import numpy as np
import onnxruntime  # noqa: F401 - `load_onnx` needs it: imported here, it is imported before a search forks
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import IntegrityError
from components.core.params import Frozen
from components.model.runtime import Float32, load_onnx
from components.train.adamw import AdamW
from components.train.features import Matrices
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import Judge, Loss, Target, target_of
from components.train.onnx_graph import OnnxGraph
from components.train.rates import warm_cosine
from components.train.reproducible import reproducible
from components.train.standard import standard_of

__all__ = ["NetworkParams", "Trunk", "train_network", "write_dense"]

_LARGEST_DIFFERENCE = 1e-3
_CHECKED = 256
_FEW = 3  # distinct values or fewer need no embedding
_OFTEN = 16  # batches between two calls of `progress`
_STEPS = 96  # in an epoch, when the batch size follows the rows
_LEAST_SHARE = 1e-9  # of a class without a training row


class NetworkParams(Frozen):
    """Params that every network has.

    Attributes:
        epochs: At most; exactly, when there are no rows to judge by. The learning rate falls along a cosine over all of them.
        bins: Pieces that a number's embedding has; 0: no embedding.
        batch: Rows; 0: a power of two from 32 to 1024 that follows the number of training rows.
        patience: Epochs without a better validation loss after which it stops.
        balanced: Whether rare classes weigh as much as frequent ones.
        loss: Of a regression.
    """

    epochs: int = Field(30, ge=1, le=2000)
    bins: int = Field(16, ge=0, le=128)
    dropout: float = Field(0.1, ge=0, lt=0.9)
    lr: float = Field(1.5e-3, gt=0, le=0.1)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    batch: int = Field(0, ge=0, le=8192)
    patience: int = Field(6, ge=1)
    balanced: bool = False
    loss: Loss = "l2"


class Trunk(Protocol):
    """What lies between the inputs and the last layer."""

    width: int

    def __call__(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, width)."""

    def write(self, graph: OnnxGraph, x: str) -> str:
        """Add the same to a graph, as it is after training."""


class _Inputs(nn.Module):
    """Appends (z - low) / (high - low), clipped to [0, 1], for E pieces of the standardised columns z."""

    def __init__(self, x: Float32, bins: int) -> None:
        super().__init__()
        self.standard = standard_of(x)
        column, low, high = _pieces(self.standard.apply(x), bins)
        self.column, self.slope, self.offset = (torch.from_numpy(part) for part in (column, 1 / (high - low), -low / (high - low)))
        self.width = x.shape[1] + len(column)

    def forward(self, z: Tensor) -> Tensor:
        if not len(self.column):
            return z
        return torch.cat([z, (z[:, self.column] * self.slope + self.offset).clamp(0.0, 1.0)], dim=1)

    def write(self, graph: OnnxGraph) -> str:
        z = self.standard.write(graph)
        if not len(self.column):
            return z
        piece = graph.add("Gather", z, graph.weight(self.column.numpy()), axis=1)
        piece = graph.add("Add", graph.add("Mul", piece, graph.weight(self.slope.numpy())), graph.weight(self.offset.numpy()))
        piece = graph.add("Clip", piece, graph.weight(np.array(0.0)), graph.weight(np.array(1.0)))
        return graph.add("Concat", z, piece, axis=1)


class _Network(nn.Module):
    def __init__(self, inputs: _Inputs, trunk: Any, outputs: int) -> None:
        super().__init__()
        self.inputs, self.trunk, self.head = inputs, trunk, nn.Linear(trunk.width, outputs)

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(self.inputs(z)))
        return output


def train_network(m: Matrices, params: NetworkParams, trunk: Any, seed: int, progress: Progress) -> Trained:
    """Train and export.

    Args:
        m: The fold.
        params: The learner's.
        trunk: Width of the inputs -> `Trunk`; its random numbers come from torch's global generator.
        seed: Of everything random.
        progress: May be called several times in an epoch.

    Raises:
        IntegrityError: The export answers differently from the network.
    """
    target = target_of(m)
    with reproducible(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = _Inputs(m.x, params.bins)
        net = _Network(inputs, trunk(inputs.width), m.classes or 1)
        if m.classes:
            share = np.bincount(m.y.astype(np.int64), minlength=m.classes) / len(m.y)
            with torch.no_grad():
                net.head.bias.copy_(torch.from_numpy(np.log(np.maximum(share, _LEAST_SHARE))))
        judge = Judge(params.patience, progress)
        epochs = _descend(net, m, target, params, seed, judge, progress)
        net.eval()
        weights = _to_onnx(net, m, target)
        scores = load_onnx(weights)
        _check_equal(net, m.x[:_CHECKED], target, scores(m.x[:_CHECKED]))
    return Trained("onnx", weights, scores, epochs, judge.log)


def _descend(net: _Network, m: Matrices, target: Target, params: NetworkParams, seed: int, judge: Judge, progress: Progress) -> int:
    """Train; the network ends with the weights of its best epoch, whose number is returned."""
    z, z_validation = (torch.from_numpy(net.inputs.standard.apply(x)) for x in (m.x, m.x_validation))
    y, y_validation = (torch.from_numpy(values) for values in _targets(m, target))
    if not m.classes:
        y, y_validation = y.float(), y_validation.float()
    weight = _class_weights(m, params.balanced)
    batch = params.batch or min(1024, max(32, 2 ** round(math.log2(max(1.0, len(z) / _STEPS)))))
    steps = params.epochs * math.ceil(len(z) / batch)
    optimiser = AdamW(net.parameters(), weight_decay=params.weight_decay)
    step = 0
    draw = torch.Generator().manual_seed(seed)
    kept, score = copy.deepcopy(net.state_dict()), math.nan
    for epoch in range(1, params.epochs + 1):
        net.train()
        for number, part in enumerate(torch.split(torch.randperm(len(z), generator=draw), batch)):
            if len(part) > 1 or len(z) == 1:  # batch normalisation needs two rows
                torch.autograd.backward(_loss(net(z[part]), y[part], params.loss, weight))
                torch.nn.utils.clip_grad_norm_(optimiser.params, 5.0)
                optimiser.step(params.lr * warm_cosine(step, steps))
            step += 1
            if number % _OFTEN == _OFTEN - 1 and progress(epoch - 1, score):
                net.load_state_dict(kept)
                return epoch - 1
        net.eval()
        loss = None
        if len(z_validation):
            with torch.inference_mode():
                loss = _loss(net(z_validation), y_validation, params.loss, None).item()
            score = -loss
        stops = judge.stops(epoch, loss)
        if loss is None or judge.best_round == epoch:
            kept = copy.deepcopy(net.state_dict())
        if stops:
            break
    net.load_state_dict(kept)
    return judge.best_round or epoch


def _loss(output_NK: Tensor, y_N: Tensor, kind: Loss, weight_K: Tensor | None) -> Tensor:
    if y_N.dtype == torch.int64:
        return functional.cross_entropy(output_NK, y_N, weight_K)
    of = {"l2": functional.mse_loss, "l1": functional.l1_loss, "huber": functional.smooth_l1_loss}[kind]
    return of(output_NK[:, 0], y_N)


def _targets(m: Matrices, target: Target) -> tuple[Any, Any]:
    return (m.y.astype(np.int64), m.y_validation.astype(np.int64)) if m.classes else (target.y, target.y_validation)


def _class_weights(m: Matrices, balanced: bool) -> Tensor | None:
    if not balanced or not m.classes:
        return None
    counts = np.bincount(m.y.astype(np.int64), minlength=m.classes)
    return torch.from_numpy(len(m.y) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))).float()


def _pieces(z: Float32, bins: int) -> tuple[Any, Float32, Float32]:
    """Return (E,) columns, and the quantiles between which each of their pieces lies."""
    column: list[int] = []
    low: list[float] = []
    high: list[float] = []
    for index in range(z.shape[1] if bins else 0):
        values = z[:, index]
        if len(np.unique(values[:: max(1, len(values) // 1000)])) <= _FEW:
            continue
        edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)).astype(np.float32))
        edges = edges[np.concatenate([[True], np.diff(edges) > 1e-4])]
        column += [index] * (len(edges) - 1)
        low += edges[:-1].tolist()
        high += edges[1:].tolist()
    return np.asarray(column, dtype=np.int64), np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)


def write_dense(graph: OnnxGraph, x: str, layer: nn.Linear) -> str:
    """Add a linear layer to a graph."""
    return graph.dense(x, layer.weight.detach().numpy(), layer.bias.detach().numpy())


def _to_onnx(net: _Network, m: Matrices, target: Target) -> bytes:
    graph = OnnxGraph(["N", m.x.shape[1]])
    x = net.trunk.write(graph, net.inputs.write(graph))
    weight, bias = net.head.weight.detach().double().numpy(), net.head.bias.detach().double().numpy()
    if m.classes:
        return graph.to_bytes(graph.add("Softmax", graph.dense(x, weight, bias), axis=1), ["N", m.classes])
    # Numbers are learned in units of their spread; the graph turns them back.
    return graph.to_bytes(graph.dense(x, weight * target.spread, bias * target.spread + target.center), ["N", 1])


def _check_equal(net: _Network, x: Float32, target: Target, exported: Any) -> None:
    with torch.inference_mode():
        output = net(torch.from_numpy(net.inputs.standard.apply(x)))
        ours = (output.softmax(dim=1) if target.classes else output * target.spread + target.center).double().numpy()
    difference = float(np.abs(ours - exported).max())
    if not difference <= _LARGEST_DIFFERENCE * (1.0 if target.classes else max(target.spread, 1e-3 * abs(target.center), 1e-6)):
        raise IntegrityError(f"the ONNX export differs from the network by {difference}", do="report this: the model is not saved")
