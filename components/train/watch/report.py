"""After a job: one page that says where its time went and what to change; self-contained HTML, no script, no network."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path

from components.train.watch.drawing import area, legend, lines, shares
from components.train.watch.monitor import Watched
from components.train.watch.preflight import Preflight

__all__ = ["page", "write_report"]

WAIT, STEP, REST = "#d9752b", "#0f6fc5", "#9aa5b5"
_PARTS = ("#2a9d6f", "#b0479a", "#c8a415", "#7a5cc7", "#4aa3b8", "#7f6a55")
_STYLE = Path(__file__).with_name("page.css")


def write_report(folder: Path, watched: Watched, preflight: Preflight | None = None, *, title: str) -> Path:
    """Write `watch.html` and, beside it, `watch.json`; return the page's path. Both hold clocks: they belong below `observed/`.

    Args:
        folder: Made when it is not there.
        watched: From the monitor.
        preflight: Of the same job; None: none was made.
        title: Of the job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = {"title": title, "watched": json.loads(watched.to_json()), "preflight": json.loads(preflight.to_json()) if preflight else None}
    (folder / "watch.json").write_text(json.dumps(told, indent=1))
    path = folder / "watch.html"
    path.write_text(page(watched, preflight, title=title))
    return path


def page(watched: Watched, preflight: Preflight | None = None, *, title: str) -> str:
    """Return the page; the arguments are as in `write_report`."""
    sections = [
        ("Where the time went", _shares(watched)),
        ("Over time", _timeline(watched)),
        ("What to change", _advice(watched, preflight)),
        ("Predicted and seen", _compared(watched, preflight)),
        ("Warnings", _warnings(watched)),
        ("Devices", _devices(watched)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    style = (files("components.evaluate") / "page.css").read_text() + _STYLE.read_text()
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}: device watch</title><style>{style}</style></head><body>"
        f"{_header(watched, title)}<main>{body}</main></body></html>\n"
    )


def _header(watched: Watched, title: str) -> str:
    kind, why = watched.counters
    tiles = [
        ("waited for data", f"{watched.stall_share:.1%}", "of the loop's time"),
        ("steps", f"{watched.steps}", f"{watched.steps_per_s:.3g} a second"),
        ("wall clock", _seconds(watched.wall_s), f"of it {_seconds(watched.wait_s + watched.step_s)} in the loop"),
        ("warnings", str(len(watched.warned)), f"counters: {kind}, {why}"),
    ]
    shown = "".join(f"<div class='tile'><span>{escape(a)}</span><b>{escape(b)}</b><i>{escape(c)}</i></div>" for a, b, c in tiles)
    verdict = "Mostly waiting for data" if watched.stall_share > 0.5 else "Data keep up" if watched.stall_share < 0.1 else "Data hold it up"
    crumb = f"<p class='crumb'>ATLAS · device watch · {escape(title)}</p>"
    return f"<header>{crumb}<h1>{escape(verdict)}</h1><div class='tiles'>{shown}</div></header>"


def _shares(watched: Watched) -> str:
    rest = max(0.0, watched.wall_s - watched.wait_s - watched.step_s - sum(watched.parts_s.values()))
    parts = [("waiting for data", watched.wait_s, WAIT), ("steps", watched.step_s, STEP)]
    parts += [(name, seconds, _PARTS[number % len(_PARTS)]) for number, (name, seconds) in enumerate(sorted(watched.parts_s.items()))]
    parts.append(("outside the loop", rest, REST))
    total = sum(seconds for _, seconds, _ in parts) or 1.0
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class='n'>{_seconds(seconds)}</td><td class='n'>{seconds / total:.1%}</td></tr>"
        for name, seconds, _ in parts
    )
    head = "<tr><th>part</th><th class='n'>time</th><th class='n'>share</th></tr>"
    return f"{legend([(name, colour) for name, _, colour in parts])}{shares(parts)}<table class='narrow'>{head}{rows}</table>"


