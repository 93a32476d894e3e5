"""From what readers and the ledger give to one typed table with a row an annotation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.core.artifacts import canonical
from components.core.errors import DataError, nearest
from components.core.params import Tabular, TextLine
from components.core.tables import annotation_schema, payload_columns

if TYPE_CHECKING:
    from components.core.ledger import Case

__all__ = ["BASE", "base_rows", "case_rows", "check_labels"]

BASE = "base"
_SHOWN = 5


def base_rows(task: TextLine | Tabular, table: pa.Table) -> pa.Table:
    """Type a reader's table and give each row its content hash.

    Args:
        task: The scenario's task.
        table: The payload columns, `_label`, perhaps `_group` and others.

    Returns:
        The columns of `annotation_schema` (without `_order` and `_pinned` filled in) and, after them, the reader's other ones;
        rows in the reader's order.

    Raises:
        DataError: The table is empty, lacks a column, or has one of the wrong type.
    """
    if table.num_rows == 0:
        raise DataError("the source has no rows", do="check ingest.source.options, or the data behind it")
    for name in (*payload_columns(task), "_label"):
        if name not in table.column_names:
            raise DataError(f"the source has no column '{name}'", do=nearest(name, table.column_names))
    schema = annotation_schema(task)
    columns = {name: _typed(table[name], name, schema.field(name).type) for name in payload_columns(task)}
    label = table["_label"]
    if not isinstance(task, Tabular) or task.problem != "regression":
        label = _as_text(label, "_label")  # 0 and 1, or True and False, are classes too
    columns["_label"] = _typed(label, "_label", schema.field("_label").type)
    payload = pa.table({name: columns[name] for name in payload_columns(task)})
    ids = pa.array(_ids(task, payload), pa.string())
    count = table.num_rows
    columns |= {
        "_id": ids,
        "_group": pc.coalesce(_as_text(table["_group"], "_group"), ids) if "_group" in table.column_names else ids,
        "_source": pa.array([BASE] * count, pa.string()),
        "_case": pa.nulls(count, pa.string()),
        "_reviewed": pa.array(np.zeros(count, bool)),
        "_order": pa.array(np.arange(count)),
        "_author": pa.array([BASE] * count, pa.string()),
        "_pinned": pa.nulls(count, pa.string()),
        "_problem": pa.nulls(count, pa.string()),
    }
    typed = pa.table([columns[name] for name in schema.names], schema=schema)
    for name in table.column_names:
        if name not in schema.names:
            typed = typed.append_column(name, table[name])
    return typed


def case_rows(task: TextLine | Tabular, cases: Iterable[Case]) -> pa.Table:
    """Turn cases into rows, one a label.

    Nothing is refused here: what does not fit the task is left out of its typed column and named in `_problem`, for validate to
    quarantine. Rows are in the order in which the labels were given.
    """
    schema = annotation_schema(task)
    rows: list[dict[str, Any]] = []
    labels = [(label.created_at, case.id, label.key or "", str(label.value), case, label) for case in cases for label in case.labels]
    for *_, case, label in sorted(labels, key=lambda entry: entry[:4]):
        payload, problem = _payload(task, case.media_type, case.payload)
        value, wrong = _case_label(task, label.value)
        row = {"_id": case.content, "_group": case.group, "_label": value, "_source": "case", "_case": case.id, **payload}
        row |= {"_reviewed": label.reviewed, "_order": len(rows), "_author": label.source, "_pinned": None, "_problem": problem or wrong}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def _typed(column: pa.ChunkedArray, name: str, wanted: pa.DataType) -> pa.ChunkedArray:
    given = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(given):
        return column.cast(wanted)
    if pa.types.is_binary(wanted):
        if not (pa.types.is_binary(given) or pa.types.is_large_binary(given)):
            raise DataError(
                f"column '{name}' holds {given}, encoded images (binary) are expected", do="let the reader give PNG or JPEG bytes"
            )
        if column.null_count:
            raise DataError(f"column '{name}' lacks the image of {column.null_count} rows", do="leave those rows out")
        return column.cast(wanted)
    if pa.types.is_floating(wanted):
        if not (pa.types.is_floating(given) or pa.types.is_integer(given) or pa.types.is_decimal(given) or pa.types.is_boolean(given)):
            raise DataError(
                f"column '{name}' holds {given}, numbers are expected", do="declare it 'category' in task.features, or convert it"
            )
        numbers = column.cast(wanted, safe=False)
        if pc.any(pc.is_inf(numbers)).as_py():
            raise DataError(f"column '{name}' holds an infinite number", do="leave the value out: a missing one is fine")
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, wanted), numbers)
    if not (pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_integer(given) or pa.types.is_boolean(given)):
        raise DataError(
            f"column '{name}' holds {given}, categories (text) are expected", do="declare it 'number' in task.features, or convert it"
        )
    return column.cast(wanted)


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column '{name}' holds {column.type}, which can't be read as text", do="convert it in the source") from error


def check_labels(task: TextLine | Tabular, rows: pa.Table) -> None:
    """Check the labels of typed base rows. After the selection: a condition may leave unlabelled rows out.

    Raises:
        DataError: A label is missing or outside the vocabulary; the message names the source's rows.
    """
    wrong: dict[str | float | None, DataError] = {}
    for label in pc.unique(rows["_label"]).to_pylist():
        try:
            task.check_label(label)
        except DataError as error:
            wrong[label] = error
    if wrong:
        labelled = zip(rows["_order"].to_pylist(), rows["_label"].to_pylist(), strict=True)
        where = [row for row, label in labelled if label in wrong]
        first = next(iter(wrong.values()))
        raise DataError(f"rows {_some(where)} of the source: {first.message}", do=first.do)


def _ids(task: TextLine | Tabular, payload: pa.Table) -> list[str]:
    """Hash each row's canonical payload, exactly as `core.items` does when a client sends the same item."""
    if isinstance(task, TextLine):
        return [hashlib.sha256(image).hexdigest() for image in payload["image"].to_pylist()]
    return [hashlib.sha256(canonical(row)).hexdigest() for row in payload.to_pylist()]


def _payload(task: TextLine | Tabular, media_type: str, payload: bytes) -> tuple[dict[str, Any], str | None]:
    if isinstance(task, TextLine):
        problem = None if media_type.startswith("image/") else f"the payload is {media_type}, an image is expected"
        return {"image": payload}, problem
    row: dict[str, Any] = dict.fromkeys(task.features)
    try:
        given = json.loads(payload)
    except ValueError:
        return row, "the payload is not JSON"
    if not isinstance(given, dict):
        return row, "the payload is not an object of features"
    problem = None
    for name, kind in task.features.items():
        value = given.get(name)
        fits = isinstance(value, str) if kind == "category" else _is_number(value)
        if value is not None and not fits:
            problem = problem or f"feature '{name}' is {value!r}, a {'text' if kind == 'category' else 'number'} is expected"
        elif value is not None:
            row[name] = value if kind == "category" else float(value)
    return row, problem


def _case_label(task: TextLine | Tabular, value: str | float) -> tuple[str | float | None, str | None]:
    if isinstance(task, Tabular) and task.problem == "regression":
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        return (number, None) if math.isfinite(number) else (None, f"label {value!r} is not a finite number")
    return str(value), None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _some(rows: Sequence[int]) -> str:
    shown = ", ".join(str(row) for row in rows[:_SHOWN])
    return shown if len(rows) <= _SHOWN else f"{shown} (and {len(rows) - _SHOWN} more)"
