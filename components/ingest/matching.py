"""Dynamic sample matching: which base rows take part; then one table of base and case rows. Relational work: Ibis on DuckDB."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.core.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from ibis.expr.types import Table

    from components.ingest.spec import Selection

__all__ = ["combine", "select"]


def select(base: pa.Table, selection: Selection) -> pa.Table:
    """Keep the base rows that the scenario asks for.

    Conditions first, then the newest, then the quotas; a quota keeps items by their content hash, so that a row more or less
    elsewhere never changes the choice. Cases are not subject to selection: each takes part.

    Args:
        base: Rows of `base_rows`, with the reader's other columns.
        selection: The scenario's.

    Raises:
        ConfigError: A condition is not SQL over the columns, or a quota names no column.
        DataError: No row is left.
    """
    if not (selection.where or selection.newest or selection.quotas):
        return base
    import ibis

    with _connection({"base": base}) as con:
        rows = _where(con, selection.where)
        if selection.newest:
            rows = rows.order_by(ibis.desc("_order")).limit(selection.newest)
        for quota in selection.quotas:
            if quota.column not in rows.columns:
                raise ConfigError(f"ingest.selection.quotas: there is no column '{quota.column}'", do=nearest(quota.column, rows.columns))
            place = ibis.dense_rank().over(ibis.window(group_by=quota.column, order_by="_id"))
            rows = rows.mutate(_place=place).filter(ibis._._place < quota.most).drop("_place")
        kept = _arrow(rows.order_by("_order"))
    if kept.num_rows == 0:
        raise DataError("the selection leaves none of the base rows", do="loosen ingest.selection")
    return kept.cast(base.schema)


def combine(base: pa.Table, cases: pa.Table, parent: pa.Table | None) -> pa.Table:
    """Lay base and case rows into one table: age within the item, one group an item, and the split that group already has.

    An item keeps the group it had in the parent dataset version; else that of its oldest annotation, base before cases.

    Args:
        base: Selected base rows.
        cases: Rows of `case_rows`.
        parent: `_id`, `_group`, `_split` of the parent dataset version, if there is one.

    Returns:
        A table of the cases' schema with `_order` (0 = the item's oldest) and `_pinned` filled in, sorted by `_id`, `_order`.
    """
    import ibis

    schema = cases.schema
    if parent is None:
        parent = pa.table({name: pa.array([], pa.string()) for name in ("_id", "_group", "_split")})
    parent = parent.select(["_id", "_group", "_split"])
    with _connection({"base": base.select(schema.names), "cases": cases, "parent": parent}) as con:
        rows = con.table("base").mutate(_age=0).union(con.table("cases").mutate(_age=1))
        oldest = ibis.window(group_by="_id", order_by=["_age", "_order"])
        rows = rows.mutate(_order=ibis.row_number().over(oldest), _group=rows["_group"].first().over(oldest))
        before = con.table("parent")
        known = before.select(_known=before["_id"], _kept=before["_group"])
        rows = rows.left_join(known, rows["_id"] == known["_known"])
        rows = rows.mutate(_group=ibis.coalesce(rows["_kept"], rows["_group"]))
        splits = before.group_by(_owner=before["_group"]).agg(_had=before["_split"].min())
        rows = rows.left_join(splits, rows["_group"] == splits["_owner"])
        rows = rows.mutate(_pinned=rows["_had"]).select(*schema.names).order_by("_id", "_order")
        return _arrow(rows).cast(schema)


def _where(con: Any, conditions: tuple[str, ...]) -> Table:
    """Apply SQL conditions in DuckDB itself: Ibis 12 can't nest SQL text in a DuckDB 2 expression."""
    from duckdb import Error

    for number, condition in enumerate(conditions):
        source = "kept" if number else "base"
        try:
            con.con.execute(f"CREATE OR REPLACE TEMP TABLE kept AS SELECT * FROM {source} WHERE ({condition}\n)")
        except Error as error:
            reason = str(error).strip().splitlines()[0]
            columns = ", ".join(con.table("base").columns)
            raise ConfigError(f"ingest.selection.where: '{condition}': {reason}", do=f"the columns are: {columns}") from error
    return con.table("kept" if conditions else "base")


def _arrow(rows: Table) -> pa.Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ibis 12 calls a deprecated method of DuckDB 2
        return rows.to_pyarrow()


@contextmanager
def _connection(tables: dict[str, pa.Table]) -> Iterator[Any]:
    """Open a private DuckDB with these tables, which then can reach neither files nor the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import ibis

        con = ibis.duckdb.connect(threads=1)
        try:
            for name, table in tables.items():
                con.con.register(name, table)  # create_table fails: Ibis 12 writes DROP VIEW as DuckDB 2 no longer reads it
            con.raw_sql("SET TimeZone = 'UTC'")  # a condition on a time means the same on every machine
            con.raw_sql("SET enable_external_access = false")
            con.raw_sql("SET lock_configuration = true")
            yield con
        finally:
            con.disconnect()
