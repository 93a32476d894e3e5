"""A search as one page: self-contained HTML with inline styles and plots; no script, no network."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from components.automl.genesis.importance import varied
from components.automl.genesis.page_parts import cells, document, label, number, pipelines_table, swatch, tiles
from components.automl.genesis.plots import Curve, Point, bar, colours, parallel, shade, shares, strips, xy

__all__ = ["page"]

_ORIGINS = {
    "portfolio": "the static portfolio",
    "champion": "the serving model's recipe",
    "expert": "your own pipelines",
    "replay": "winners of earlier searches",
}
_SHOWN = 8
"""Pipelines whose folds are drawn."""
_LEAST = 3
"""Pipelines before they are compared option by option."""
_IN_VIEW = 0.8
"""Share of the values that a plot's axis must show; the worst ones are drawn at its edge."""


def page(report: Mapping[str, Any], jobs: Sequence[Mapping[str, float]]) -> str:
    """Return the page.

    Args:
        report: What `report.json` holds.
        jobs: For each of its trials: `seconds` of CPU, `memory_mb`, `clock` (seconds of the search when it ended).
    """
    paint = colours([trial["learner"] for trial in report["trials"]] + [member["learner"] for member in report["ensemble"]["members"]])
    sections = [
        ("Against what", _against(report)),
        ("Good to know", _notes(report)),
        ("The ensemble", _ensemble(report, paint)),
        ("History", _history(report, jobs, paint)),
        ("Learners compared", _learners(report, jobs, paint)),
        ("What mattered", _importance(report, paint)),
        ("Pipelines of the best learner", _parallel(report)),
        ("Folds", _folds(report, paint)),
        ("Where the pipelines came from", _origins(report)),
        ("All pipelines", pipelines_table(report, jobs, paint)),
    ]
    return document(f"{report['scenario']}: search", _header(report, jobs), sections)


def _header(report: Mapping[str, Any], jobs: Sequence[Mapping[str, float]]) -> str:
    members, metric = report["ensemble"]["members"], report["metric"]
    many = len(members) > 1
    title = f"{metric} {number(report['score'])} " + (f"with {len(members)} pipelines" if many else f"with {members[0]['learner']}")
    rows, tried = report["rows"], report["pipelines"]
    seconds, clock = math.fsum(job["seconds"] for job in jobs), max((job["clock"] for job in jobs), default=0.0)
    entries = [
        (metric, number(report["score"]), f"{'higher' if report['higher_is_better'] else 'lower'} is better; on rows not learned from")
    ]
    entries += [(f"over {rival['name']}", _gain(report, rival), f"it has {number(rival['score'])}") for rival in _headline(report)]
    failed = f", {tried['failed']} failed" if tried["failed"] else ""
    entries.append(("pipelines tried", str(tried["tried"]), f"{len(jobs)} jobs{failed}; {len(report['learners'])} learners"))
    entries.append(("CPU", f"{seconds:.0f} s", f"{clock:.0f} s of wall clock on {rows['train'] + rows['validation']} rows"))
    judged = report["validation"]
    way = "a holdout" if judged["kind"] == "holdout" else f"{judged['folds']} folds ({judged['kind']})"
    return (
        f"<header><p class='crumb'>ATLAS · search · {escape(report['scenario'])}</p><h1>{escape(title)}</h1>"
        f"<p class='models'>{escape(str(report['problem']))}, judged by {escape(way)}</p>{tiles(entries)}</header>"
    )


