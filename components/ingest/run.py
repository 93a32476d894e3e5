"""ingest: the only step that reads the ledger. What it sees is frozen in the snapshot and the dataset; later steps are pure."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow as pa

from components.core.artifacts import canonical
from components.core.errors import DataError, NothingToDo
from components.core.params import Tabular
from components.core.tables import read_dataset, write_dataset
from components.ingest.annotations import base_rows, case_rows, check_labels
from components.ingest.matching import combine, select
from components.ingest.readers import reader
from components.ingest.spec import Params

if TYPE_CHECKING:
    from pathlib import Path

    from components.core.contract import Context
    from components.core.ledger import Case, Ledger
    from components.core.settings import Settings

__all__ = ["SNAPSHOT_FILE", "base", "run"]

logger = logging.getLogger(__name__)

SNAPSHOT_FILE = "snapshot.json"
_SETTLED = ("merged", "verified", "closed", "reopened")
_OWN_STUDIES = 20
_STUDIES = 60
"""How many finished searches a new one may learn from: the scenario's own first, then others of the same problem."""


def run(ctx: Context, params: Params) -> None:
    """Claim cases, freeze what the ledger says, and write one row an annotation: base, merged cases, claimed cases.

    Raises:
        NothingToDo: A model serves and fewer than `at_least` cases wait.
        ConfigError: The reader, an option, a condition or a feature is unknown.
        DataError: The source's table breaks the task's contract.
    """
    claimed = ctx.ledger.claim(ctx.scenario, ctx.run_id)
    champion = ctx.ledger.champion(ctx.scenario)
    if champion and params.mode == "cases" and len(claimed) < params.at_least and not ctx.ledger.work(ctx.scenario).unfinished:
        raise NothingToDo(f"{len(claimed)} labelled cases wait, {params.at_least} are needed", do="label more, or lower ingest.at_least")
    parent = ctx.ledger.head(ctx.scenario)
    ids = {case.id for case in claimed}
    merged = ctx.ledger.merged_cases(ctx.scenario)
    snapshot = {
        "scenario": ctx.scenario,
        "champion": champion and {"seq": champion.seq, "model": champion.model, "dataset": champion.dataset},
        "parent": parent.ref if parent else None,
        "claimed": sorted(ids),
        "states": {case.id: _settled_state(ctx.ledger, case) for case in merged},
        "studies": _studies(ctx, params),
    }
    (ctx.out("snapshot") / SNAPSHOT_FILE).write_bytes(canonical(snapshot))
    ctx.note("snapshot", scenario=ctx.scenario, claimed=len(ids), champion=champion.model if champion else None)

    rows = base(params, ctx.settings, ctx.work / "feast")
    cases = case_rows(params.task, [*claimed, *(case for case in merged if case.id not in ids)])
    table = combine(rows, cases, _before(ctx))
    write_dataset(table, ctx.out("dataset"))
    counts = {"base": rows.num_rows, "cases": len({*ids, *(case.id for case in merged)}), "claimed": len(ids)}
    ctx.note("dataset", rows=table.num_rows, columns=table.num_columns, **counts)
    logger.info("%d annotations: %d base rows, %d cases (%d new)", table.num_rows, counts["base"], counts["cases"], counts["claimed"])


def _studies(ctx: Context, params: Params) -> list[str]:
    """Return references of finished searches, the scenario's newest first; those of this run are left out, lest a re-run differ."""
    task = params.task
    problem = task.problem if isinstance(task, Tabular) else task.kind
    own = ctx.ledger.studies(problem=problem, scenario=ctx.scenario, but_of_run=ctx.run_id, limit=_OWN_STUDIES)
    others = ctx.ledger.studies(problem=problem, other_than=ctx.scenario, but_of_run=ctx.run_id, limit=_STUDIES - len(own))
    found = []
    for ref in dict.fromkeys(study.ref for study in (*own, *others)):
        try:
            found.append(ctx.store.get(ref).ref)
        except DataError:
            logger.info("the study in %s is gone; the search does without it", ref)
    return found


def _before(ctx: Context) -> pa.Table | None:
    """Return the group and split that every item had in the newest dataset version that held it.

    All versions are asked, not the parent alone: an item that was held for review in between must not change its split.
    """
    seen: dict[str, dict[str, str]] = {}
    for version in reversed(ctx.ledger.dataset_versions(ctx.scenario)):
        for row in read_dataset(ctx.open(version.ref), ["_id", "_group", "_split"]).to_pylist():
            seen.setdefault(row["_id"], row)
    return pa.Table.from_pylist(sorted(seen.values(), key=lambda row: row["_id"])) if seen else None


def base(params: Params, settings: Settings, work: Path) -> pa.Table:
    """Read and check the base annotations, with Feast's features where the scenario asks for them, and select among them.

    Args:
        params: The scenario's section.
        settings: Where data and features lie.
        work: A private folder.

    Raises:
        ConfigError: The reader, an option, a condition or a feature is unknown.
        DataError: The source's table breaks the task's contract.
    """
    source = params.source
    read = reader(source.reader)
    table = read(source.options, settings.data)
    if params.features is not None:
        from components.ingest.features import join  # Feast: 6 s to import

        whole = {name: value for name, value in source.options.items() if name not in ("first", "last")}
        table = join(table, params.features, settings.home / "features" / params.scenario, work, lambda: read(whole, settings.data))
    rows = select(base_rows(params.task, table), params.selection)
    check_labels(params.task, rows)
    return rows


def _settled_state(ledger: Ledger, case: Case) -> str:
    """Return the state of a case that a dataset version holds, looking through a relabel that waits to be merged."""
    if case.state in _SETTLED:
        return case.state
    states = [event.after for event in ledger.history(case.id) if event.after in _SETTLED]
    return states[-1] if states else "merged"
