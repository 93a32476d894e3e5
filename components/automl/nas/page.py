"""An architecture search as one page: self-contained HTML with inline styles and plots; no script, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from components.automl.genesis.page_parts import cells, document, number, swatch, tiles
from components.automl.genesis.plots import Curve, Point, xy
from components.automl.nas.budget import Cost
from components.automl.nas.drawing import network_svg
from components.automl.nas.searched import Judged, Searched, front

__all__ = ["page"]

_STYLE = Path(__file__).with_name("page.css")
_FOUND, _FRONT, _OTHER = "#d9752b", "#0f6fc5", "#68758a"
_SHOWN = 10
_MILLION = 1e6


def page(searched: Searched, *, title: str) -> str:
    """Return the page.

    Args:
        title: Of the search, for people: usually the scenario's name.
    """
    sections = [
        ("The network found", _network(searched)),
        ("Score and cost", _front(searched)),
        ("Do inherited weights rank architectures right?", _ranking(searched)),
        ("How the search went", _learned(searched)),
        (f"The best of {len(searched.judged)} judged", _table(searched)),
        ("Good to know", _notes(searched)),
    ]
    return document(f"{title}: architecture search", _header(searched, title), sections, _STYLE.read_text())


def _header(searched: Searched, title: str) -> str:
    found, phases = searched.found, (("supernet", searched.supernet_s), ("search", searched.search_s), ("sample", searched.sample_s))
    spent, whole = _listed([f"{name} {_seconds(seconds)}" for name, seconds in phases]), math.fsum(seconds for _, seconds in phases)
    begun = "It began from nothing" if searched.start is None else f"It went on from the supernet of {escape(searched.start)}"
    entries = [("inherited score", number(found.inherited), "how likely the truth is, with the supernet's weights")]
    if found.alone is not None:
        entries.append(("score alone", number(found.alone), "validation, trained from nothing"))
    for name, figure, limit, share in _used(searched):
        entries.append((name, figure, "no limit" if share is None else f"{_percent(share)} of the limit {limit}"))
    entries.append(("CPU", _seconds(whole), spent))
    return (
        f"<header><p class='crumb'>ATLAS · architecture search · {escape(searched.space.name)}</p><h1>{escape(title)}</h1>"
        f"<p class='models'>{_sentence(searched)}</p>"
        f"<p class='models'>{begun} and cost {_seconds(whole)} of CPU: {spent}.</p>{tiles(entries)}</header>"
    )


def _sentence(searched: Searched) -> str:
    found, used = searched.found, _used(searched)
    shares = [f"{_percent(share)} of the limit of {name}" for name, _, _, share in used if share is not None]
    within = f"uses {_listed(shares)}" if shares else "no limit was given"
    return (
        f"The {escape(searched.strategy)} search of space {escape(searched.space.name)} found "
        f"<code>{escape(searched.space.describe(found.architecture))}</code>: "
        f"{_listed([f'{figure} {name}' for name, figure, _, _ in used])}, inherited score {number(found.inherited)}; {within}."
    )


def _used(searched: Searched) -> list[tuple[str, str, str, float | None]]:
    """Return (name, figure, limit, used share of the limit or None) of each measure; without latency where it was not measured."""
    cost, limits = searched.found.cost, searched.limits
    found = [
        ("parameters", f"{cost.params:,}", f"{limits.max_params or 0:,}", _share(cost.params, limits.max_params)),
        ("MACs", _macs(cost.macs), _macs(limits.max_macs or 0), _share(cost.macs, limits.max_macs)),
    ]
    if cost.latency_ms:
        limit, share = f"{limits.max_latency_ms or 0:g} ms", _share(cost.latency_ms, limits.max_latency_ms)
        found.append(("latency", f"{number(cost.latency_ms)} ms", limit, share))
    return found


def _network(searched: Searched) -> str:
    drawn = network_svg(searched.space, searched.found.architecture)
    caption = f"Width multiplier {searched.space.widths[searched.found.architecture.width]:g}; sizes are channels, rows × columns"
    note = (
        "Filled: what the search chose, the darker the larger the kernel; a green mark: a squeeze-and-excitation gate (se); "
        "dashed: a block that was skipped; white: the same in every architecture of this width."
    )
    if searched.space.head.kind == "line":
        note += " Lines may have any number of columns; costs are counted for this one."
    return f"<figure><figcaption>{caption}</figcaption><div class='scroll'>{drawn}</div></figure><p class='quiet'>{note}</p>"


def _front(searched: Searched) -> str:
    best = front(searched.judged)
    on_front = {each.architecture for each in best}
    # The found one is drawn last, so that no other point hides it.
    order = sorted(searched.judged, key=lambda each: (each.architecture == searched.found.architecture, each.architecture in on_front))
    points = [_point(searched, each, each.architecture in on_front) for each in order]
    line = Curve(
        [(each.cost.macs / _MILLION, each.inherited) for each in best],
        f"Pareto front: {len(best)} architecture{'s' if len(best) > 1 else ''}",
    )
    most = searched.limits.max_macs
    span = _span([each.inherited for each in searched.judged])
    plot = xy(points, [line], x="million MACs", y="inherited score", span=span, limit=None if most is None else most / _MILLION)
    legend = "".join(f"{swatch(paint)}{name}" for paint, name in ((_FOUND, "found"), (_FRONT, "on the front"), (_OTHER, "others")))
    limit = "" if most is None else f" Dashed: the limit of {_macs(most)} MACs."
    note = f"No other judged architecture beats those on the front in both MACs and score: {len(best)} of {len(searched.judged)}.{limit}"
    return f"<p class='legend'>{legend}</p>{plot}<p class='quiet'>{note}</p>"


def _point(searched: Searched, each: Judged, on_front: bool) -> Point:
    found = each.architecture == searched.found.architecture
    text = f"{searched.space.describe(each.architecture)}: {_macs(each.cost.macs)} MACs, {number(each.inherited)}"
    paint = _FOUND if found else _FRONT if on_front else _OTHER
    return Point(each.cost.macs / _MILLION, each.inherited, paint, text, found or on_front, found)


def _ranking(searched: Searched) -> str:
    both = [(each, each.alone) for each in searched.judged if each.alone is not None]
    if searched.tau is None:
        why = f"only {len(both)} were trained alone, or their scores were all equal" if both else "no architecture was trained alone"
        return f"<p>It was not measured: {why}; <code>automl.nas.sample: 6</code> in the scenario measures it.</p>"
    points = []
    for each, alone in both:
        found = each.architecture == searched.found.architecture
        text = f"{searched.space.describe(each.architecture)}: {number(each.inherited)} inherited, {number(alone)} alone"
        points.append(Point(each.inherited, alone, _FOUND if found else _FRONT, text, ringed=found))
    plot = xy(points, [], x="inherited score", y="score alone", span=_span([alone for _, alone in both]))
    said = (
        f"Kendall's tau is <b>{searched.tau:.2f}</b> over {len(both)} architectures that were also trained alone: "
        "1 where both orders agree in every pair, 0 where they have nothing to do with each other, −1 where they are opposite."
    )
    return f"<p>{said}</p>{plot}"


def _learned(searched: Searched) -> str:
    if not searched.learned:
        return ""
    values = [value for _, value in searched.learned]
    end = searched.learned[-1]
    points = [Point(seconds, value, _FRONT, f"{number(value)} after {_seconds(seconds)}") for seconds, value in searched.learned]
    plot = xy(points, [Curve(searched.learned, "the best so far")], x="CPU seconds", y="best score so far", span=_span(values))
    return f"{plot}<p class='quiet'>The best score stood at {number(end[1])} after {_seconds(end[0])} of CPU.</p>"


def _table(searched: Searched) -> str:
    lines = []
    for each in searched.judged[:_SHOWN]:
        found = each.architecture == searched.found.architecture
        text = f"<td class='description'>{escape(searched.space.describe(each.architecture))}{' <i>found</i>' if found else ''}</td>"
        lines.append(
            f"<tr{' class=member' if found else ''}>{text}{cells([*_cost(each.cost), number(each.inherited), number(each.alone)])}</tr>"
        )
    heads = ("parameters", "MACs", "latency, ms", "inherited", "alone")
    head = "<tr><th>architecture</th>" + "".join(f"<th class='n'>{name}</th>" for name in heads) + "</tr>"
    return f"<div class='scroll'><table>{head}{''.join(lines)}</table></div>"


def _notes(searched: Searched) -> str:
    told = "".join(f"<li>{escape(text)}</li>" for text in searched.notes)
    return f"<ul class='notes'>{told}</ul>" if told else ""


def _cost(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.params:,}", _macs(cost.macs), number(cost.latency_ms or None)


def _macs(count: int) -> str:
    return f"{count / _MILLION:.4g} M" if count >= _MILLION / 10 else f"{count:,}"


def _share(spent: float, limit: float | None) -> float | None:
    return spent / limit if limit else None


def _percent(share: float) -> str:
    # Rounded down, so that 100 % is said only of a limit that is reached.
    return f"{math.floor(100 * share):d} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return what an axis shows of scores: all of them, and a little more."""
    pad = 0.06 * (max(values) - min(values) or 0.1)
    return min(values) - pad, max(values) + pad


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
