"""The search as one self-contained HTML page: history, importance, parallel coordinates, all trials. Plots are inline SVG."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.automl.genesis.space import SPACES, placed

__all__ = ["importance", "page"]

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}td.n{text-align:right}"
    "tr.best{background:#e8f4e8}svg{max-width:100%;height:auto}code{font-size:12px}"
)
_COLOURS = {"crnn": "#4063d8", "lightgbm": "#389826", "logistic": "#9558b2", "mlp": "#cb3c33"}


def page(report: Mapping[str, Any], seconds: Sequence[float]) -> str:
    """Render a report.

    Args:
        report: What `report.json` holds.
        seconds: How long each trial took.
    """
    trials, best = report["trials"], report["best"]
    winner = trials[best]
    title = f"Genesis: {report['scenario']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(trials)} trials in {sum(seconds):.1f} s on {report['rows']['train']} training rows; judged by "
        f"<b>{report['metric']}</b> on {report['rows']['validation']} validation rows. Best: trial {best}, "
        f"<b>{winner['learner']}</b>, {_short(winner['value'])}.</p>",
        "<h2>History</h2>",
        _history(report),
        "<h2>What mattered</h2>",
        _importance_plot(report),
        "<h2>Configurations of the best learner</h2>",
        _parallel(report),
        "<h2>Trials</h2>",
        _table(report, seconds),
    ]
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'>{head}{''.join(parts)}</html>\n"


def importance(report: Mapping[str, Any]) -> dict[str, float]:
    """Return dimension -> absolute rank correlation with the value, among the best learner's trials; needs four of them."""
    trials = _of_best(report)
    if len(trials) < 4:
        return {}
    values = _ranks([trial["value"] for trial in trials])
    found = {}
    for name, coordinates in _coordinates(trials).items():
        ranks = _ranks(coordinates)
        if ranks.std() > 0 and values.std() > 0:
            found[name] = abs(float(np.corrcoef(ranks, values)[0, 1]))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def _history(report: Mapping[str, Any]) -> str:
    figure, axes = _axes(8, 3)
    best = np.maximum.accumulate if report["higher_is_better"] else np.minimum.accumulate
    worst = -np.inf if report["higher_is_better"] else np.inf
    values = [trial["value"] if trial["value"] is not None else worst for trial in report["trials"]]
    for name in dict.fromkeys(trial["learner"] for trial in report["trials"]):
        points = [(t["number"], t["value"]) for t in report["trials"] if t["learner"] == name and t["value"] is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), s=24, label=name, color=_COLOURS.get(name))
    so_far = best(np.asarray(values))
    shown = np.isfinite(so_far)
    axes.step(np.arange(len(values))[shown], so_far[shown], where="post", color="#888", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(report["metric"])
    axes.legend(frameon=False)
    return _svg(figure)


def _importance_plot(report: Mapping[str, Any]) -> str:
    found = importance(report)
    if not found:
        return "<p>Too few trials of the best learner to tell.</p>"
    figure, axes = _axes(8, 0.35 * len(found) + 0.8)
    names = list(found)[::-1]
    axes.barh([_label(name) for name in names], [found[name] for name in names], color="#4063d8")
    axes.set_xlabel("absolute rank correlation with the value")
    axes.set_xlim(0, 1)
    return _svg(figure)


def _parallel(report: Mapping[str, Any]) -> str:
    trials = _of_best(report)
    coordinates = _coordinates(trials)
    if len(trials) < 2 or not coordinates:
        return "<p>Too few trials of the best learner to compare.</p>"
    from matplotlib import colormaps

    figure, axes = _axes(10, 3.6)
    values = _ranks([trial["value"] for trial in trials])
    values = values if report["higher_is_better"] else -values
    span = values.max() - values.min()
    for index in np.argsort(values, kind="stable"):
        shade = (values[index] - values.min()) / span if span else 0.5
        line = [coordinates[name][index] for name in coordinates]
        axes.plot(range(len(line)), line, color=colormaps["viridis"](float(shade)), alpha=0.8)
    axes.set_xticks(range(len(coordinates)), [_label(name) for name in coordinates], rotation=30, ha="right")
    axes.set_yticks([0, 1], ["low", "high"])
    return _svg(figure) + "<p>One line a trial; yellow is best, violet worst.</p>"


def _table(report: Mapping[str, Any], seconds: Sequence[float]) -> str:
    rows = []
    for trial, took in zip(report["trials"], seconds, strict=True):
        space = SPACES.get(trial["learner"], {})
        tried = {key: trial[part][key] for part, dimensions in space.items() for key in dimensions if key in trial[part]}
        code = html.escape(json.dumps(tried))
        mark = " class='best'" if trial["number"] == report["best"] else ""
        rows.append(
            f"<tr{mark}><td class='n'>{trial['number']}</td><td>{trial['origin']}</td><td>{trial['learner']}</td><td>{trial['state']}</td>"
            f"<td class='n'>{_short(trial['value'])}</td><td class='n'>{took:.1f}</td><td><code>{code}</code></td></tr>"
        )
    head = "<tr><th>trial<th>from<th>learner<th>state<th>value<th>seconds<th>configuration</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _of_best(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    name = report["trials"][report["best"]]["learner"]
    return [trial for trial in report["trials"] if trial["learner"] == name and trial["value"] is not None]


def _coordinates(trials: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return dimension -> each trial's place in it, 0 to 1; dimensions that never varied are left out."""
    found: dict[str, list[float]] = {}
    for part, dimensions in SPACES.get(trials[0]["learner"], {}).items() if trials else ():
        for key, dimension in dimensions.items():
            if all(key in trial[part] for trial in trials):
                places = [placed(dimension, trial[part][key]) for trial in trials]
                if (most := max(places)) > min(places):
                    found[f"{part}.{key}"] = [place / max(most, 1.0) for place in places]
    return found


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return average ranks: equal values share one."""
    array = np.asarray(values, dtype=np.float64)
    return np.asarray([(np.sum(array < v) + np.sum(array <= v) - 1) / 2 for v in array], dtype=np.float64)


def _label(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
