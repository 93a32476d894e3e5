"""The watch page's plots as SVG text, in the manner of `components.evaluate.plots`: no script, no network, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["area", "legend", "lines", "shares"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 560, 200, 56, 10, 10, 34


def shares(parts: Sequence[tuple[str, float, str]]) -> str:
    """Draw (name, amount, colour) parts of a whole as one bar."""
    total, x = math.fsum(amount for _, amount, _ in parts) or 1.0, 0.0
    drawn = [f"<svg class='whole' viewBox='0 0 {_WIDTH} 34' role='img'>"]
    for name, amount, colour in parts:
        span = _WIDTH * amount / total
        drawn.append(f"<rect x='{x:.1f}' y='2' width='{span:.1f}' height='30' fill='{colour}'><title>{escape(name)}</title></rect>")
        x += span
    return "".join([*drawn, "</svg>"])


def area(parts: Sequence[tuple[float, float, float]], end_s: float, colour: str, name: str) -> str:
    """Draw (from, to, share) parts of the time as bars between 0 and 100 %."""
    frame = _Frame(end_s, 0.0, 100.0)
    drawn = [frame.begin(name, "%")]
    for start, stop, share in parts:
        x, y = frame.x(start), frame.y(100 * share)
        width, height = max(0.5, frame.x(min(stop, end_s)) - x), frame.y(0.0) - y
        title = f"<title>{escape(name)} {share:.0%} at {start:.3g} s</title>"
        drawn.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'>{title}</rect>")
    return "".join([*drawn, "</svg>"])


def lines(curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], end_s: float, unit: str) -> str:
    """Draw (name, colour, [(seconds, value)]) curves over time, from 0."""
    highest = max((value for _, _, points in curves for _, value in points), default=0.0)
    frame = _Frame(end_s, 0.0, highest * 1.05 or 1.0)
    drawn = [frame.begin(", ".join(name for name, _, _ in curves), unit)]
    for name, colour, points in curves:
        path = " ".join(f"{frame.x(at):.1f},{frame.y(value):.1f}" for at, value in points)
        title = f"<title>{escape(name)}</title>"
        drawn.append(f"<polyline class='curve' points='{path}' stroke='{colour}'>{title}</polyline>")
    return "".join([*drawn, "</svg>"])


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Name (name, colour) entries."""
    keys = "".join(f"<span class='swatch' style='background:{colour}'></span>{escape(name)}" for name, colour in entries)
    return f"<p class='legend'>{keys}</p>"


class _Frame:
    """Seconds from 0 to `end_s` by values from `low` to `high`."""

    def __init__(self, end_s: float, low: float, high: float) -> None:
        self._end, self._low, self._high = end_s or 1.0, low, high

    def x(self, seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(seconds / self._end, 0.0), 1.0)

    def y(self, value: float) -> float:
        share = min(max((value - self._low) / (self._high - self._low), 0.0), 1.0)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)

    def begin(self, name: str, unit: str) -> str:
        """Return the opening tag, the grid and the axes' numbers."""
        drawn = [f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(f'{name}, {unit}, over seconds', quote=True)}'>"]
        for tick in _ticks(self._low, self._high):
            y = self.y(tick)
            drawn.append(f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
            drawn.append(f"<text class='tick' x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{tick:g}</text>")
        for tick in _ticks(0.0, self._end):
            drawn.append(f"<text class='tick' x='{self.x(tick):.1f}' y='{_HEIGHT - _BOTTOM + 16}' text-anchor='middle'>{tick:g}</text>")
        drawn.append(f"<text class='tick' x='{(_LEFT + _WIDTH) / 2}' y='{_HEIGHT - 4}' text-anchor='middle'>seconds</text>")
        return "".join(drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Return at most six round numbers between two."""
    if high <= low:
        return []
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next((power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= 5.5), power * 10)
    return [round(k * step, 12) + 0.0 for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
