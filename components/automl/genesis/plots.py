"""The search's plots as SVG text, drawn here like `components.evaluate.plots`: no script, no network, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Point", "bar", "colours", "parallel", "shade", "shares", "strips", "xy"]

_PALETTE = ("#0f6fc5", "#d9752b", "#2a9d6f", "#b0479a", "#c8a415", "#7a5cc7", "#c23b22", "#4aa3b8", "#7f6a55", "#5b6b7d")
"""Ten colours that stay apart for most colour-blind readers; later learners get lighter ones of the same hues."""
_SHADES = ((0x44, 0x3A, 0x83), (0x31, 0x68, 0x8E), (0x21, 0x91, 0x8C), (0x5C, 0xC8, 0x63), (0xE8, 0xD0, 0x20))
"""Dark violet to yellow, as in viridis."""


@dataclass(frozen=True)
class Point:
    """One job in a plot; `strong` ones are filled, a `ringed` one has a circle around it, a failed one is a cross at the bottom."""

    x: float
    y: float | None
    colour: str
    title: str
    strong: bool = True
    ringed: bool = False


@dataclass(frozen=True)
class Curve:
    """A line of steps, or a straight one; dashed ones are for comparison."""

    points: Sequence[tuple[float, float]]
    title: str
    dashed: bool = False


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return name -> colour, for any number of names; equal lists give equal colours."""
    found = {}
    for index, name in enumerate(sorted(set(names))):
        base, lighter = _PALETTE[index % len(_PALETTE)], min(index // len(_PALETTE), 3)
        parts = (int(base[at : at + 2], 16) for at in (1, 3, 5))
        found[name] = "#" + "".join(f"{part + (255 - part) * lighter // 5:02x}" for part in parts)
    return found


def shade(share: float) -> str:
    """Return the colour of a share, 0 (worst, violet) to 1 (best, yellow)."""
    at = min(max(share, 0.0), 1.0) * (len(_SHADES) - 1)
    low = min(int(at), len(_SHADES) - 2)
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(_SHADES[low], _SHADES[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def xy(points: Sequence[Point], curves: Sequence[Curve], *, x: str, y: str, span: tuple[float, float], limit: float | None = None) -> str:
    """Draw points and step lines.

    Args:
        points: Those outside `span` are drawn at its edge.
        curves: In the order they are drawn, the last on top.
        x: The horizontal axis' name, which starts at its lowest value.
        y: The vertical one's.
        span: What the vertical axis shows.
        limit: Draw a dashed vertical line here and keep it in view.
    """
    width, height, left, top, right, bottom = 560, 300, 62, 12, 12, 40
    xs = [point.x for point in points] + [px for curve in curves for px, _ in curve.points] + ([] if limit is None else [limit])
    near, far = min(xs, default=0.0), max(xs, default=1.0)
    far = far if far > near else near + 1
    low, high = span if span[1] > span[0] else (span[0] - 0.5, span[0] + 0.5)

    def at_x(value: float) -> float:
        return round(left + 8 + (width - left - right - 16) * (value - near) / (far - near), 1)

    def at_y(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(top + (height - top - bottom) * (1 - share), 1)

    parts = [f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{escape(f'{y} by {x}', quote=True)}'>"]
    for tick in _ticks(low, high):
        parts.append(f"<line class='grid' x1='{left}' x2='{width - right}' y1='{at_y(tick)}' y2='{at_y(tick)}'/>")
        parts.append(f"<text class='tick' x='{left - 6}' y='{at_y(tick) + 4}' text-anchor='end'>{tick:g}</text>")
    for tick in _ticks(near, far):
        parts.append(f"<text class='tick' x='{at_x(tick)}' y='{height - bottom + 16}' text-anchor='middle'>{tick:g}</text>")
    parts.append(f"<text class='tick' x='{(left + width) / 2}' y='{height - 6}' text-anchor='middle'>{escape(x)}</text>")
    parts.append(f"<text class='tick' transform='rotate(-90)' x='{-height / 2}' y='12' text-anchor='middle'>{escape(y)}</text>")
    if limit is not None:
        line = f"<line class='limit' x1='{at_x(limit)}' x2='{at_x(limit)}' y1='{top}' y2='{height - bottom}'>"
        parts.append(f"{line}<title>limit: {limit:g}</title></line>")
    for curve in curves:
        parts.append(_steps(curve, at_x, at_y, far))
    for point in points:
        px, title = at_x(point.x), f"<title>{escape(point.title)}</title>"
        if point.y is None:
            parts.append(f"<text class='cross' x='{px}' y='{height - bottom - 2}' fill='{point.colour}'>×{title}</text>")
        else:
            if point.ringed:
                parts.append(f"<circle class='ring' cx='{px}' cy='{at_y(point.y)}' r='8.5' stroke='{point.colour}'/>")
            ink = f"fill='{point.colour}'" if point.strong else f"fill='#fff' fill-opacity='.6' stroke='{point.colour}'"
            parts.append(f"<circle class='job' cx='{px}' cy='{at_y(point.y)}' r='{4.4 if point.strong else 3.2}' {ink}>{title}</circle>")
    return "".join([*parts, "</svg>"])


def bar(share: float, colour: str) -> str:
    """Draw one bar, as wide as its table cell allows."""
    drawn = f"<rect width='{100 * share:.1f}' height='8' fill='{colour}'/>"
    return f"<svg class='one' viewBox='0 0 100 8' preserveAspectRatio='none'>{drawn}</svg>"


def shares(parts: Sequence[tuple[str, float, str]]) -> str:
    """Draw shares of a whole as one bar; each part is (title, share, colour)."""
    width, height, x = 560, 34, 0.0
    drawn = [f"<svg viewBox='0 0 {width} {height}' role='img'>"]
    for title, share, colour in parts:
        span = width * share
        drawn.append(f"<rect class='share' x='{x:.1f}' y='2' width='{span:.1f}' height='30' fill='{colour}'>")
        drawn.append(f"<title>{escape(title)}</title></rect>")
        if span > 44:
            drawn.append(f"<text class='on' x='{x + span / 2:.1f}' y='22' text-anchor='middle'>{100 * share:.0f} %</text>")
        x += span
    return "".join([*drawn, "</svg>"])


def strips(lines: Sequence[tuple[str, Sequence[float], str, str]]) -> str:
    """Draw the values of each line on one axis, and their mean as a bar; a line is (label, values, colour, text at the right)."""
    width, line, left, right = 560, 24, 158, 122
    seen = [value for _, values, _, _ in lines for value in values]
    low, high = min(seen), max(seen)
    pad = (high - low or abs(high) or 1) * 0.06
    low, high = low - pad, high + pad
    height = line * len(lines) + 26

    def at(value: float) -> float:
        return round(left + (width - left - right) * (value - low) / (high - low), 1)

    parts = [f"<svg viewBox='0 0 {width} {height}' role='img'>"]
    for tick in _ticks(low, high):
        parts.append(f"<line class='grid' x1='{at(tick)}' x2='{at(tick)}' y1='2' y2='{height - 20}'/>")
        parts.append(f"<text class='tick' x='{at(tick)}' y='{height - 6}' text-anchor='middle'>{tick:g}</text>")
    for index, (label, values, colour, text) in enumerate(lines):
        y = 4 + line * index + line / 2
        mean = at(math.fsum(values) / len(values))
        parts.append(f"<text x='{left - 12}' y='{y + 4}' text-anchor='end'>{escape(label)}</text>")
        for number, value in enumerate(values):
            title = f"<title>{escape(label)}, fold {number}: {value:.6g}</title>"
            parts.append(f"<circle cx='{at(value)}' cy='{y}' r='4' fill='{colour}' fill-opacity='.5'>{title}</circle>")
        parts.append(f"<line x1='{mean}' x2='{mean}' y1='{y - 8}' y2='{y + 8}' stroke='{colour}' stroke-width='2.5'/>")
        parts.append(f"<text class='figure' x='{width - right + 10}' y='{y + 4}'>{escape(text)}</text>")
    return "".join([*parts, "</svg>"])


def parallel(axes: Sequence[tuple[str, str, str]], lines: Sequence[tuple[Sequence[float | None], str, str]]) -> str:
    """Draw parallel coordinates.

    Args:
        axes: (name, lowest value, highest value) of each.
        lines: (place on each axis from 0 to 1 or None where there is none, colour, title), the most important last.
    """
    width, height, left, top, bottom = max(560, 92 * len(axes) + 40), 330, 48, 24, 92
    step = (width - 2 * left) / max(len(axes) - 1, 1)

    def at(index: int, place: float) -> str:
        return f"{left + step * index:.1f},{top + (height - top - bottom) * (1 - place):.1f}"

    parts = [f"<svg class='wide' viewBox='0 0 {width} {height}' role='img'>"]
    for places, colour, title in lines:
        for start, end in _pieces(places):
            points = " ".join(at(index, place) for index, place in enumerate(places) if start <= index < end and place is not None)
            shape = f"<polyline class='run' points='{points}' stroke='{colour}'>"
            parts.append(f"{shape}<title>{escape(title)}</title></polyline>")
    for index, (name, low, high) in enumerate(axes):
        x, floor = round(left + step * index, 1), height - bottom
        parts.append(f"<line class='axis' x1='{x}' x2='{x}' y1='{top}' y2='{floor}'/>")
        parts.append(f"<text class='tick' x='{x}' y='{top - 8}' text-anchor='middle'>{escape(high)}</text>")
        parts.append(f"<text class='tick' x='{x}' y='{floor + 14}' text-anchor='middle'>{escape(low)}</text>")
        parts.append(f"<text transform='translate({x},{floor + 30}) rotate(28)'>{escape(name)}</text>")
    return "".join([*parts, "</svg>"])


def _pieces(places: Sequence[float | None]) -> list[tuple[int, int]]:
    """Return (start, end) of every run of known places."""
    found, start = [], 0
    for index, place in enumerate([*places, None]):
        if place is None:
            if index > start:
                found.append((start, index))
            start = index + 1
    return found


def _steps(curve: Curve, at_x: Callable[[float], float], at_y: Callable[[float], float], far: float) -> str:
    points: list[tuple[float, float]] = []
    for x, y in curve.points:
        if points:
            points.append((x, points[-1][1]))
        points.append((x, y))
    if points:
        points.append((far, points[-1][1]))
    text = " ".join(f"{at_x(x)},{at_y(y)}" for x, y in points)
    return f"<polyline class='best{' dashed' if curve.dashed else ''}' points='{text}'><title>{escape(curve.title)}</title></polyline>"


def _ticks(low: float, high: float) -> list[float]:
    """Return at most six round numbers between two."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next((power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= 5.5), power * 10)
    return [round(k * step, 12) + 0.0 for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
