"""Studies: what searches found out, over all scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from components.core.errors import DataError
from components.core.ledger._db import Database, check_json, check_text, insert_missing
from components.core.ledger.schema import studies
from components.core.ledger.types import Study

__all__ = ["Studies"]


class Studies:
    """The noun `study`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record_study(
        self,
        scenario: str,
        run_id: str,
        ref: str,
        *,
        dataset: str | None,
        problem: str,
        metric: str,
        rows: int,
        meta: Mapping[str, float],
        trials: Sequence[Mapping[str, Any]],
    ) -> None:
        """Make a finished search known; the same report of the same scenario again changes nothing.

        Args:
            ref: Of the report that holds it.
            dataset: Reference of the dataset that was searched on.
            problem: `binary`, `multiclass`, `regression` or `text_line`.
            metric: What was optimised.
            rows: Rows that were searched on.
            meta: Meta-features: name -> finite number.
            trials: Plain JSON data.

        Raises:
            DataError: A text is malformed, a number is not finite, or `rows` is no count.
        """
        for name, text in (("scenario", scenario), ("a study's problem", problem), ("a study's metric", metric)):
            check_text(name, text)
        for name, text in (("run id", run_id), ("a study's reference", ref)):
            check_text(name, text, 500)
        if isinstance(rows, bool) or not isinstance(rows, int) or not 0 <= rows < 2**31:
            raise DataError(f"a study's rows are {rows!r}, a count is expected", do="correct rows")
        given = {"meta": dict(meta), "trials": [dict(trial) for trial in trials]}
        for name, value in given.items():
            check_json(f"a study's {name}", value)
        row = {"scenario": scenario, "ref": ref, "dataset": dataset, "run_id": run_id, "problem": problem, "metric": metric, "rows": rows}
        with self._db.write() as connection:
            connection.execute(insert_missing(connection, studies), {**row, **given, "created_at": self._db.now(connection)})

    def studies(
        self,
        *,
        problem: str | None = None,
        scenario: str | None = None,
        other_than: str | None = None,
        but_of_run: str | None = None,
        limit: int | None = None,
    ) -> list[Study]:
        """Return finished searches, newest first.

        Args:
            problem: Only of this problem.
            scenario: Only of this scenario.
            other_than: Not of this scenario.
            but_of_run: Not those that this run recorded.
            limit: At most so many.
        """
        query = select(studies).order_by(studies.c.n.desc()).limit(limit)
        for condition in (
            None if problem is None else studies.c.problem == problem,
            None if scenario is None else studies.c.scenario == scenario,
            None if other_than is None else studies.c.scenario != other_than,
            None if but_of_run is None else studies.c.run_id != but_of_run,
        ):
            if condition is not None:
                query = query.where(condition)
        with self._db.read() as connection:
            return [_study(row._asdict()) for row in connection.execute(query)]


def _study(row: dict[str, Any]) -> Study:
    del row["n"]
    return Study(**row)