def _headline(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return at most three rivals for the tiles: what serves or is the user's own goes before what is only a yardstick."""
    wanted = ("the serving model", "your own pipeline", "the best single pipeline", "a constant answer", "the first pipeline")
    found = {rival["name"]: rival for rival in report["against"] if rival["score"] is not None}
    return [found[name] for name in wanted if name in found][:3] if report["score"] is not None else []


def _against(report: Mapping[str, Any]) -> str:
    if report["score"] is None or not report["against"]:
        return ""
    lines = []
    for rival in report["against"]:
        gain = _signed(report, rival)
        css = "gain" if gain > 0 else "loss" if gain < 0 else ""
        who = f"{escape(rival['name'])}" + (f" <i>{escape(rival['learner'])}</i>" if rival["learner"] else "")
        figures = f"<td class='n'>{number(rival['score'])}</td><td class='n {css}'>{_gain(report, rival)}</td>"
        lines.append(f"<tr><td>{who}</td>{figures}</tr>")
    head = f"<tr><th>compared with</th><th class='n'>{escape(report['metric'])}</th><th class='n'>better by</th></tr>"
    return f"<table class='narrow'>{head}{''.join(lines)}</table>"


def _signed(report: Mapping[str, Any], rival: Mapping[str, Any]) -> float:
    gain = float(report["score"] - rival["score"])
    return gain if report["higher_is_better"] else -gain


def _gain(report: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    gain = _signed(report, rival)
    return f"{gain:+.3g}" if gain else "0"


def _notes(report: Mapping[str, Any]) -> str:
    warned = "".join(f"<p class='warn'>{escape(text)}</p>" for text in report["warnings"])
    told = "".join(f"<li>{escape(text)}</li>" for text in report["notes"])
    return warned + (f"<ul class='notes'>{told}</ul>" if told else "")


def _ensemble(report: Mapping[str, Any], paint: Mapping[str, str]) -> str:
    members = report["ensemble"]["members"]
    parts = [(f"{m['learner']} {m['identity']}: {m['weight']:.3g}", m["weight"], paint[m["learner"]]) for m in members]
    drawn = shares(parts) if len(parts) > 1 else ""
    lines = []
    for m in members:
        source = "taken over unchanged" if m["inherited"] else "fitted now"
        figures = (f"{100 * m['weight']:.0f} %", number(m["score"]), number(m["size_mb"]), number(m["us_per_row"]))
        name = f"{swatch(paint[m['learner']])}{escape(m['learner'])} <code>{escape(m['identity'].split(':')[-1][:8])}</code>"
        lines.append(f"<tr><td>{name} <i>{source}</i></td>{cells(figures)}</tr>")
    heads = ("weight", f"{report['metric']} alone", "MB", "µs a row")
    head = "<tr><th>member</th>" + "".join(f"<th class='n'>{escape(name)}</th>" for name in heads) + "</tr>"
    limits = "; ".join(_limit(entry) for entry in report["limits"])
    table = f"{drawn}<table>{head}{''.join(lines)}</table>" + (f"<p class='quiet'>Limits: {escape(limits)}.</p>" if limits else "")
    path = report["ensemble"]["path"]
    if len(path) < 2:
        return table
    steps = [(index + 1.0, step["score"]) for index, step in enumerate(path)]
    points = [Point(x, y, paint[step["learner"]], f"+ {step['learner']}: {y:.6g}") for (x, y), step in zip(steps, path, strict=True)]
    values = [y for _, y in steps]
    pad = (max(values) - min(values)) * 0.08
    curve = Curve(steps, "the ensemble")
    plot = xy(points, [curve], x="pipelines added, one may be added again", y=report["metric"], span=(min(values) - pad, max(values) + pad))
    caption = "<figcaption>How it was chosen: each step adds what helps most</figcaption>"
    return f"<div class='columns'><div>{table}</div><figure>{caption}{plot}</figure></div>"


def _limit(entry: Mapping[str, Any]) -> str:
    most = "" if entry["limit"] is None else f" of {number(entry['limit'])}"
    return f"{entry['name']} {number(entry['used'])}{most} {entry['unit']}".strip()


def _history(report: Mapping[str, Any], jobs: Sequence[Mapping[str, float]], paint: Mapping[str, str]) -> str:
    trials, rungs = report["trials"], report["rungs"]
    reached = max((t["rung"] for t in trials if t["value"] is not None), default=0)
    span = _span(report, [t["value"] for t in trials if t["value"] is not None])
    plots = []
    for caption, axis, places in (
        ("Job by job", "job", [float(t["number"]) for t in trials]),
        ("Second by second", "seconds of the search", [job["clock"] for job in jobs]),
    ):
        points = [
            Point(x, t["value"], paint[t["learner"]], _title(t, rungs), t["rung"] == reached) for x, t in zip(places, trials, strict=True)
        ]
        done = sorted((x, t["value"]) for x, t in zip(places, trials, strict=True) if t["value"] is not None and t["rung"] == reached)
        best, so_far = [], None
        for x, value in done:
            if so_far is None or (value > so_far if report["higher_is_better"] else value < so_far):
                so_far = value
                best.append((x, value))
        curves = [Curve(best, "the best so far")] if best else []
        if report["score"] is not None and places:
            curves.insert(0, Curve([(min(places), report["score"])], f"the ensemble: {number(report['score'])}", dashed=True))
        plot = xy(points, curves, x=axis, y=report["metric"], span=span)
        plots.append(f"<figure><figcaption>{caption}</figcaption>{plot}</figure>")
    legend = "".join(f"{swatch(paint[name])}{escape(name)}" for name in sorted({t["learner"] for t in trials}))
    how = f"filled: judged on {rungs[reached]}" + (f"; hollow: on {', then '.join(rungs[:reached])}" if reached else "")
    note = f"{how}; line: the best so far; dashed: the ensemble; ×: failed. Values beyond the axis are drawn at its edge."
    return f"<p class='legend'>{legend}</p><div class='columns'>{''.join(plots)}</div><p class='quiet'>{escape(note)}</p>"


def _title(trial: Mapping[str, Any], rungs: Sequence[str]) -> str:
    value = number(trial["value"]) if trial["value"] is not None else str(trial["figures"].get("error", "failed"))
    return f"{trial['number']}: {trial['learner']} from {trial['origin']}, {rungs[trial['rung']]}: {value}"


def _span(report: Mapping[str, Any], values: Sequence[float]) -> tuple[float, float]:
    """Return what an axis shows: the best values and most of the others."""
    ordered = sorted(values, reverse=report["higher_is_better"])
    seen = ordered[: math.ceil(_IN_VIEW * len(ordered))] + ([report["score"]] if report["score"] is not None else [])
    if not seen:
        return 0.0, 1.0
    pad = 0.06 * (max(seen) - min(seen) or abs(max(seen)) or 1.0)
    return min(seen) - pad, max(seen) + pad


def _learners(report: Mapping[str, Any], jobs: Sequence[Mapping[str, float]], paint: Mapping[str, str]) -> str:
    lines = []
    for group in report["learners"]:
        seconds = math.fsum(job["seconds"] for t, job in zip(report["trials"], jobs, strict=True) if t["learner"] == group["name"])
        figures = [number(group["best"]), number(group["median"]), group["pipelines"], group["failed"], f"{seconds:.1f}"]
        figures += [group["climbed"], f"{100 * group['weight']:.0f} %"]
        lines.append(f"<tr><td>{swatch(paint[group['name']])}{escape(group['name'])}</td>{cells(figures)}</tr>")
    last, first = report["rungs"][-1], report["rungs"][0]
    heads = (f"best, {last}", f"median, {first}", "pipelines", "failed", "CPU s", f"reached {last}", "of the ensemble")
    head = "<tr><th>learner</th>" + "".join(f"<th class='n'>{escape(text)}</th>" for text in heads) + "</tr>"
    return f"<table>{head}{''.join(lines)}</table>"


def _importance(report: Mapping[str, Any], paint: Mapping[str, str]) -> str:
    order, parts = [group["name"] for group in report["learners"]], []
    for found in sorted(report["importance"], key=lambda found: order.index(found["learner"])):
        longest = max(share for _, share in found["shares"]) or 1.0
        ranked = found["method"] == "rank correlation"
        bars = "".join(
            f"<tr><td>{escape(label(name))}</td><td class='wide'>{bar(share / longest, paint[found['learner']])}</td>"
            f"<td class='n'>{f'{share:.2f}' if ranked else f'{100 * share:.0f} %'}</td></tr>"
            for name, share in found["shares"][:10]
        )
        caption = f"{escape(found['learner'])}: {found['pipelines']} pipelines, {escape(found['method'])}"
        parts.append(f"<figure><figcaption>{caption}</figcaption><table>{bars}</table></figure>")
    note = (
        "ped-anova: what sets the best pipelines apart from the rest, in shares of 100 %; rank correlation (few pipelines): how closely "
        "the option and the value go together, 0 to 1."
    )
    return f"<div class='columns'>{''.join(parts)}</div><p class='quiet'>{note}</p>" if parts else ""


def _parallel(report: Mapping[str, Any]) -> str:
    name = report["learners"][0]["name"] if report["learners"] else ""
    own = [t for t in report["trials"] if t["learner"] == name and t["rung"] == 0 and t["value"] is not None]
    own.sort(key=lambda t: (t["value"], -t["number"]) if report["higher_is_better"] else (-t["value"], -t["number"]))
    options = varied(own)
    if len(own) < _LEAST or len(options) < 2:
        return ""
    weight = next((dict(map(tuple, found["shares"])) for found in report["importance"] if found["learner"] == name), {})
    options = sorted(options, key=lambda option: -weight.get(option.name, 0.0))[:10]
    places = [option.places() for option in options]
    lines = [
        ([place[index] for place in places], shade(index / (len(own) - 1)), f"{t['number']} from {t['origin']}: {number(t['value'])}")
        for index, t in enumerate(own)
    ]
    axes = [(label(option.name), _end(option.ends[0]), _end(option.ends[1])) for option in options]
    note = f"One line a pipeline of {escape(name)}, judged on {escape(report['rungs'][0])}; yellow is best, violet worst."
    return f"<div class='scroll'>{parallel(axes, lines)}</div><p class='quiet'>{note}</p>"


def _end(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 12 else text[:11] + "…"


def _folds(report: Mapping[str, Any], paint: Mapping[str, str]) -> str:
    complete = [t for t in report["trials"] if t["rung"] == len(report["rungs"]) - 1 and len(t["figures"].get("folds", [])) > 1]
    complete = [t for t in complete if t["value"] is not None and None not in t["figures"]["folds"]]
    complete.sort(key=lambda t: -t["value"] if report["higher_is_better"] else t["value"])
    if not complete:
        return ""
    lines, best = [], complete[0]["figures"]["folds"]
    for trial in complete[:_SHOWN]:
        folds = trial["figures"]["folds"]
        gaps = [own - first for own, first in zip(folds, best, strict=True)]
        text = (
            f"{statistics.fmean(gaps):+.2g} ± {statistics.stdev(gaps) / math.sqrt(len(gaps)):.2g}" if trial is not complete[0] else "best"
        )
        lines.append((f"{trial['number']} {trial['learner']}"[:24], folds, paint[trial["learner"]], text))
    note = "A dot is a fold, the bar the mean; right: the gap to the best pipeline with its standard error, fold by fold."
    return f"{strips(lines)}<p class='quiet'>{note} A gap within two standard errors may be luck.</p>"


def _origins(report: Mapping[str, Any]) -> str:
    lines = []
    for group in report["origins"]:
        figures = [group["pipelines"], group["climbed"], number(group["best"]), f"{100 * group['weight']:.0f} %"]
        lines.append(f"<tr><td>{escape(_ORIGINS.get(group['name'], 'the sampler ' + group['name']))}</td>{cells(figures)}</tr>")
    if kept := [m for m in report["ensemble"]["members"] if m["inherited"]]:
        best = [m["score"] for m in kept if m["score"] is not None]
        top = number((max if report["higher_is_better"] else min)(best)) if best else number(None)
        figures = [len(kept), len(kept), top, f"{100 * math.fsum(m['weight'] for m in kept):.0f} %"]
        lines.append(f"<tr><td>the serving model's members, unchanged</td>{cells(figures)}</tr>")
    heads = ("pipelines", f"reached {report['rungs'][-1]}", f"best {report['metric']}", "of the ensemble")
    head = "<tr><th>from</th>" + "".join(f"<th class='n'>{escape(text)}</th>" for text in heads) + "</tr>"
    brought = {group["name"] for group in report["origins"]} & {"champion", "replay"} or kept
    note = "" if brought else "<p class='quiet'>Nothing came from earlier searches.</p>"
    return f"<table>{head}{''.join(lines)}</table>{note}"
