"""validate: a row that breaks a rule goes to quarantine with the rule's name; a broken table stops the run."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.core.artifacts import canonical
from components.core.errors import DataError
from components.core.params import TextLine
from components.core.tables import payload_columns, read_dataset, write_dataset
from components.validate.check import Observation, built_in, observe, row_failures
from components.validate.drift import drift
from components.validate.measures import MEASURES, measure
from components.validate.page import render
from components.validate.rules import Rule, read_suite
from components.validate.spec import Params

if TYPE_CHECKING:
    from components.core.contract import Context

__all__ = ["REPORT_FILE", "run"]

logger = logging.getLogger(__name__)

REPORT_FILE = "report.json"


def run(ctx: Context, params: Params) -> None:
    """Check the rows, then the table of those that passed, then drift; write the three outputs.

    Raises:
        ConfigError: The suite, or one of its rules, is broken: the data were not judged.
        DataError: A table-level rule is broken, no row is left, or drift stops the run. Cases stay as they are.
    """
    rules = read_suite(params.suite)
    rows = read_dataset(ctx.path("dataset"))
    snapshot = json.loads((ctx.path("snapshot") / "snapshot.json").read_bytes())
    measured, unreadable = _measured(rows, params)
    failures = [*built_in(params.task, rows, unreadable), *row_failures(measured, rules)]
    broken = _by_row(failures)
    passing = pa.array([row not in broken for row in range(rows.num_rows)], pa.bool_())
    good = measured.filter(passing)
    if good.num_rows == 0:
        worst = max(failures, key=lambda failure: len(failure[1]))[0] if failures else ""
        raise DataError(f"none of the {rows.num_rows} rows passed; most broke '{worst}'", do="correct the source, or the rule")
    observations = observe(good, rules)
    _stop_on(observations)
    moved = _drift(ctx, params, snapshot, good)
    report = _report(params, rows, broken, failures, observations, moved, rules)
    _write(ctx, rows, passing, broken, report)
    _explain(ctx, report, measured, good, rules)
    if moved and params.drift.stop and (names := [c["column"] for c in moved["columns"] if c["drifted"]]):
        raise DataError(f"drifted beyond the limits: {', '.join(names)}", do="look at the new cases, or set validate.drift.stop to false")


def _measured(rows: pa.Table, params: Params) -> tuple[pa.Table, dict[int, str]]:
    """Return what rules and drift look at: features, or what is measured of the pictures."""
    if not isinstance(params.task, TextLine):
        return rows, {}
    measures, unreadable = measure(rows["image"].to_pylist(), rows["_label"].to_pylist())
    light = rows.drop_columns(["image"])
    for name in MEASURES:
        light = light.append_column(name, measures[name])
    return light, unreadable


def _by_row(failures: list[tuple[str, list[int]]]) -> dict[int, list[str]]:
    broken: dict[int, list[str]] = {}
    for rule, members in failures:
        for row in members:
            broken.setdefault(row, []).append(rule)
    return broken


def _stop_on(observations: list[Observation]) -> None:
    for found in observations:
        if not found.passed:
            raise DataError(
                f"table rule '{found.rule.name}' is broken: found {found.value}, allowed is {found.rule.allowed}",
                do="correct the source or the suite; the cases stay as they are",
            )


def _drift(ctx: Context, params: Params, snapshot: dict[str, Any], good: pa.Table) -> dict[str, Any] | None:
    """Compare the items that are new since the champion's dataset with those it was trained on."""
    champion = snapshot["champion"]
    if champion is None or champion["dataset"] is None:
        return None
    before = read_dataset(ctx.open(champion["dataset"]))
    known = set(before["_id"].to_pylist())
    seen: set[str] = set()
    fresh = []
    for item in good["_id"].to_pylist():
        fresh.append(item not in known and item not in seen)
        seen.add(item)
    new = good.filter(pa.array(fresh, pa.bool_()))
    trained = before.filter(pa.array([split == "train" for split in before["_split"].to_pylist()], pa.bool_()))
    columns = [*(MEASURES if isinstance(params.task, TextLine) else [*payload_columns(params.task), "_label"])]
    if isinstance(params.task, TextLine):
        trained, _ = _measured(trained, params)
    found = drift(trained, new, columns, params.drift) if new.num_rows and trained.num_rows else []
    return {"new": new.num_rows, "trained": trained.num_rows, "columns": found, "limits": params.drift.model_dump(mode="json")}