def _timeline(watched: Watched) -> str:
    drawn = []
    bins = [part for part in watched.timeline if part.wait_s + part.step_s > 0]
    if bins:
        stalls = [(part.start_s, part.start_s + part.length_s, part.wait_s / (part.wait_s + part.step_s)) for part in bins]
        drawn.append(_figure("Share of time spent waiting for data", area(stalls, watched.wall_s, WAIT, "waiting")))
        speed = [(part.start_s + part.length_s, part.steps / (part.wait_s + part.step_s)) for part in bins]
        drawn.append(_figure("Steps a second", lines([("loop", STEP, speed)], watched.wall_s, "steps a second")))
    devices = _series(watched)
    for caption, unit, number in (("Utilisation", "%", 0), ("Memory", "GiB", 1)):
        curves = [(name, _PARTS[at % len(_PARTS)], series[number]) for at, (name, series) in enumerate(devices) if series[number]]
        if curves:
            drawn.append(_figure(f"{caption}, {unit}", legend([curve[:2] for curve in curves]) + lines(curves, watched.wall_s, unit)))
    return f"<div class='columns'>{''.join(drawn)}</div>" if drawn else ""


def _series(watched: Watched) -> list[tuple[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]]]:
    """Return each device's name, its utilisation in per cent and its memory in GiB over time."""
    names = [reading.device for reading in watched.samples[0].readings] if watched.samples else []
    found = []
    for number, name in enumerate(names):
        seen = [(sample.at_s, sample.readings[number]) for sample in watched.samples]
        busy = [(at, 100 * reading.utilisation) for at, reading in seen if reading.utilisation is not None]
        used = [(at, reading.memory_bytes / 2**30) for at, reading in seen if reading.memory_bytes is not None]
        found.append((name, (busy, used)))
    return found


def _advice(watched: Watched, preflight: Preflight | None) -> str:
    most = f"{1 / (1 - watched.stall_share):.2f} ×" if watched.stall_share < 1 else "without limit"
    told = f"<p>Had no step waited for data, the loop would have been {most} as fast: loading further ahead can gain no more.</p>"
    if preflight is None:
        return f"{told}<p class='quiet'>No preflight was made; it says how to gain it.</p>"
    if not preflight.advice:
        return f"{told}<p class='quiet'>The preflight found nothing to change.</p>"
    rows = "".join(
        f"<tr><td><code>{escape(said.rule)}</code></td><td>{escape(said.seen)} <i>{escape(said.why)}</i>"
        f"<div class='do'>{escape(said.do)}</div></td><td class='n'>{f'{said.gain:.2f} ×' if said.gain else 'not known'}</td></tr>"
        for said in preflight.advice
    )
    return f"{told}<table><tr><th>rule</th><th>seen before the start</th><th class='n'>predicted gain</th></tr>{rows}</table>"


def _compared(watched: Watched, preflight: Preflight | None) -> str:
    if preflight is None or not watched.steps:
        return ""
    rows = [("as it was arranged", preflight.now)]
    rows += [("with what the preflight would switch on", preflight.plan.then)] if preflight.plan.prefetch else []
    lines_ = [
        f"<tr><td>predicted, {name}</td><td class='n'>{p.stall_share:.1%}</td><td class='n'>{1e3 * p.iteration_s:.3g} ms</td></tr>"
        for name, p in rows
    ]
    seen = f"<tr><td>seen</td><td class='n'>{watched.stall_share:.1%}</td><td class='n'>{1e3 / watched.steps_per_s:.3g} ms</td></tr>"
    head = "<tr><th></th><th class='n'>waiting</th><th class='n'>iteration</th></tr>"
    return f"<p>{escape(preflight.plan.why)}</p><table class='narrow'>{head}{''.join(lines_)}{seen}</table>"


def _warnings(watched: Watched) -> str:
    return "".join(
        f"<p class='warn'><b>{_seconds(warned.at_s)}</b> {escape(warned.said)} Likely cause: {escape(warned.cause)}."
        f" What to do: {escape(warned.do)}.</p>"
        for warned in watched.warned
    )


def _devices(watched: Watched) -> str:
    rows = []
    for name, (busy, used) in _series(watched):
        mean = f"{sum(value for _, value in busy) / len(busy):.0f} %" if busy else "not told"
        peak = f"{max(value for _, value in used):.2f} GiB" if used else "not told"
        rows.append(f"<tr><td>{escape(name)}</td><td class='n'>{mean}</td><td class='n'>{peak}</td></tr>")
    head = "<tr><th>device</th><th class='n'>mean utilisation</th><th class='n'>most memory sampled</th></tr>"
    own = f"<p class='quiet'>The watch's own thread took {watched.own_s:.3g} s of processor time.</p>"
    return f"<table class='narrow'>{head}{''.join(rows)}</table>{own}" if rows else own


def _figure(caption: str, drawn: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawn}</figure>"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
