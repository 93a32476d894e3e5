"""evaluate: load both models, let them answer the same rows, judge, and write the blessing and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.core.artifacts import MANIFEST, OBSERVED, canonical
from components.core.contract import Context
from components.core.errors import ConfigError, DataError, nearest
from components.core.params import TextLine
from components.evaluate import latency, page
from components.evaluate.compare import Comparison, Resampling
from components.evaluate.gate import Facts, Slice, judge
from components.evaluate.report import metrics_json, report
from components.evaluate.rows import Rows, evaluated, evaluation_set, read_table
from components.evaluate.slices import slice_names, slice_rows
from components.evaluate.spec import Gate, Params
from components.model import Answer, Predictor, load

__all__ = ["run"]

_LATENCY_ROWS = 64
_FACTS = 5


def run(ctx: Context, params: Params) -> None:
    """Judge the challenger; see `components.evaluate.spec`.

    Raises:
        DataError: The dataset holds no row, or the champion can't read its rows.
        ConfigError: A slice names an unknown column, or a guard an unknown metric.
    """
    snapshot = json.loads((ctx.path("snapshot") / "snapshot.json").read_text())
    table = read_table(ctx.path("dataset"))
    if not table.num_rows:
        raise DataError("the dataset has no row", do="give the scenario base annotations, or label cases")
    columns = [name for name in table.column_names if not name.startswith("_") and name != "image"]
    names = slice_names(params.task, params.slices, columns)
    unsettled = [case for case, state in snapshot["states"].items() if state != "closed"]  # an earlier try may have merged them
    rows = evaluated(table, [*snapshot["claimed"], *unsettled])
    baseline: str | None = snapshot["champion"]["model"] if snapshot["champion"] else None
    challenger, champion = load(ctx.path("model")), load(ctx.open(baseline)) if baseline else None

    compared = Comparison(
        task=params.task,
        rows=rows,
        challenger=challenger.predict_table(rows.table),
        champion=_champion_answers(champion, rows, baseline) if champion and baseline else None,
        closed=frozenset(case for case, state in snapshot["states"].items() if state == "closed"),
        resampling=Resampling(params.bootstrap, params.confidence, params.seed),
    )
    slices = slice_rows(names, rows, np.flatnonzero(compared.fair), params.confidence, compared.gain)
    sample = _sample(table, rows, params)
    timings = {"challenger": latency.measure(challenger, sample)} | ({"champion": latency.measure(champion, sample)} if champion else {})
    facts = _facts(params.gate, compared, slices, timings["challenger"].p99_ms, _bytes(ctx.path("model")))
    verdicts = judge(params.gate, facts)

    models = {"challenger": ctx.inputs["model"].ref, "champion": baseline}
    blessing = {
        "accepted": all(verdict.passed for verdict in verdicts),
        "model": models["challenger"],
        "evaluation_set": evaluation_set(table),
        "baseline": baseline,
        "rules": [verdict.as_json() for verdict in verdicts],
        "cases": compared.cases(),
        "metrics": metrics_json(compared.verdict_figures),
    }
    timed = {name: timing.as_json() for name, timing in timings.items()} | {"limit_ms": params.gate.max_latency_ms}
    _write(ctx.out("blessing"), {"blessing.json": blessing, f"{OBSERVED}/latency.json": timed})
    ctx.note("blessing", **{key: blessing[key] for key in ("accepted", "model", "baseline", "evaluation_set")})

    written = report(compared, verdicts, slices, scenario=params.scenario, models=models)
    _write(ctx.out("report"), {"report.json": written, f"{OBSERVED}/latency.json": timed})
    looked_at = pa.array([example["row"] for example in written["examples"]], pa.int64())
    shown = rows.table.select(_shown(params)).take(looked_at).to_pylist()
    (ctx.out("report") / OBSERVED / "report.html").write_text(page.render(written, timed, shown), encoding="utf-8")
    ctx.note("report", accepted=blessing["accepted"], metrics=blessing["metrics"])


def _champion_answers(champion: Predictor, rows: Rows, baseline: str) -> Sequence[Answer]:
    try:
        return champion.predict_table(rows.table)
    except DataError as error:
        raise DataError(
            f"the champion {baseline} can't read these rows, so nothing can be compared: {error.message}",
            do="a task whose features changed is a new scenario: give it a new name",
        ) from error


def _facts(gate: Gate, compared: Comparison, slices: tuple[Slice, ...], p99_ms: float, size_bytes: int) -> Facts:
    task, rows = compared.task, compared.rows
    if unknown := sorted(set(gate.guards) - set(compared.verdict_figures)):
        raise ConfigError(f"evaluate.gate.guards names '{unknown[0]}'", do=nearest(unknown[0], compared.verdict_figures))
    figure = compared.verdict_figures[task.metric]
    mistakes, fixed = compared.holdout()
    return Facts(
        metric=task.metric,
        lower_is_better=not task.higher_is_better,
        rows=len(compared.judged),
        groups=len({rows.groups[i] for i in compared.judged}),
        score=figure.challenger,
        gain=figure.gain,
        guards={name: gain for name in gate.guards if (gain := compared.verdict_figures[name].gain) is not None},
        mistakes=mistakes,
        fixed=fixed,
        closed=len(compared.closed & {case for case in rows.cases if case}),
        lost=tuple(compared.cases()["lost"]),
        slices=slices,
        p99_ms=p99_ms,
        size_bytes=size_bytes,
    )


def _sample(table: pa.Table, rows: Rows, params: Params) -> list[Mapping[str, Any]]:
    """Return rows to time single predictions on, as `Item.row()` gives them; training rows when nothing else is there."""
    source = rows.table if len(rows) else table
    columns = ["image"] if isinstance(params.task, TextLine) else list(params.task.features)
    found: list[Mapping[str, Any]] = source.slice(0, _LATENCY_ROWS).select(columns).to_pylist()
    return found


def _shown(params: Params) -> list[str]:
    """Return the columns that the page shows of an example: the image, or the sliced features and the first others."""
    if isinstance(params.task, TextLine):
        return ["image"]
    sliced = [name for name in params.slices if name in params.task.features]
    return list(dict.fromkeys([*sliced, *params.task.features]))[:_FACTS]


def _bytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.name != MANIFEST and OBSERVED not in path.relative_to(folder).parts)


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(canonical(content) + b"\n")
