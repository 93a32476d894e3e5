"""From decisions to sizes: channels, kernels, strides and resolutions of every layer. Networks, costs and latencies all read these."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from components.train.spaces.space import Activation, Architecture, Head, Kind, Option, Space

__all__ = ["BlockShape", "Geometry", "HeadShape", "StemShape", "enclosing", "geometry", "option_shapes"]

_GATE_SHARE = 0.25  # MobileNetV3: the gate's inner width is a quarter of what it gates


@dataclass(frozen=True)
class StemShape:
    """The first convolution, 3x3, on an input of `rows` x `columns`; see `Stem`."""

    inputs: int
    outputs: int
    stride: tuple[int, int]
    activation: Activation
    rows: int
    columns: int
    pooled: bool = False


@dataclass(frozen=True)
class BlockShape:
    """A block on an input of `rows` x `columns`.

    Attributes:
        hidden: Inner width.
        gate: Inner width of the squeeze-and-excitation gate; 0: none.
        skip: It is left out: nothing is computed.
    """

    kind: Kind
    activation: Activation
    inputs: int
    outputs: int
    hidden: int
    kernel: int
    stride: tuple[int, int]
    gate: int
    skip: bool
    rows: int
    columns: int

    @property
    def keeps(self) -> bool:
        """Whether output and input have the same shape, so that the input can be added unchanged."""
        return self.stride == (1, 1) and self.inputs == self.outputs

    @property
    def projects(self) -> bool:
        """Whether the input is projected by a 1x1 convolution to be added; other kinds than ResNet's add nothing there."""
        return self.kind == "bottleneck" and not self.keeps


@dataclass(frozen=True)
class HeadShape:
    """The head on an input of `rows` x `columns`; see `Head`.

    Attributes:
        hidden: Width before the last layer; 0: that of the input.
    """

    kind: str
    inputs: int
    hidden: int
    classes: int
    dropout: float
    activation: Activation
    rows: int
    columns: int
    kernel: int = 3


@dataclass(frozen=True)
class Geometry:
    """Everything a network needs to be built."""

    stem: StemShape
    blocks: tuple[BlockShape, ...]
    head: HeadShape


def geometry(space: Space, architecture: Architecture) -> Geometry:
    """Return the sizes of an architecture.

    Raises:
        DataError: It is not a member of the space.
    """
    space.check(architecture)
    return _geometry(space, space.widths[architecture.width], [(space.option(architecture, n),) for n in range(len(space.blocks))])


def enclosing(space: Space, width: int | None = None) -> Geometry:
    """Return sizes that hold every architecture of the space (of one width, where its number is given) as slices."""
    multiplier = space.widths[-1 if width is None else width]
    return _geometry(space, multiplier, [tuple(option for option in block.options if not option.skip) for block in space.blocks])


def option_shapes(space: Space, width: int) -> tuple[tuple[BlockShape, ...], ...]:
    """Return, for each block, the shape that each option gives it at a width multiplier."""
    base = enclosing(space, width).blocks
    return tuple(tuple(_block(space, shape, [option]) for option in block.options) for shape, block in zip(base, space.blocks, strict=True))


def _geometry(space: Space, multiplier: float, options: list[tuple[Option, ...]]) -> Geometry:
    channels, rows, columns = space.input
    width = _scaled(space, space.stem.width * multiplier)
    stem = StemShape(channels, width, space.stem.stride, space.stem.activation, rows, columns, space.stem.pooled)
    rows, columns = _strided(rows, columns, stem.stride)
    shapes: list[BlockShape] = []
    for stage in space.stages:
        outputs = _scaled(space, stage.width * multiplier)
        for place in range(stage.blocks):
            stride = stage.stride if place == 0 else (1, 1)
            empty = BlockShape(stage.kind, stage.activation, width, outputs, 0, 0, stride, 0, False, rows, columns)
            shapes.append(_block(space, empty, options[len(shapes)]))
            rows, columns = _strided(rows, columns, stride)
            width = outputs
    activation = space.stages[-1].activation
    return Geometry(stem, tuple(shapes), _head(space, space.head, multiplier, (width, rows, columns), activation))


def _block(space: Space, empty: BlockShape, options: Iterable[Option]) -> BlockShape:
    """Return the shape that holds each of these options; left out if the first of them is `SKIP`."""
    options = list(options)
    if options[0].skip:
        return replace(empty, hidden=0, kernel=0, gate=0, skip=True)
    base = empty.inputs if empty.kind == "inverted" else empty.outputs
    hidden = {option: _scaled(space, base * option.expansion) for option in options}
    gates = [_scaled(space, hidden[option] * _GATE_SHARE) for option in options if option.se]
    kernel = max(option.kernel for option in options)
    return replace(empty, hidden=max(hidden.values()), kernel=kernel, gate=max(gates, default=0), skip=False)


def _head(space: Space, head: Head, multiplier: float, size: tuple[int, int, int], activation: Activation) -> HeadShape:
    inputs, rows, columns = size
    hidden = _scaled(space, head.width * (multiplier if head.scaled else 1.0)) if head.width else 0
    return HeadShape(head.kind, inputs, hidden, space.classes, head.dropout, activation, rows, columns, head.kernel)


def _scaled(space: Space, width: float) -> int:
    """Round to the nearest multiple of the divisor, but never below one."""
    return max(space.divisor, math.floor(width / space.divisor + 0.5) * space.divisor)


def _strided(rows: int, columns: int, stride: tuple[int, int]) -> tuple[int, int]:
    """Centred odd kernels with half of it as padding: sizes are halved upwards."""
    return -(-rows // stride[0]), -(-columns // stride[1])
