"""A network as SVG text: a column a stage, from its stem at the left to its head at the right."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from components.train.spaces.geometry import BlockShape, HeadShape, StemShape, geometry
from components.train.spaces.space import Architecture, Option, Space

__all__ = ["network_svg"]

_COLUMN, _GAP = 182, 24
_TOP, _BOX, _STEP = 58, 46, 58
_SHADES = {1: 0.04, 3: 0.1, 5: 0.22, 7: 0.36}
"""Kernel -> how dark its block is."""


@dataclass(frozen=True)
class _Box:
    """What is drawn as one box.

    Attributes:
        title: Its tooltip.
        css: `fixed`, `block` or `skipped`.
        opacity: Of its colour.
        gated: Whether it gets the mark of a squeeze-and-excitation gate.
    """

    first: str
    second: str
    title: str
    css: str = "fixed"
    opacity: float = 1.0
    gated: bool = False


@dataclass(frozen=True)
class _Column:
    heading: str
    size: str
    boxes: tuple[_Box, ...]


def network_svg(space: Space, architecture: Architecture) -> str:
    """Draw a network: each block with its kernel, expansion and gate, each stage with its channels and resolution.

    Raises:
        DataError: It is not a member of the space.
    """
    columns = _columns(space, architecture)
    width = _COLUMN * len(columns) + _GAP * (len(columns) - 1) + 2
    height = _TOP + _STEP * max(len(column.boxes) for column in columns) + 2
    title = escape(f"The network {space.describe(architecture)}")
    parts = [f"<svg class='network' viewBox='-1 -1 {width} {height}' role='img'><title>{title}</title>"]
    for number, column in enumerate(columns):
        x = number * (_COLUMN + _GAP)
        if number:
            parts.append(_arrow(x - _GAP + 3, x - 3, _TOP + _BOX // 2))
        parts.append(f"<rect class='stage' x='{x}' y='0' width='{_COLUMN}' height='{height - 2}' rx='10'/>")
        parts.append(f"<text class='heading' x='{x + 12}' y='22'>{escape(column.heading)}</text>")
        parts.append(f"<text class='tick' x='{x + 12}' y='42'>{escape(column.size)}</text>")
        for place, box in enumerate(column.boxes):
            y = _TOP + _STEP * place
            if place:
                parts.append(f"<path class='flow' d='M{x + _COLUMN // 2} {y - _STEP + _BOX}V{y}'/>")
            parts.append(_drawn(box, x + 10, y))
    return "".join([*parts, "</svg>"])


def _columns(space: Space, architecture: Architecture) -> list[_Column]:
    shape = geometry(space, architecture)
    stem, head = shape.stem, shape.head
    inputs: list[BlockShape | HeadShape] = [*shape.blocks, head]
    found = [_Column("Stem", _size(stem.outputs, inputs[0].rows, inputs[0].columns), _stem(stem))]
    at = 0
    for number, stage in enumerate(space.stages):
        numbers, at = range(at, at + stage.blocks), at + stage.blocks
        after = inputs[at]
        boxes = (_block(shape.blocks[n], space.option(architecture, n), inputs[n + 1], space.blocks[n].name) for n in numbers)
        found.append(_Column(f"Stage {number}", _size(after.inputs, after.rows, after.columns), tuple(boxes)))
    return [*found, _Column("Head", f"{head.classes} {'symbols' if head.kind == 'line' else 'classes'}", _head(head))]


def _stem(shape: StemShape) -> tuple[_Box, ...]:
    size = _size(shape.inputs, shape.rows, shape.columns)
    first = _Box("input", size, f"input: {size}")
    stride = "" if shape.stride == (1, 1) else f", {'maximum' if shape.pooled else 'stride'} {_by(*shape.stride)}"
    second = f"{shape.inputs} → {shape.outputs}{stride}"
    return first, _Box("conv 3 × 3", second, f"conv 3 × 3: {second}")


def _block(shape: BlockShape, option: Option, after: BlockShape | HeadShape, name: str) -> _Box:
    if shape.skip:
        return _Box("skipped", "", f"block {name}: left out", "skipped")
    kernel, opacity = _by(shape.kernel, shape.kernel), _SHADES.get(shape.kernel, max(_SHADES.values()))
    sizes = f"{_size(shape.inputs, shape.rows, shape.columns)} to {_size(shape.outputs, after.rows, after.columns)}"
    if shape.kind == "plain":
        pool = "" if shape.stride == (1, 1) else f", maximum {_by(*shape.stride)}"
        title = f"block {name} (plain): conv {kernel}{pool}, {sizes}"
        return _Box(f"conv {kernel}", f"{shape.inputs} → {shape.outputs}{pool}", title, "block", opacity)
    gate = f"squeeze-and-excitation gate {shape.gate} wide, " if shape.gate else ""
    wider = f"expansion {option.expansion:g}"
    title = f"block {name} ({shape.kind}): kernel {kernel}, {wider} (inner width {shape.hidden}), {gate}{sizes}"
    inner = f"inner width {shape.hidden}" + (f", se {shape.gate}" if shape.gate else "")
    return _Box(f"{kernel}, {wider}", inner, title, "block", opacity, bool(shape.gate))


def _head(shape: HeadShape) -> tuple[_Box, ...]:
    """Return its layers, as `components.train.spaces.network` has them."""
    if shape.kind == "line":
        texts = [
            ("rows into channels", f"{shape.inputs} × {shape.rows} → {shape.inputs * shape.rows}"),
            (f"conv {shape.kernel} over columns", f"{shape.inputs * shape.rows} → {shape.hidden}"),
            ("bidirectional GRU", f"2 × {shape.hidden // 2}, {shape.columns} columns"),
            ("linear, log-softmax", f"{shape.hidden} → {shape.classes}"),
        ]
    else:
        features = shape.hidden or shape.inputs
        wider = [("conv 1 × 1", f"{shape.inputs} → {shape.hidden}")] if shape.hidden else []
        texts = [*wider, ("mean over space", f"{_by(shape.rows, shape.columns)} → 1"), ("linear", f"{features} → {shape.classes}")]
    return tuple(_Box(first, second, f"{first}: {second}") for first, second in texts)


def _drawn(box: _Box, x: int, y: int) -> str:
    wide = _COLUMN - 20
    if box.css == "skipped":
        inner = f"<text x='{x + wide / 2}' y='{y + 28}' text-anchor='middle'>{escape(box.first)}</text>"
    else:
        inner = f"<text x='{x + 10}' y='{y + 19}'>{escape(box.first)}</text>"
        inner += f"<text class='tick' x='{x + 10}' y='{y + 36}'>{escape(box.second)}</text>"
    mark = f"<rect class='gate' x='{x + wide - 14}' y='{y + 8}' width='6' height='{_BOX - 16}' rx='3'/>" if box.gated else ""
    fill = f"<rect class='body' x='{x}' y='{y}' width='{wide}' height='{_BOX}' rx='7' fill-opacity='{box.opacity}'/>"
    return f"<g class='layer {box.css}'><title>{escape(box.title)}</title>{fill}{inner}{mark}</g>"


def _arrow(start: int, end: int, y: int) -> str:
    return f"<path class='flow' d='M{start} {y}H{end}M{end - 6} {y - 5}L{end} {y}L{end - 6} {y + 5}'/>"


def _size(channels: int, rows: int, columns: int) -> str:
    return f"{channels} channel{'s' if channels > 1 else ''}, {_by(rows, columns)}"


def _by(rows: int, columns: int) -> str:
    return f"{rows} × {columns}"
