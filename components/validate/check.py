"""Applying rules: the row-level ones find broken rows in one DuckDB pass, the table-level ones are judged in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.core.errors import ConfigError, DataError, nearest
from components.core.params import Tabular, TextLine

if TYPE_CHECKING:
    from components.validate.rules import Rule

__all__ = ["LABEL_RULE", "PAYLOAD_RULE", "Observation", "built_in", "observe", "row_failures"]

LABEL_RULE = "label_in_vocabulary"
PAYLOAD_RULE = "payload_readable"


@dataclass(frozen=True)
class Observation:
    """A table-level rule's verdict."""

    rule: Rule
    value: Any
    passed: bool


def built_in(task: TextLine | Tabular, rows: pa.Table, unreadable: Mapping[int, str]) -> list[tuple[str, list[int]]]:
    """Apply the rules that every scenario has: the payload can be read as the task says, the label is in the vocabulary.

    Args:
        task: The scenario's task.
        rows: One row an annotation.
        unreadable: Row -> why its image can't be decoded.

    Returns:
        Rule name -> broken rows, by position.
    """
    problems = rows["_problem"].to_pylist()
    payload = sorted({*unreadable, *(row for row, problem in enumerate(problems) if problem and not problem.startswith("label "))})
    fine: dict[Any, bool] = {}
    labels = []
    for row, label in enumerate(rows["_label"].to_pylist()):
        if label not in fine:
            fine[label] = _is_label(task, label)
        if not fine[label]:
            labels.append(row)
    return [(PAYLOAD_RULE, payload), (LABEL_RULE, labels)]


def row_failures(rows: pa.Table, rules: Iterable[Rule]) -> list[tuple[str, list[int]]]:
    """Find the rows that break row-level rules, all rules in one pass.

    Returns:
        Rule name -> broken rows, by position, in the suite's order.

    Raises:
        ConfigError: A rule itself is broken: it names no column of the table, or can't be applied to the column's type.
    """
    chosen = [rule for rule in rules if rule.level == "row"]
    if not chosen:
        return []
    select = ", ".join(f"({rule.broken}) AS r{number}" for number, rule in enumerate(chosen))
    table = rows.append_column("_row", pa.array(range(rows.num_rows), pa.int64()))
    found = _query(table, chosen, f"SELECT _row, {select} FROM rows ORDER BY _row")
    return [(rule.name, [row for row, broken in enumerate(found[f"r{n}"].to_pylist()) if broken]) for n, rule in enumerate(chosen)]


def observe(rows: pa.Table, rules: Iterable[Rule]) -> list[Observation]:
    """Judge the table-level rules.

    Raises:
        ConfigError: A rule itself is broken.
    """
    chosen = [rule for rule in rules if rule.level == "table"]
    if not chosen:
        return []
    select = ", ".join(f"({rule.observed}) AS r{number}" for number, rule in enumerate(chosen))
    (found,) = _query(rows, chosen, f"SELECT {select}, count(*) AS n FROM rows").to_pylist()  # count: one row, come what may
    return [Observation(rule, found[f"r{n}"], bool(rule.judge and rule.judge(found[f"r{n}"]))) for n, rule in enumerate(chosen)]


def _query(rows: pa.Table, rules: Sequence[Rule], sql: str) -> pa.Table:
    import duckdb

    for rule in rules:
        for column in rule.columns:
            if column not in rows.column_names and rule.type != "expect_column_to_exist":
                raise ConfigError(
                    f"rule '{rule.name}' names the column '{column}', which does not exist", do=nearest(column, rows.column_names)
                )
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("rows", rows)
        connection.execute("SET enable_external_access = false")
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            culprit = next((rule for rule in rules if _fails(connection, rule)), rules[0])
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"rule '{culprit.name}' can't be checked: {reason}", do="correct the rule: the data were not judged"
            ) from error


def _fails(connection: Any, rule: Rule) -> bool:
    import duckdb

    try:
        connection.execute(
            f"SELECT {rule.broken} FROM rows" if rule.level == "row" else f"SELECT {rule.observed}, count(*) FROM rows"
        ).fetchall()
    except duckdb.Error:
        return True
    return False


def _is_label(task: TextLine | Tabular, label: Any) -> bool:
    try:
        task.check_label(label)
    except DataError:
        return False
    return True
