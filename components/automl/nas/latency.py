"""What layers take on this device, in ONNX Runtime on one thread, as serving runs them: a lookup table.

Each layer is timed alone. Within a network it starts with other caches and needs no call of its own, so the sum is corrected by a line that
is fitted to a few whole networks.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from components.automl.nas.budget import Layer
from components.core.errors import DataError
from components.model.runtime import load_onnx
from components.train.onnx_graph import OnnxGraph
from components.train.spaces.export import to_onnx, write
from components.train.spaces.geometry import BlockShape, Geometry, HeadShape, StemShape, enclosing, geometry, option_shapes
from components.train.spaces.network import Classes, ConvNorm, Line, block_module, built
from components.train.spaces.space import Architecture, Space

__all__ = ["Table", "measured", "table"]

Run = Callable[[], object]

_KINDS: Mapping[str, type[StemShape] | type[BlockShape] | type[HeadShape]] = {
    kind.__name__: kind for kind in (StemShape, BlockShape, HeadShape)
}
_AT_ONCE = 3  # runs of one layer before the next one's turn: the first of them finds cold caches


@dataclass(frozen=True)
class Table:
    """Milliseconds of layers, for one input.

    Attributes:
        alone_ms: Of each layer that was timed, without the cost of a call.
        factor: What a layer takes within a network, relative to alone.
        offset_ms: What a network takes beside its layers.
    """

    alone_ms: Mapping[Layer, float]
    factor: float = 1.0
    offset_ms: float = 0.0

    def of(self, layer: Layer) -> float:
        """Return what a layer adds to a network; the stem pays for the network as a whole.

        Raises:
            DataError: It was not timed.
        """
        if isinstance(layer, BlockShape) and layer.skip:
            return 0.0
        if layer not in self.alone_ms:
            raise DataError(f"{layer} was not timed", do="build the table for this space, all of its widths")
        offset = self.offset_ms if isinstance(layer, StemShape) else 0.0
        return max(0.0, self.factor * self.alone_ms[layer] + offset)

    def total(self, shape: Geometry) -> float:
        """Return the milliseconds of a network."""
        return math.fsum(self.of(layer) for layer in _layers(shape))

    def encode(self) -> dict[str, Any]:
        """Return plain JSON that `decode` reads."""
        rows = [{"layer": type(layer).__name__, "ms": ms, **asdict(layer)} for layer, ms in self.alone_ms.items()]
        return {"factor": self.factor, "offset_ms": self.offset_ms, "layers": rows}

    @classmethod
    def decode(cls, document: Mapping[str, Any]) -> Table:
        """Read what `encode` wrote.

        Raises:
            DataError: It is no such document.
        """
        try:
            rows = [dict(row) for row in document["layers"]]
            found: dict[Layer, float] = {}
            for row in rows:
                kind, ms = _KINDS[row.pop("layer")], float(row.pop("ms"))
                sizes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
                found[kind(**sizes)] = ms
            return cls(found, float(document["factor"]), float(document["offset_ms"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"no table of latencies: {error!r}", do="build it again on this device") from error


def table(space: Space, *, widths: Iterable[int] | None = None, rounds: int = 20, networks: int = 16, seed: int = 0) -> Table:
    """Time every layer of a space, and some whole networks to correct the sum by.

    Args:
        space: Its input's size is the one that is timed, one at a time.
        widths: Numbers of the multipliers; None: all.
        rounds: The least of 3 times as many runs counts; they are spread over the whole measurement.
        networks: At least 2.
        seed: Draws the networks.
    """
    chosen = list(range(len(space.widths)) if widths is None else widths)
    layers: dict[Layer, Run] = {}
    for width in chosen:
        shape = enclosing(space, width)
        options = [option for block in option_shapes(space, width) for option in block if not option.skip]
        every: list[Layer] = [shape.stem, *options, shape.head]
        layers.update({layer: _layer_run(layer) for layer in dict.fromkeys(every) if layer not in layers})
    rng = random.Random(seed)
    drawn = [Architecture(rng.choice(chosen), space.sample(rng).options) for _ in range(max(networks, 2))]
    shapes = [geometry(space, architecture) for architecture in drawn]
    nothing, *times = _least_ms([_nothing(), *layers.values(), *map(_network_run, shapes)], rounds)
    alone = {layer: max(0.0, ms - nothing) for layer, ms in zip(layers, times, strict=False)}
    sums = [math.fsum(alone.get(layer, 0.0) for layer in _layers(shape)) for shape in shapes]
    factor, offset = _line_through(sums, times[len(layers) :])
    return Table(alone, factor, offset)


def measured(space: Space, architectures: Sequence[Architecture], *, rounds: int = 20) -> list[float]:
    """Time whole networks; returns milliseconds for one input, the least of 3 runs in each round."""
    return _least_ms([_network_run(geometry(space, architecture)) for architecture in architectures], rounds)


def _layers(shape: Geometry) -> list[Layer]:
    return [shape.stem, *shape.blocks, shape.head]


def _layer_run(layer: Layer) -> Run:
    with torch.random.fork_rng(devices=[]):
        module = _module(layer).eval()
    rank: list[int | str] = ["N", "C", "H", "W"]
    if isinstance(layer, HeadShape):
        rank = rank[:3] if layer.kind == "line" else rank[:2]
    graph = OnnxGraph(["N", layer.inputs, layer.rows, layer.columns])
    return _run(graph.to_bytes(write(graph, "x", module), rank), layer)


def _network_run(shape: Geometry) -> Run:
    with torch.random.fork_rng(devices=[]):
        net = built(shape).eval()
    return _run(to_onnx(net), shape.stem)


def _nothing() -> Run:
    """Return a call that computes nothing: what each call costs."""
    layer = StemShape(1, 1, (1, 1), "relu", 1, 1)
    graph = OnnxGraph(["N", 1, 1, 1])
    return _run(graph.to_bytes("x", ["N", 1, 1, 1]), layer)


def _run(content: bytes, layer: Layer) -> Run:
    scores = load_onnx(content)
    x = np.random.default_rng(0).random((1, layer.inputs, layer.rows, layer.columns), dtype=np.float32)
    return lambda: scores(x)


def _module(layer: Layer) -> nn.Module:
    if isinstance(layer, StemShape):
        return ConvNorm(layer.inputs, layer.outputs, 3, stride=layer.stride, activation=layer.activation, pooled=layer.pooled)
    if isinstance(layer, BlockShape):
        return block_module(layer)
    return Line(layer) if layer.kind == "line" else Classes(layer)


def _least_ms(runs: Sequence[Run], rounds: int) -> list[float]:
    """Time all of them in turns, so that what else the machine does falls on all alike."""
    least = [math.inf] * len(runs)
    for _ in range(rounds):
        for number, run in enumerate(runs):
            for _ in range(_AT_ONCE):
                start = time.perf_counter_ns()
                run()
                least[number] = min(least[number], (time.perf_counter_ns() - start) / 1e6)
    return least


def _line_through(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Fit y = factor * x + offset with the least sum of squared relative errors."""
    relative = np.stack([np.asarray(x) / np.asarray(y), 1 / np.asarray(y)], axis=1)
    factor, offset = np.linalg.lstsq(relative, np.ones(len(x)), rcond=None)[0]
    return float(factor), float(offset)