def _report(
    params: Params,
    rows: pa.Table,
    broken: dict[int, list[str]],
    failures: list[tuple[str, list[int]]],
    observations: list[Observation],
    moved: dict[str, Any] | None,
    rules: list[Rule],
) -> dict[str, Any]:
    allowed = {rule.name: rule.allowed for rule in rules}
    judged: list[dict[str, Any]] = [
        {"rule": name, "level": "row", "allowed": allowed.get(name, "built in"), "broken": len(members), "passed": not members}
        for name, members in failures
    ]
    judged += [
        {"rule": o.rule.name, "level": "table", "allowed": o.rule.allowed, "observed": _plain(o.value), "passed": o.passed}
        for o in observations
    ]
    counts = {"in": rows.num_rows, "passed": rows.num_rows - len(broken), "quarantined": len(broken)}
    return {"scenario": params.scenario, "rows": counts, "rules": judged, "drift": moved}


def _write(ctx: Context, rows: pa.Table, passing: pa.Array, broken: dict[int, list[str]], report: dict[str, Any]) -> None:
    dataset = rows.filter(passing)
    failed = pa.array(sorted(broken), pa.int64())
    quarantine = rows.take(failed).append_column("_rule", pa.array(["; ".join(broken[row]) for row in sorted(broken)], pa.string()))
    write_dataset(dataset, ctx.out("dataset"))
    write_dataset(quarantine, ctx.out("quarantine"))
    (ctx.out("report") / REPORT_FILE).write_bytes(canonical(report))
    ctx.note("dataset", rows=dataset.num_rows, columns=dataset.num_columns)
    ctx.note("quarantine", rows=quarantine.num_rows, columns=quarantine.num_columns)
    drifted = [column["column"] for column in (report["drift"] or {"columns": []})["columns"] if column["drifted"]]
    ctx.note("report", quarantined=quarantine.num_rows, drifted=drifted)
    logger.info(
        "%d rows passed, %d are in quarantine%s", dataset.num_rows, len(broken), f"; drifted: {', '.join(drifted)}" if drifted else ""
    )


def _explain(ctx: Context, report: dict[str, Any], measured: pa.Table, good: pa.Table, rules: list[Rule]) -> None:
    """Write the pages for people, and say so if Great Expectations disagrees with the SQL."""
    from components.validate.docs import judge  # Great Expectations: 6 s to import

    observed = ctx.out("report") / "observed"
    observed.mkdir()
    parts = {
        "rows": (measured, [rule for rule in rules if rule.level == "row"]),
        "table": (good, [rule for rule in rules if rule.level == "table"]),
    }
    verdicts = judge(parts, ctx.work / "gx", observed / "data_docs")
    ours = {rule["rule"]: rule["passed"] for rule in report["rules"]}
    for verdict in verdicts:
        if verdict.passed != ours[verdict.rule]:
            logger.warning("Great Expectations judges rule '%s' otherwise than its SQL (%s): report this", verdict.rule, verdict.observed)
    docs = "data_docs/index.html" if (observed / "data_docs" / "index.html").is_file() else None
    (observed / "report.html").write_text(render(report, docs), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return an observed value as JSON data; floats are rounded, for the report is part of a digest."""
    return round(value, 9) if isinstance(value, float) else value if isinstance(value, int | str | bool | list | type(None)) else str(value)
