"""label_merge: one label an item with its provenance, and a split that never leaks; the result is the next dataset version."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.core.artifacts import canonical
from components.core.effects import CASES_FILE
from components.core.errors import DataError
from components.core.tables import ANNOTATION, payload_columns, read_dataset, write_dataset
from components.label_merge.merging import Annotation, Verdict, merge
from components.label_merge.spec import Params
from components.label_merge.splits import SPLITS, split_of, suggest_salt

if TYPE_CHECKING:
    from components.core.contract import Context

__all__ = ["fates", "merge_table", "run"]

logger = logging.getLogger(__name__)


def run(ctx: Context, params: Params) -> None:
    """Merge annotations, split by group, and say what became of each claimed case.

    Raises:
        DataError: No item is left, or a split that training or the gate needs is empty.
    """
    snapshot = json.loads((ctx.path("snapshot") / "snapshot.json").read_bytes())
    dataset, held = merge_table(read_dataset(ctx.path("dataset")), params)
    _check_splits(dataset, params)
    quarantine = read_dataset(ctx.path("quarantine"), ["_case", "_rule"])
    cases = fates(snapshot["claimed"], dataset, held, quarantine, settled=snapshot["states"])
    write_dataset(dataset, ctx.out("dataset"))
    (ctx.out("dataset") / CASES_FILE).write_bytes(canonical(cases))
    write_dataset(held, ctx.out("review"))
    splits = dataset["_split"].to_pylist()
    counts = {split: splits.count(split) for split in SPLITS}
    ctx.note("dataset", rows=dataset.num_rows, columns=dataset.num_columns, **counts, merged=len(cases["merged"]))
    ctx.note("review", rows=held.num_rows, columns=held.num_columns)
    logger.info(
        "%d items (%s); claimed cases: %d merged, %d held, %d quarantined",
        dataset.num_rows,
        ", ".join(f"{count} {split}" for split, count in counts.items()),
        *(len(cases[fate]) for fate in ("merged", "held", "quarantined")),
    )


def merge_table(rows: pa.Table, params: Params) -> tuple[pa.Table, pa.Table]:
    """Merge annotations to items.

    Args:
        rows: One row an annotation, in any order.
        params: The policy and the splits.

    Returns:
        The items (one row each, with `_split` and `_provenance`), and the annotations of the items held, with `_reason`.
    """
    rows = rows.sort_by([("_id", "ascending"), ("_order", "ascending")])
    light = rows.drop_columns(payload_columns(params.task)).to_pylist()
    in_base = {row["_group"] for row in light if row["_source"] == "base"}
    chosen: list[int] = []
    held: list[int] = []
    reasons: list[str] = []
    made: dict[str, list[Any]] = {name: [] for name in ("_label", "_source", "_case", "_split", "_provenance")}
    for _, members in groupby(range(len(light)), key=lambda index: light[index]["_id"]):
        indices = list(members)
        item = [light[index] for index in indices]
        annotations = [Annotation(row["_label"], row["_author"], row["_reviewed"], row["_order"]) for row in item]
        verdict = merge(annotations, params.on_conflict)
        if verdict.label is None:
            held += indices
            reasons += [verdict.reason] * len(indices)
            continue
        chosen.append(indices[0])
        case = next((row["_case"] for row in item if row["_case"]), None)
        group = item[0]["_group"]
        made["_label"].append(verdict.label)
        made["_source"].append("case" if case else "base")
        made["_case"].append(case)
        made["_split"].append(split_of(group, params.splits, in_base=group in in_base, pinned=item[0]["_pinned"]))
        made["_provenance"].append(_provenance(verdict, annotations))
    items = rows.take(pa.array(chosen, pa.int64())).drop_columns(list(ANNOTATION))
    for name, values in made.items():
        kind = rows.schema.field("_label").type if name == "_label" else pa.string()
        items = _with(items, name, pa.array(values, kind))
    review = rows.take(pa.array(held, pa.int64())).append_column("_reason", pa.array(reasons, pa.string()))
    return items, review


def fates(claimed: Sequence[str], items: pa.Table, held: pa.Table, quarantine: pa.Table, settled: Collection[str] = ()) -> dict[str, Any]:
    """Say what became of each claimed case, and of each that was merged before and now falls out of the dataset.

    A case whose every annotation is in quarantine is quarantined.

    Raises:
        DataError: A claimed case is nowhere: it would be lost.
    """
    merged = set(_present(items["_case"]))
    why_held = dict(zip(held["_case"].to_pylist(), held["_reason"].to_pylist(), strict=True))
    broke: dict[str, set[str]] = {}
    for case, rule in zip(quarantine["_case"].to_pylist(), quarantine["_rule"].to_pylist(), strict=True):
        if case:
            broke.setdefault(case, set()).add(rule)
    result: dict[str, Any] = {"merged": [], "held": {}, "quarantined": {}}
    for case in sorted({*claimed, *settled}):
        if case in merged:
            if case in claimed:
                result["merged"].append(case)
        elif case in why_held:
            result["held"][case] = why_held[case]
        elif case in broke:
            result["quarantined"][case] = "; ".join(sorted(broke[case]))
        elif case in claimed:
            raise DataError(f"the claimed case {case} is in no output of validate", do="run ingest and validate again")
    return result


def _check_splits(dataset: pa.Table, params: Params) -> None:
    """Refuse a dataset that can't be learned from or measured on."""
    found = set(dataset["_split"].to_pylist())
    empty = [split for split in SPLITS[:3] if split not in found]
    if not empty:
        return
    base = sorted({g for g, s in zip(dataset["_group"].to_pylist(), dataset["_source"].to_pylist(), strict=True) if s == "base"})
    salt = suggest_salt(base, params.splits) if len(base) >= 3 else None
    do = f"set label_merge.splits.salt to '{salt}'" if salt else "give more groups, or larger shares for those splits"
    raise DataError(f"{len(base)} base groups leave these splits empty: {', '.join(empty)}", do=do)


def _provenance(verdict: Verdict, annotations: Iterable[Annotation]) -> str:
    entries = [{"label": a.label, "author": a.author, "reviewed": a.reviewed, "order": a.order} for a in annotations]
    return canonical({"how": verdict.how, "from": entries}).decode()


def _present(column: pa.ChunkedArray) -> list[str]:
    return [value for value in column.to_pylist() if value]


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
