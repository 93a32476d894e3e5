"""The report as one page: self-contained HTML with inline styles, plots and images; no script, no network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from components.evaluate.plots import Mark, curves, forest, heatmap

__all__ = ["render"]

_STYLE = Path(__file__).with_name("page.css")
_NONE = "—"


def render(report: Mapping[str, Any], timed: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        report: `report.json`.
        timed: `latency.json`.
        rows: What to show of each of the report's examples: its `image`, or some of its features.
    """
    sections = [_rules(report), _metrics(report), _cases(report, rows), _slices(report), *_mistakes(report), _latency(timed)]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(report['scenario'])}: evaluation</title><style>{_STYLE.read_text()}</style></head><body>"
        f"{_header(report)}<main>{body}</main></body></html>"
    )


def _header(report: Mapping[str, Any]) -> str:
    accepted, metric = report["accepted"], report["metric"]
    after, before, gain = (report["metrics"]["judged"][metric][part] for part in ("challenger", "champion", "gain"))
    failed = [rule["name"] for rule in report["rules"] if not rule["passed"]]
    verdict = "Accepted" if accepted else f"Refused by: {', '.join(failed)}"
    tiles = [
        (f"{metric}, judged test rows", _big(after), f"was {_big(before)}, {_gain(gain)}" if before else "no model served before"),
        ("cases fixed", str(report["cases"]["fixed"]), f"{_of_split(report, 'holdout', 'fixed')} of them never trained on"),
        ("closed cases lost", str(report["cases"]["lost"]), f"{report['rows']['cases']} cases in the data"),
        ("judged on", f"{report['rows']['judged']} rows", f"{report['rows']['groups']} groups, {100 * report['confidence']:g} % intervals"),
    ]
    shown = "".join(f"<div class='tile'><span>{escape(a)}</span><b>{escape(b)}</b><i>{escape(c)}</i></div>" for a, b, c in tiles)
    models = " · ".join(f"{name} <code>{escape((ref or 'none').split('/')[-1][:12])}</code>" for name, ref in report["models"].items())
    return (
        f"<header class='{'good' if accepted else 'bad'}'><p class='crumb'>ATLAS · evaluation · {escape(report['scenario'])}</p>"
        f"<h1>{escape(verdict)}</h1><p class='models'>{models}</p><div class='tiles'>{shown}</div></header>"
    )


def _of_split(report: Mapping[str, Any], split: str, key: str) -> int:
    return sum(line.get(key, 0) for line in report["cases"]["matrix"] if line["split"] == split)


def _rules(report: Mapping[str, Any]) -> tuple[str, str]:
    lines = []
    for rule in report["rules"]:
        said, _, do = rule["detail"].partition(" -> ")
        advice = f"<div class='do'>What to do: {escape(do)}</div>" if do else ""
        interval = f"{_number(rule['low'])} … {_number(rule['high'])}" if rule["low"] is not None else _NONE
        mark = "<b class='pass'>passed</b>" if rule["passed"] else "<b class='fail'>refused</b>"
        lines.append(
            f"<tr><td>{mark}</td><td><code>{escape(rule['name'])}</code></td><td>{escape(said)}{advice}</td>"
            f"<td class='n'>{_number(rule['value'])}</td><td class='n'>{interval}</td><td class='n'>{_number(rule['limit'])}</td></tr>"
        )
    head = "<tr><th></th><th>rule</th><th>verdict</th><th class='n'>value</th><th class='n'>interval</th><th class='n'>limit</th></tr>"
    return "The gate", f"<table>{head}{''.join(lines)}</table>"


def _metrics(report: Mapping[str, Any]) -> tuple[str, str]:
    parts = []
    captions = {
        "judged": "Judged rows: the test split without the cases of this run",
        "test": "The whole test split",
        "holdout": "Case holdout: cases that never train",
    }
    for name, caption in captions.items():
        figures = {metric: f for metric, f in report["metrics"][name].items() if f["challenger"][0] is not None}
        if not figures or (name == "test" and report["metrics"]["test"] == report["metrics"]["judged"]):
            continue
        lines = []
        for metric, f in figures.items():
            old = f["champion"] if f["champion"] and f["champion"][0] is not None else None
            marks = [_mark(f["challenger"], "after"), *([_mark(old, "before")] if old else [])]
            better = " ↓" if metric in report["lower_is_better"] else ""
            lines.append((metric + better, marks, _change(f["champion"], f["challenger"])))
        parts.append(f"<figure><figcaption>{caption}</figcaption>{forest(lines)}</figure>")
    return "Before and after", f"{_legend(report['models']['champion'] is not None)}<div class='columns'>{''.join(parts)}</div>"


