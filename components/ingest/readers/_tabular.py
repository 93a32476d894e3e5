"""What the readers of tables share: which rows, which column is what, and a clock for tables that have none."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from components.core.errors import DataError, nearest
from components.core.params import Frozen

__all__ = ["Clock", "Common", "shape"]


class Clock(Frozen):
    """An event time derived from the order of rows, for a table without one: row i happened at `start` + i × `step_s`.

    Attributes:
        column: The column to add.
        start: UTC, unless it names an offset.
        step_s: Seconds from one row to the next.
    """

    column: str
    start: dt.datetime = dt.datetime(2016, 1, 1)
    step_s: int = Field(3600, gt=0)


class Common(Frozen):
    """Options of every reader of tables.

    Attributes:
        label: The label's column.
        group: The group's column; without it an item's content is its group.
        first: Rows from this one, in the source's order …
        last: … up to this one (excluded).
        rename: Old column name -> new one.
        clock: Adds an event time.
    """

    label: str
    group: str | None = None
    first: int = Field(0, ge=0)
    last: int | None = Field(None, gt=0)
    rename: dict[str, str] = Field(default_factory=dict)
    clock: Clock | None = None


def shape(table: pa.Table, options: Common) -> pa.Table:
    """Rename, add the clock, cut the rows out, and name the label and the group as every reader does.

    Raises:
        DataError: A column that the options name does not exist.
    """
    for name in (options.label, *options.rename, *([options.group] if options.group else [])):
        if name not in table.column_names:
            raise DataError(f"the source has no column '{name}'", do=nearest(name, table.column_names))
    renamed = [options.rename.get(name, name) for name in table.column_names]
    label = options.rename.get(options.label, options.label)
    table = table.rename_columns(renamed).replace_schema_metadata(None)
    if options.clock:
        start = options.clock.start
        start = start.astimezone(dt.UTC) if start.tzinfo else start.replace(tzinfo=dt.UTC)
        times = [start + dt.timedelta(seconds=options.clock.step_s * row) for row in range(table.num_rows)]
        table = table.append_column(options.clock.column, pa.array(times, pa.timestamp("us", "UTC")))
    table = table.slice(options.first, None if options.last is None else max(0, options.last - options.first))
    values = table[label]
    if not pa.types.is_floating(values.type) and not pa.types.is_integer(values.type):
        values = values.cast(pa.string())
    table = table.append_column("_label", values).drop_columns([label])
    if options.group:
        table = table.append_column("_group", pc.cast(table[options.rename.get(options.group, options.group)], pa.string()))
    return table
