"""The plain network of an architecture.

Shapes: N images, C channels, H rows, W columns, T columns that remain, D features, K classes. Modules have the same names in every
architecture of a space (`blocks.3.expand.conv`), so that weights can be handed from a supernet to its members by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.train.spaces.geometry import BlockShape, Geometry, HeadShape, geometry
from components.train.spaces.space import Activation, Architecture, Space

__all__ = [
    "Bottleneck",
    "Classes",
    "ConvNorm",
    "Gate",
    "Inverted",
    "Line",
    "Network",
    "Plain",
    "block_module",
    "built",
    "groups",
    "network",
]


def network(space: Space, architecture: Architecture) -> Network:
    """Build an architecture with fresh weights, drawn from torch's global generator.

    Raises:
        DataError: It is not a member of the space.
    """
    return built(geometry(space, architecture))


def built(shape: Geometry) -> Network:
    """Build a network of these sizes with fresh weights, drawn from torch's global generator."""
    net = Network(shape)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


class Network(nn.Module):
    """(N, C, H, W) -> (N, K) scores, or (N, T, K) log-probabilities of a line.

    Attributes:
        shape: Its sizes.
        blocks: One module a decision; a block that is left out is an `nn.Identity`.
    """

    def __init__(self, shape: Geometry) -> None:
        super().__init__()
        self.shape = shape
        stem = shape.stem
        self.stem = ConvNorm(stem.inputs, stem.outputs, 3, stride=stem.stride, activation=stem.activation, pooled=stem.pooled)
        self.blocks = nn.ModuleList([block_module(block) for block in shape.blocks])
        self.head = Line(shape.head) if shape.head.kind == "line" else Classes(shape.head)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        answer: Tensor = self.head(x)
        return answer


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, activation (None: none).

    With `pooled`, the stride is that of a maximum behind the convolution. It comes before the normalisation, which then has less to do: a
    reader's step takes a fifth less on a CPU than in the usual order.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: tuple[int, int] = (1, 1),
        depthwise: bool = False,
        activation: Activation | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        groups = outputs if depthwise else 1
        self.pool = stride if pooled and stride != (1, 1) else None
        self.conv = nn.Conv2d(inputs, outputs, kernel, (1, 1) if self.pool else stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.pool:
            y = functional.max_pool2d(y, self.pool, ceil_mode=True)
        return activated(self.norm(y), self.activation)


class Gate(nn.Module):
    """Squeeze and excitation: channels are scaled by what the means of all channels say (arXiv 1709.01507; MobileNetV3's hard sigmoid)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def scale(self, x: Tensor) -> Tensor:
        """Return (N, C, 1, 1) factors between 0 and 1."""
        mean_NC = x.mean((2, 3))
        return functional.hardsigmoid(self.expand(torch.relu(self.reduce(mean_NC))))[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


class Inverted(nn.Module):
    """MobileNetV3's block (Howard et al., arXiv 1905.02244): 1x1 to the inner width, depthwise, gate, 1x1 back, input added."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        hidden, kind = shape.hidden, shape.activation
        self.expand = ConvNorm(shape.inputs, hidden, 1, activation=kind)
        self.spatial = ConvNorm(hidden, hidden, shape.kernel, stride=shape.stride, depthwise=True, activation=kind)
        self.gate: nn.Module = Gate(hidden, shape.gate) if shape.gate else nn.Identity()
        self.project = ConvNorm(hidden, shape.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.gate(self.spatial(self.expand(x))))
        return x + y if self.shape.keeps else y


class Bottleneck(nn.Module):
    """ResNet-50's block (He et al., arXiv 1512.03385): 1x1, k x k with the stride, 1x1; the input is added, then activated."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        hidden, kind = shape.hidden, shape.activation
        self.expand = ConvNorm(shape.inputs, hidden, 1, activation=kind)
        self.spatial = ConvNorm(hidden, hidden, shape.kernel, stride=shape.stride, activation=kind)
        self.project = ConvNorm(hidden, shape.outputs, 1)
        self.shortcut: nn.Module = ConvNorm(shape.inputs, shape.outputs, 1, stride=shape.stride) if shape.projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.spatial(self.expand(x)))
        return activated(self.shortcut(x) + y, self.shape.activation)


class Plain(nn.Module):
    """VGG's block (Simonyan & Zisserman, arXiv 1409.1556), as CRNN has it: k x k, a maximum; its input is added if the shape stays."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.project = ConvNorm(shape.inputs, shape.outputs, shape.kernel, stride=shape.stride, pooled=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(x)
        return activated(x + y if self.shape.keeps else y, self.shape.activation)


class Classes(nn.Module):
    """1x1 convolution, mean over space, linear: (N, C, H, W) -> (N, K) scores."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        features = shape.hidden or shape.inputs
        self.widen: nn.Module = ConvNorm(shape.inputs, features, 1, activation=shape.activation) if shape.hidden else nn.Identity()
        self.dropout = nn.Dropout(shape.dropout)
        self.out = nn.Linear(features, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.dropout(self.widen(x).mean((2, 3))))
        return scores


class Line(nn.Module):
    """CRNN's head (Shi, Bai & Yao, arXiv 1507.05717), as in `components.train.crnn`: (N, C, H, W) -> (N, T, K) log-probabilities."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.squeeze = nn.Conv1d(shape.inputs * shape.rows, hidden, shape.kernel, padding=shape.kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(shape.dropout)
        self.gru = nn.GRU(hidden, hidden // 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(hidden, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        x_NDT = self.dropout(torch.relu(self.norm(self.squeeze(x.flatten(1, 2)))))
        x_NTD = self.gru(x_NDT.transpose(1, 2))[0]
        return torch.log_softmax(self.out(self.dropout(x_NTD)), dim=2)


def activated(x: Tensor, activation: Activation | None) -> Tensor:
    """Apply an activation by name."""
    if activation is None:
        return x
    return torch.relu(x) if activation == "relu" else functional.hardswish(x)


def groups(name: str, shape: HeadShape) -> dict[int, int]:
    """Return, for a parameter's name, dimension -> how many equal parts it consists of, where they are more than one.

    A GRU stacks its three gates, a bidirectional one its two directions: a narrower one has the first of each part.
    """
    if shape.kind == "line" and name.startswith("head.gru."):
        return {0: 3}
    if shape.kind == "line" and name == "head.out.weight":
        return {1: 2}
    return {}


def block_module(shape: BlockShape) -> nn.Module:
    """Return the module of one block."""
    if shape.skip:
        return nn.Identity()
    return {"inverted": Inverted, "bottleneck": Bottleneck, "plain": Plain}[shape.kind](shape)
