"""Small plots as SVG and HTML text, drawn here: a page needs no script, no network and no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Mark", "curves", "forest", "heatmap"]

_WIDTH = 500
_LINE = 22


@dataclass(frozen=True)
class Mark:
    """One value with its interval on a line of a forest plot; `tone` is a CSS class (after, before, good, bad, flat)."""

    value: float
    low: float | None
    high: float | None
    tone: str


def forest(lines: Sequence[tuple[str, Sequence[Mark], str]], *, zero: bool = False, limit: float | None = None) -> str:
    """Draw values with intervals, one line each.

    Args:
        lines: (label, marks, text at the right).
        zero: Draw a line at 0 and keep it in view.
        limit: Draw a dashed line here.
    """
    seen = [x for _, marks, _ in lines for m in marks for x in (m.value, m.low, m.high) if x is not None]
    seen += ([0.0] if zero else []) + ([limit] if limit is not None else [])
    if not seen:
        return "<p class='quiet'>Nothing to show.</p>"
    low, high = min(seen), max(seen)
    pad = (high - low or abs(high) or 1) * 0.06
    low, high = low - pad, high + pad
    left, right = 158, 104
    span = _WIDTH - left - right

    def at(x: float) -> float:
        return round(left + span * (x - low) / (high - low), 1)

    height = _LINE * len(lines) + 26
    parts = [f"<svg viewBox='0 0 {_WIDTH} {height}' role='img'>"]
    for tick in _ticks(low, high):
        parts.append(f"<line class='grid' x1='{at(tick)}' x2='{at(tick)}' y1='2' y2='{height - 20}'/>")
        parts.append(f"<text class='tick' x='{at(tick)}' y='{height - 6}' text-anchor='middle'>{tick:g}</text>")
    for x, css in ((0.0 if zero else None, "zero"), (limit, "limit")):
        if x is not None:
            parts.append(f"<line class='{css}' x1='{at(x)}' x2='{at(x)}' y1='2' y2='{height - 20}'/>")
    for i, (label, marks, text) in enumerate(lines):
        middle = 4 + _LINE * i + _LINE / 2
        shown = label if len(label) <= 24 else label[:23] + "…"
        parts.append(f"<text x='{left - 12}' y='{middle + 4}' text-anchor='end'>{escape(shown)}<title>{escape(label)}</title></text>")
        for k, m in enumerate(marks):
            y = round(middle + (k - (len(marks) - 1) / 2) * 8, 1)
            if m.low is not None and m.high is not None:
                parts.append(f"<line class='bar {m.tone}' x1='{at(m.low)}' x2='{at(m.high)}' y1='{y}' y2='{y}'/>")
            parts.append(f"<circle class='dot {m.tone}' cx='{at(m.value)}' cy='{y}' r='4.2'/>")
        parts.append(f"<text class='figure' x='{_WIDTH - right + 12}' y='{middle + 4}'>{escape(text)}</text>")
    return "".join([*parts, "</svg>"])


def heatmap(labels: Sequence[str], matrix: Sequence[Sequence[int]], *, before: Sequence[Sequence[int]] | None = None) -> str:
    """Draw a confusion matrix as a table; errors are shaded by count, and what `before` had there is in the tooltip."""
    worst = max((n for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j), default=0)
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    body = []
    for i, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        cells = []
        for j, n in enumerate(row):
            colour = "16,122,87,0.18" if i == j else f"200,60,40,{_shade(n, worst)}"
            shade = f"background:rgba({colour})" if n else ""
            was = f", {before[i][j]} before" if before else ""
            title = f"truth {label}, said {labels[j]}: {n}{was}"
            cells.append(f"<td style='{shade}' title='{escape(title, quote=True)}'>{n or '·'}</td>")
        body.append(f"<tr><th>{escape(label)}</th>{''.join(cells)}</tr>")
    return f"<div class='scroll'><table class='heat'><tr><th class='corner'>truth ↓ said →</th>{head}</tr>{''.join(body)}</table></div>"


def curves(series: Sequence[tuple[str, Sequence[tuple[float, float]], str]], *, x: str, y: str) -> str:
    """Draw lines in the unit square, with its diagonal; each series is (name, points, tone)."""
    side, left, top = 250, 44, 12

    def at(point: tuple[float, float]) -> str:
        return f"{left + side * point[0]:.1f},{top + side * (1 - point[1]):.1f}"

    parts = [f"<svg class='square' viewBox='0 0 {left + side + 16} {top + side + 44}' role='img'>"]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        px, py = left + side * tick, top + side * (1 - tick)
        parts.append(f"<line class='grid' x1='{px}' x2='{px}' y1='{top}' y2='{top + side}'/>")
        parts.append(f"<line class='grid' x1='{left}' x2='{left + side}' y1='{py}' y2='{py}'/>")
        parts.append(f"<text class='tick' x='{px}' y='{top + side + 16}' text-anchor='middle'>{tick:g}</text>")
        parts.append(f"<text class='tick' x='{left - 6}' y='{py + 4}' text-anchor='end'>{tick:g}</text>")
    parts.append(f"<polyline class='diagonal' points='{at((0, 0))} {at((1, 1))}'/>")
    for name, points, tone in series:
        parts.append(f"<polyline class='curve {tone}' points='{' '.join(map(at, points))}'><title>{escape(name)}</title></polyline>")
        if len(points) <= 12:
            parts += [f"<circle class='dot {tone}' cx='{at(p).split(',')[0]}' cy='{at(p).split(',')[1]}' r='3.4'/>" for p in points]
    parts.append(f"<text class='tick' x='{left + side / 2}' y='{top + side + 36}' text-anchor='middle'>{escape(x)}</text>")
    parts.append(f"<text class='tick' transform='rotate(-90)' x='{-(top + side / 2)}' y='12' text-anchor='middle'>{escape(y)}</text>")
    return "".join([*parts, "</svg>"])


def _shade(count: int, worst: int) -> float:
    return round(0.12 + 0.7 * count / max(worst, 1), 3)


def _ticks(low: float, high: float) -> list[float]:
    step: Any = 10 ** _floor_log10((high - low) / 3)
    step = next((step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 5.5), step * 10)
    first = int(-(-low // step))
    return [round(k * step, 10) + 0.0 for k in range(first, int(high // step) + 1)]


def _floor_log10(x: float) -> int:
    power = 0
    while x >= 10:
        x, power = x / 10, power + 1
    while x < 1:
        x, power = x * 10, power - 1
    return power
