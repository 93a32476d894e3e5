"""What an architecture costs, exactly: parameters, multiply-accumulates (MACs), and latency where it was measured.

At one width multiplier a block's input and output do not depend on any block's option, so the costs of blocks add up. MACs are those of
convolutions, linear and recurrent layers, as the literature counts them; normalisations and activations have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from components.train.spaces.geometry import BlockShape, HeadShape, StemShape, enclosing, option_shapes
from components.train.spaces.space import Architecture, Space

__all__ = ["MEASURES", "Cost", "Costs", "Latency", "Limits", "Measure", "cost", "costs"]

Measure = Literal["params", "macs", "latency_ms"]
MEASURES: tuple[Measure, ...] = ("params", "macs", "latency_ms")

_NANOSECONDS = 1e6  # in a millisecond: latencies are added as whole numbers, so that a sum depends on no order

Layer = StemShape | BlockShape | HeadShape


class Latency(Protocol):
    """Milliseconds of a layer on the target device; `components.automl.nas.latency.Table` is one."""

    def of(self, layer: Layer) -> float:
        """Return what a layer adds to a network's latency."""


@dataclass(frozen=True)
class Cost:
    """What a network needs.

    Attributes:
        params: Trained numbers.
        macs: For one input of the space's size.
        latency_ms: For one input; 0 where no latency was given.
    """

    params: int
    macs: int
    latency_ms: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What a network may need; None: no limit."""

    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None

    def allow(self, cost: Cost) -> bool:
        """Whether a cost stays within the limits."""
        pairs = zip((cost.params, cost.macs, cost.latency_ms), (self.max_params, self.max_macs, self.max_latency_ms), strict=True)
        return all(limit is None or spent <= limit for spent, limit in pairs)

    def used(self, cost: Cost) -> float:
        """Return which share of the limits a cost uses: the mean, of several; 0 without any."""
        pairs = zip((cost.params, cost.macs, cost.latency_ms), (self.max_params, self.max_macs, self.max_latency_ms), strict=True)
        shares = [spent / limit for spent, limit in pairs if limit]
        return sum(shares) / len(shares) if shares else 0.0

    def counted(self) -> list[tuple[int, int]]:
        """Return (column of `Costs`, most) for each limit there is."""
        latency = None if self.max_latency_ms is None else _whole(self.max_latency_ms)
        return [(n, most) for n, most in enumerate((self.max_params, self.max_macs, latency)) if most is not None]


@dataclass(frozen=True)
class Costs:
    """Costs of one space at one width multiplier. Columns: parameters, MACs, nanoseconds; all whole numbers.

    Attributes:
        fixed: (3,) of stem and head.
        blocks: For each block, (options, 3).
        timed: Whether latencies are in it.
    """

    fixed: NDArray[np.int64]
    blocks: tuple[NDArray[np.int64], ...]
    timed: bool

    def of(self, options: Sequence[int]) -> Cost:
        """Return the cost of one option a block."""
        total = self.fixed + sum(block[option] for block, option in zip(self.blocks, options, strict=True))
        return Cost(int(total[0]), int(total[1]), float(total[2]) / _NANOSECONDS)

    @property
    def least(self) -> NDArray[np.int64]:
        """(3,) the least of each that an architecture may need."""
        return np.asarray(self.fixed + sum(block.min(axis=0) for block in self.blocks))

    @property
    def most(self) -> NDArray[np.int64]:
        """(3,) the most of each."""
        return np.asarray(self.fixed + sum(block.max(axis=0) for block in self.blocks))


def costs(space: Space, width: int, latency: Latency | None = None) -> Costs:
    """Count every option of every block.

    Args:
        width: Number of the multiplier.
        latency: What layers take; None: not counted.
    """
    shape = enclosing(space, width)
    fixed = _row(shape.stem, latency) + _row(shape.head, latency)
    blocks = tuple(np.stack([_row(option, latency) for option in block]) for block in option_shapes(space, width))
    return Costs(fixed, blocks, latency is not None)


def cost(space: Space, architecture: Architecture, latency: Latency | None = None) -> Cost:
    """Count one architecture.

    Raises:
        DataError: It is not a member of the space.
    """
    return costs(space, space.check(architecture).width, latency).of(architecture.options)


def _whole(limit_ms: float) -> int:
    """Return the most nanoseconds whose milliseconds are within a limit."""
    found = math.floor(limit_ms * _NANOSECONDS)
    return found + 1 if (found + 1) / _NANOSECONDS <= limit_ms else found


def _row(layer: Layer, latency: Latency | None) -> NDArray[np.int64]:
    if isinstance(layer, StemShape):
        params, macs = _stem(layer)
    elif isinstance(layer, HeadShape):
        params, macs = _line(layer) if layer.kind == "line" else _classes(layer)
    else:
        params, macs = _block(layer)
    nanoseconds = 0 if latency is None else math.ceil(latency.of(layer) * _NANOSECONDS)
    return np.array([params, macs, nanoseconds], dtype=np.int64)


def _stem(shape: StemShape) -> tuple[int, int]:
    stride = (1, 1) if shape.pooled else shape.stride
    return _conv(9 * shape.inputs, shape.outputs, _pixels(shape.rows, shape.columns, stride))


def _block(shape: BlockShape) -> tuple[int, int]:
    if shape.skip:
        return 0, 0
    before, after = shape.rows * shape.columns, _pixels(shape.rows, shape.columns, shape.stride)
    hidden, area = shape.hidden, shape.kernel**2
    if shape.kind == "inverted":
        parts = [_conv(shape.inputs, hidden, before), _conv(area, hidden, after), _conv(hidden, shape.outputs, after)]
        parts.append((2 * hidden * shape.gate + hidden + shape.gate, 2 * hidden * shape.gate) if shape.gate else (0, 0))
    elif shape.kind == "bottleneck":
        parts = [_conv(shape.inputs, hidden, before), _conv(area * hidden, hidden, after), _conv(hidden, shape.outputs, after)]
    else:
        parts = [_conv(area * shape.inputs, shape.outputs, before)]
    if shape.projects:
        parts.append(_conv(shape.inputs, shape.outputs, after))
    return sum(params for params, _ in parts), sum(macs for _, macs in parts)


def _classes(shape: HeadShape) -> tuple[int, int]:
    features = shape.hidden or shape.inputs
    params, macs = _conv(shape.inputs, features, shape.rows * shape.columns) if shape.hidden else (0, 0)
    return params + (features + 1) * shape.classes, macs + features * shape.classes


def _line(shape: HeadShape) -> tuple[int, int]:
    hidden, steps, direction = shape.hidden, shape.columns, shape.hidden // 2
    params, macs = _conv(shape.kernel * shape.inputs * shape.rows, hidden, steps)
    gates = 2 * 3 * direction * (hidden + direction)
    params += gates + 2 * 6 * direction + (hidden + 1) * shape.classes
    return params, macs + steps * (gates + hidden * shape.classes)


def _conv(taps: int, outputs: int, pixels: int) -> tuple[int, int]:
    """Return (parameters, MACs) of a convolution with `taps` weights an output channel, and its normalisation."""
    return (taps + 2) * outputs, taps * outputs * pixels


def _pixels(rows: int, columns: int, stride: tuple[int, int]) -> int:
    return -(-rows // stride[0]) * -(-columns // stride[1])
