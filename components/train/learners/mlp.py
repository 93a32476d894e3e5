"""mlp: a small feed-forward network in PyTorch, stopped early by the validation loss; exported to ONNX."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import IntegrityError
from components.core.params import Frozen, Tabular, Task
from components.model.runtime import Float32, Scores, load_onnx
from components.train.data import Data
from components.train.features import Features, Log, Matrices, matrices
from components.train.learners.base import Progress, Trained, options
from components.train.onnx_graph import OnnxGraph

__all__ = ["LEARNER"]

_LARGEST_DIFFERENCE = 1e-3


class LoggedFeatures(Features):
    """The recipe's `features`; skewed numbers are logged by default, because gradients suffer from them."""

    log: Log = "auto"


class Params(Frozen):
    """The recipe's `params`.

    Attributes:
        patience: Epochs without a better validation loss after which it stops.
    """

    epochs: int = Field(60, ge=1, le=2000)
    hidden: int = Field(64, ge=2, le=1024)
    layers: int = Field(2, ge=1, le=6)
    dropout: float = Field(0.1, ge=0, lt=0.9)
    lr: float = Field(2e-3, gt=0, le=0.1)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    batch: int = Field(128, ge=2, le=8192)
    patience: int = Field(8, ge=1)


class _Mlp:
    name = "mlp"
    features: type[Frozen] = LoggedFeatures
    params: type[Frozen] = Params

    def fits(self, task: Task) -> bool:
        return isinstance(task, Tabular)

    def train(self, data: Data, features: Mapping[str, Any], params: Mapping[str, Any], *, seed: int, progress: Progress) -> Trained:
        given = options(Params, params, "params of mlp")
        m = matrices(data, options(LoggedFeatures, features, "features of mlp"))
        # Numbers are learned in units of their spread; the graph turns them back.
        center, spread = (0.0, 1.0) if m.classes else (float(m.y.mean()), max(float(m.y.std()), 1e-12))
        net = _net(m.x.shape[1], m.classes or 1, given, seed)
        log = _fit(net, m, given, center, spread, seed, progress)
        net.eval()
        weights = _to_onnx(net, m.classes, center, spread)
        scores = _in_memory(net, m.classes, center, spread)
        difference = float(np.abs(scores(m.x_validation) - load_onnx(weights)(m.x_validation)).max())
        if difference > _LARGEST_DIFFERENCE * spread:
            raise IntegrityError(f"the ONNX export differs from the network by {difference}", do="report this: the model is not saved")
        return Trained("onnx", weights, m.plan.model_dump(mode="json"), scores, log)


def _net(inputs: int, outputs: int, params: Params, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for index in range(params.layers):
            layers += [nn.Linear(inputs if index == 0 else params.hidden, params.hidden), nn.ReLU(), nn.Dropout(params.dropout)]
        return nn.Sequential(*layers, nn.Linear(params.hidden, outputs))


def _fit(
    net: nn.Sequential, m: Matrices, params: Params, center: float, spread: float, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Train; the network ends with the weights of its best epoch."""
    x, x_validation = torch.from_numpy(m.x), torch.from_numpy(m.x_validation)
    y, y_validation = _target(m.y, m.classes, center, spread), _target(m.y_validation, m.classes, center, spread)
    optimiser = torch.optim.AdamW(net.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    draw = torch.Generator().manual_seed(seed)
    best, best_epoch, kept, log = float("inf"), 0, copy.deepcopy(net.state_dict()), []
    for epoch in range(1, params.epochs + 1):
        net.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw)))  # dropout draws from the global generator
            for part in torch.split(torch.randperm(len(x), generator=draw), params.batch):
                optimiser.zero_grad()
                torch.autograd.backward(_loss(net(x[part]), y[part], m.classes))
                optimiser.step()
        net.eval()
        with torch.inference_mode():
            loss = _loss(net(x_validation), y_validation, m.classes).item()
        log.append({"epoch": epoch, "loss": round(loss, 9)})
        if loss < best:
            best, best_epoch, kept = loss, epoch, copy.deepcopy(net.state_dict())
        if epoch - best_epoch >= params.patience or progress(epoch, -loss):
            break
    net.load_state_dict(kept)
    return log


def _target(y: NDArray[np.float64], classes: int, center: float, spread: float) -> Tensor:
    return torch.from_numpy(y).long() if classes else torch.from_numpy((y - center) / spread).float()


def _loss(output_NK: Tensor, y_N: Tensor, classes: int) -> Tensor:
    return functional.cross_entropy(output_NK, y_N) if classes else functional.mse_loss(output_NK[:, 0], y_N)


def _to_onnx(net: nn.Sequential, classes: int, center: float, spread: float) -> bytes:
    dense = [layer for layer in net if isinstance(layer, nn.Linear)]
    graph = OnnxGraph(["N", dense[0].in_features])
    x = "x"
    for index, layer in enumerate(dense):
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        if layer is dense[-1]:
            weight, bias = weight * spread, bias * spread + center
        x = graph.dense(x, weight, bias)
        if index < len(dense) - 1:
            x = graph.add("Relu", x)
    return graph.to_bytes(graph.add("Softmax", x, axis=1) if classes else x, ["N", dense[-1].out_features])


def _in_memory(net: nn.Sequential, classes: int, center: float, spread: float) -> Scores:
    def scores(x: Float32) -> NDArray[np.float64]:
        with torch.inference_mode():
            output = net(torch.from_numpy(x))
            raw: NDArray[np.float64] = (output.softmax(dim=1) if classes else output * spread + center).double().numpy()
            return raw

    return scores


LEARNER = _Mlp()
