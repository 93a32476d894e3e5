"""What pages of searches are made of, and the table of all pipelines of one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from components.automl.genesis.importance import varied

__all__ = ["cells", "document", "label", "number", "pipelines_table", "swatch", "tiles"]

_OWN_STYLE = Path(__file__).with_name("page.css")
_NONE = "—"
_LONGEST = 60


def document(title: str, header: str, sections: Sequence[tuple[str, str]], style: str = "") -> str:
    """Return a whole page with inline styles.

    Args:
        title: Plain text; everything else is HTML.
        header: What goes above the sections.
        sections: (heading, content); those without content are left out.
        style: CSS of this page alone.
    """
    body = "".join(f"<section><h2>{heading}</h2>{content}</section>" for heading, content in sections if content)
    style = (files("components.evaluate") / "page.css").read_text() + _OWN_STYLE.read_text() + style
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{header}<main>{body}</main></body></html>\n"
    )


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """Return the tiles of a header; each is plain text: (name, figure, what to know about it)."""
    shown = "".join(f"<div class='tile'><span>{escape(a)}</span><b>{escape(b)}</b><i>{escape(c)}</i></div>" for a, b, c in entries)
    return f"<div class='tiles'>{shown}</div>"


def cells(values: Sequence[Any]) -> str:
    """Return cells of numbers in a table's row."""
    return "".join(f"<td class='n'>{value}</td>" for value in values)


def number(value: float | None) -> str:
    """Return a number for people."""
    return _NONE if value is None else str(value) if isinstance(value, int) else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def label(name: str) -> str:
    """Return an option's name without its part."""
    return name.partition(".")[2]


def swatch(colour: str) -> str:
    """Return a small square of a colour."""
    return f"<span class='swatch' style='background:{colour}'></span>"


def pipelines_table(report: Mapping[str, Any], jobs: Sequence[Mapping[str, float]], paint: Mapping[str, str]) -> str:
    """Return every pipeline with its value at each rung, folded away; of its options, those that differ between pipelines."""
    rungs, own = report["rungs"], _pipelines(report, jobs)
    weights = {member["identity"]: member["weight"] for member in report["ensemble"]["members"]}
    options = {learner: {v.name for v in varied([t for t in report["trials"] if t["learner"] == learner])} for learner in paint}
    lines = []
    for identity, (trial, values, seconds, error) in own.items():
        weight = weights.get(identity)
        figures = [*(number(values.get(rung)) for rung in range(len(rungs))), f"{seconds:.1f}", number(weight)]
        said = (
            f"<b class='fail'>failed</b> {escape(error)}" if error else f"<code>{escape(_options(trial, options[trial['learner']]))}</code>"
        )
        lines.append(
            f"<tr{' class=member' if weight else ''}><td class='n'>{trial['number']}</td><td>{escape(trial['origin'])}</td>"
            f"<td>{swatch(paint[trial['learner']])}{escape(trial['learner'])}</td>"
            f"{cells(figures)}<td>{said}</td></tr>"
        )
    heads = [*(f"{report['metric']}, {rung}" for rung in rungs), "CPU s", "weight"]
    head = "<tr><th class='n'>job</th><th>from</th><th>learner</th>" + "".join(f"<th class='n'>{escape(text)}</th>" for text in heads)
    table = f"<div class='scroll'><table>{head}<th>options that differ</th></tr>{''.join(lines)}</table></div>"
    return f"<details><summary>{len(own)} pipelines, in the order they were started</summary>{table}</details>"


def _pipelines(
    report: Mapping[str, Any], jobs: Sequence[Mapping[str, float]]
) -> dict[str, tuple[Mapping[str, Any], dict[int, float], float, str]]:
    """Return identity -> (its first trial, rung -> value, CPU seconds, error)."""
    found: dict[str, tuple[Mapping[str, Any], dict[int, float], float, str]] = {}
    for trial, job in zip(report["trials"], jobs, strict=True):
        first, values, seconds, error = found.get(trial["identity"], (trial, {}, 0.0, ""))
        if trial["value"] is not None:
            values = {**values, trial["rung"]: trial["value"]}
        elif trial["state"] == "failed":
            error = str(trial["figures"].get("error", "no reason was noted"))
        found[trial["identity"]] = first, values, math.fsum((seconds, job["seconds"])), error
    return found


def _options(trial: Mapping[str, Any], names: set[str]) -> str:
    shown = []
    for name in sorted(names):
        value: Any = trial
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        text = value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        shown.append(f"{label(name)} {text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}")
    return ", ".join(shown) or "as its defaults"