def _cases(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    lines = []
    for line in report["cases"]["matrix"]:
        cells = [line["rows"], line.get("right_before", _NONE), line["right_after"], line.get("fixed", _NONE), line.get("lost", _NONE)]
        note = " <i>never trained on</i>" if line["split"] in ("test", "holdout") else ""
        lines.append(f"<tr><td>{line['split']}{note}</td>" + "".join(f"<td class='n'>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("cases", "right before", "right after", "fixed", "lost")
    head = "<tr><th>split</th>" + "".join(f"<th class='n'>{name}</th>" for name in heads) + "</tr>"
    table = f"<table class='narrow'>{head}{''.join(lines)}</table>" if lines else "<p class='quiet'>The data hold no case yet.</p>"
    shown = [_example(example, row) for example, row in zip(report["examples"], rows, strict=True)]
    return "Cases", table + (f"<div class='cards'>{''.join(shown)}</div>" if shown else "")


def _example(example: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if "image" in row:
        media = "png" if row["image"].startswith(b"\x89PNG") else "jpeg"
        picture = f"<img alt='row {example['row']}' src='data:image/{media};base64,{base64.b64encode(row['image']).decode()}'>"
    else:
        facts = (f"{escape(name)} {_NONE if value is None else _said(value)}" for name, value in row.items())
        picture = f"<p class='facts'>{'<br>'.join(facts)}</p>"
    said = [
        f"<dt>{name}</dt><dd class='{'ok' if answer['right'] else 'no'}'>{_said(answer['label'])}"
        + (f" <i>{100 * answer['confidence']:.0f} %</i></dd>" if answer["confidence"] is not None else "</dd>")
        for name, answer in (("before", example["before"]), ("after", example["after"]))
        if answer is not None
    ]
    css = example["kind"].replace(" ", "-")
    where = f"case {example['case'][:8]}, {example['split']}" if example["case"] else example["split"]
    return (
        f"<div class='card {css}'><p><b>{example['kind']}</b> <i>{escape(where)}</i></p>{picture}"
        f"<dl><dt>truth</dt><dd>{_said(example['truth'])}</dd>{''.join(said)}</dl></div>"
    )


def _said(label: Any) -> str:
    return (escape(label) or "nothing") if isinstance(label, str) else _number(label)


def _slices(report: Mapping[str, Any]) -> tuple[str, str]:
    metric = report["metric"]
    limit = next((rule["limit"] for rule in report["rules"] if rule["name"] == "slices"), None)
    parts = []
    for column in dict.fromkeys(s["column"] for s in report["slices"]):
        these = [s for s in report["slices"] if s["column"] == column and s["challenger"] is not None]
        gains = [(s, s["gain"]) for s in these if s["gain"] and s["gain"][0] is not None]
        caption = escape(column.removeprefix("_"))
        if gains:
            lines = [(f"{s['value']} ({s['rows']})", [_mark(g, _tone(g))], _change(s["champion"], s["challenger"])) for s, g in gains]
            plot = forest(lines, zero=True, limit=None if limit is None else -limit)
            parts.append(f"<figure><figcaption>{caption}: gain in {metric}</figcaption>{plot}</figure>")
        elif these:
            lines = [(f"{s['value']} ({s['rows']})", [Mark(s["challenger"], None, None, "after")], _big(s["challenger"])) for s in these]
            parts.append(f"<figure><figcaption>{caption}: {metric}</figcaption>{forest(lines)}</figure>")
    note = "<p class='quiet'>Rows in brackets; the dashed line is the loss allowed; intervals are corrected for the number of slices.</p>"
    return "Slices", f"{note}<div class='columns'>{''.join(parts)}</div>" if parts else ""


def _mistakes(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    after, before = report["figures"]["challenger"], report["figures"].get("champion")
    found = []
    if confusion := after.get("confusion"):
        old = before["confusion"] if before else None
        content = heatmap(confusion["labels"], confusion["matrix"], before=old["matrix"] if old else None) if confusion["matrix"] else ""
        lines = report["task"] == "text_line"
        title = "Characters mistaken, test split and case holdout" if lines else "Classes mistaken, judged rows"
        found.append((title, f"<div class='pair'>{content}{_worst(confusion, old)}</div>"))
    if after.get("calibration"):
        plots = [_curves(after, before, "calibration", "predicted", "observed", "predicted probability", "observed share")]
        if after["roc"]:
            plots.append(_curves(after, before, "roc", "fpr", "tpr", "false positive rate", "true positive rate"))
        found.append(("Calibration and ROC", f"<div class='pair'>{''.join(plots)}</div>"))
    if scatter := after.get("scatter"):
        values = [x for pair in scatter for x in pair]
        low, span = min(values, default=0), (max(values, default=1) - min(values, default=0)) or 1
        points = [tuple((x - low) / span for x in pair) for pair in scatter]
        dots = "".join(f"<circle class='dot after' cx='{44 + 250 * x:.1f}' cy='{12 + 250 * (1 - y):.1f}' r='2.6'/>" for x, y in points)
        plot = curves([], x=f"truth ({low:.3g} … {low + span:.3g})", y="predicted").replace("</svg>", f"{dots}</svg>")
        found.append(("Truth and prediction", f"<div class='pair'><figure>{plot}</figure></div>"))
    return found


def _curves(after: Mapping[str, Any], before: Mapping[str, Any] | None, key: str, x: str, y: str, x_name: str, y_name: str) -> str:
    points: Callable[[Mapping[str, Any]], list[tuple[float, float]]] = lambda figures: [(p[x], p[y]) for p in figures[key]]  # noqa: E731
    series = [("before", points(before), "before")] if before and before.get(key) else []
    return f"<figure>{curves([*series, ('after', points(after), 'after')], x=x_name, y=y_name)}</figure>"


def _worst(confusion: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    was = {(w["truth"], w["said"]): w["count"] for w in old["worst"]} if old else {}
    lines = []
    for w in confusion["worst"][:10]:
        count = was.get((w["truth"], w["said"]), 0) if old else _NONE
        pair = f"{escape(w['truth'])} read as {escape(w['said'])}"
        lines.append(f"<tr><td>{pair}</td><td class='n'>{count}</td><td class='n'>{w['count']}</td></tr>")
    head = "<tr><th>most frequent</th><th class='n'>before</th><th class='n'>after</th></tr>"
    return f"<table class='narrow'>{head}{''.join(lines)}</table>" if lines else "<p class='quiet'>No mistake.</p>"


def _latency(timed: Mapping[str, Any]) -> tuple[str, str]:
    lines = []
    for name in ("champion", "challenger"):
        if name in timed:
            cells = (f"{timed[name]['p50_ms']:.3f}", f"{timed[name]['p99_ms']:.3f}", f"{timed['limit_ms']:g}")
            lines.append(f"<tr><td>{name}</td>" + "".join(f"<td class='n'>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>model</th><th class='n'>p50, ms</th><th class='n'>p99, ms</th><th class='n'>limit of p99</th></tr>"
    note = "<p class='quiet'>One item at batch 1, in process, on the machine that evaluated; outside the digest.</p>"
    return "Latency", f"<table class='narrow'>{head}{''.join(lines)}</table>{note}"


def _mark(three: Sequence[float | None], tone: str) -> Mark:
    return Mark(three[0] or 0.0, three[1], three[2], tone)


def _tone(gain: Sequence[float | None]) -> str:
    low, high = gain[1], gain[2]
    return "good" if low is not None and low > 0 else "bad" if high is not None and high < 0 else "flat"


def _legend(both: bool) -> str:
    before = "<span class='key before'></span>before (champion)" if both else ""
    return f"<p class='legend'>{before}<span class='key after'></span>after (challenger) · ↓ lower is better</p>"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4g}"


def _change(before: Any, after: Any) -> str:
    return _big(after) if before is None else f"{_big(before)} → {_big(after)}"


def _big(three: Any) -> str:
    value = three[0] if isinstance(three, list) else three
    return _NONE if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def _gain(gain: Sequence[float | None] | None) -> str:
    if gain is None or gain[0] is None:
        return "gain undefined"
    return f"gain {gain[0]:+.3f}" + (f" ({gain[1]:+.3f} … {gain[2]:+.3f})" if gain[1] is not None and gain[2] is not None else "")
