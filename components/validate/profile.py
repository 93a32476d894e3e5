"""Drafts a suite from a table: `python -m components.validate.profile --task JSON --table FILE --name NAME [--out FILE]`.

A draft says what is true of the data at hand, with some room. Read it, keep what should stay true, and tighten the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from components.core import log
from components.core.errors import AtlasError, ConfigError, DataError, nearest
from components.core.params import Tabular, Task, TextLine
from components.validate.measures import MEASURES, measure

__all__ = ["draft", "main"]

logger = logging.getLogger(__name__)

_MOST_CATEGORIES = 100
_ROOM = 0.1


def draft(table: pa.Table, task: TextLine | Tabular, name: str) -> dict[str, Any]:
    """Draft a suite.

    Args:
        table: The payload columns and `_label`.
        task: The scenario's task.
        name: The suite's name.

    Raises:
        DataError: The table is empty or lacks a column.
    """
    if table.num_rows == 0:
        raise DataError("the table has no rows", do="profile a table with rows")
    expectations = [_table_rule("expect_table_row_count_to_be_between", "enough_rows", min_value=max(1, table.num_rows // 2))]
    expectations.append(_row_rule("expect_column_values_to_not_be_null", "label_present", column="_label"))
    if isinstance(task, TextLine):
        _need(table, ["image", "_label"])
        table, _ = measure(table["image"].to_pylist(), table["_label"].to_pylist())
        for column in MEASURES:
            expectations += _numbers(table, column)
    else:
        _need(table, [*task.features, "_label"])
        for column, kind in task.features.items():
            expectations += _numbers(table, column) if kind == "number" else _categories(table, column)
            expectations += _presence(table, column)
    return {"name": name, "expectations": expectations}


def main(argv: list[str] | None = None) -> int:
    """Draft a suite and print or write it; returns the exit code."""
    log.setup()
    parser = argparse.ArgumentParser(prog="python -m components.validate.profile", description=__doc__)
    parser.add_argument("--task", required=True, metavar="JSON|@FILE", help="the scenario's task section")
    parser.add_argument("--table", required=True, type=Path, metavar="FILE", help="Parquet with the payload columns and _label")
    parser.add_argument("--name", required=True, help="the suite's name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the suite (default: standard output)")
    args = parser.parse_args(argv)
    try:
        suite = draft(_table(args.table), _task(args.task), args.name)
    except AtlasError as error:
        logger.error("%s", error)
        return error.exit_code
    text = json.dumps(suite, indent=2, ensure_ascii=False) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def _numbers(table: pa.Table, column: str) -> Iterable[dict[str, Any]]:
    present = pc.drop_null(table[column])
    if len(present) == 0:
        return
    low, high = float(pc.min(present).as_py()), float(pc.max(present).as_py())
    room = _ROOM * (high - low) or abs(high) * _ROOM or 1.0
    whole = all(float(value).is_integer() for value in present.to_pylist())
    floor = low - room if low < 0 else max(0.0, low - room)
    bounds = [math.floor(floor), math.ceil(high + room)] if whole else [_short(floor), _short(high + room)]
    yield _row_rule("expect_column_values_to_be_between", f"{column}_in_range", column=column, min_value=bounds[0], max_value=bounds[1])


def _categories(table: pa.Table, column: str) -> Iterable[dict[str, Any]]:
    values = sorted(str(value) for value in pc.unique(pc.drop_null(table[column])).to_pylist())
    if 0 < len(values) <= _MOST_CATEGORIES and len(values) < table.num_rows / 2:
        yield _row_rule("expect_column_values_to_be_in_set", f"{column}_known", column=column, value_set=values)


def _presence(table: pa.Table, column: str) -> Iterable[dict[str, Any]]:
    missing = table[column].null_count / table.num_rows
    if missing == 0:
        yield _row_rule("expect_column_values_to_not_be_null", f"{column}_present", column=column)
    else:
        least = max(0.0, math.floor((1 - 2 * missing) * 100) / 100)
        yield _table_rule(
            "expect_column_proportion_of_non_null_values_to_be_between", f"{column}_mostly_present", column=column, min_value=least
        )


def _row_rule(kind: str, rule: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"rule": rule, "level": "row"}}


def _table_rule(kind: str, rule: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"rule": rule, "level": "table"}}


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def _need(table: pa.Table, columns: Iterable[str]) -> None:
    for column in columns:
        if column not in table.column_names:
            raise DataError(f"the table has no column '{column}'", do=nearest(column, table.column_names))


def _task(text: str) -> TextLine | Tabular:
    try:
        given = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
        task: TextLine | Tabular = TypeAdapter(Task).validate_python(given)
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise ConfigError(f"--task can't be read: {error}", do="give the scenario's task section as JSON") from error
    return task


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the table {path} can't be read: {error}", do="give a Parquet file") from error


if __name__ == "__main__":
    sys.exit(main())
