"""Runs: who turned the loop, when, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select, update

from components.core.errors import DataError
from components.core.ledger._db import Database, check_json, check_text
from components.core.ledger.schema import outputs, runs
from components.core.ledger.types import Run

__all__ = ["Runs"]


class Runs:
    """The noun `run`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def start_run(self, scenario: str, run_id: str, engine: str, trigger: str) -> None:
        """Write down that a run begins. A run that begins again (after a kill) keeps its first beginning.

        Raises:
            DataError: The id belongs to a run of another scenario.
        """
        for name, value in (("scenario", scenario), ("engine", engine), ("trigger", trigger)):
            check_text(name, value, 500)
        check_text("run id", run_id, 500)
        with self._db.write() as connection:
            known = connection.execute(select(runs.c.scenario).where(runs.c.run_id == run_id)).scalar()
            if known not in (None, scenario):
                raise DataError(f"run '{run_id}' belongs to scenario '{known}', not to '{scenario}'", do="use another run id")
            if known:
                connection.execute(update(runs).where(runs.c.run_id == run_id).values(state="running", finished_at=None))
                return
            row = {"run_id": run_id, "scenario": scenario, "engine": engine, "trigger": trigger, "state": "running"}
            connection.execute(insert(runs).values(**row, started_at=self._db.now(connection)))

    def finish_run(self, run_id: str, state: str, detail: Any = None) -> None:
        """Write down how a run ended; `detail` is plain JSON data.

        Raises:
            DataError: There is no such run.
        """
        check_text("state", state, 32)
        check_json("detail", detail)
        with self._db.write() as connection:
            values = {"state": state, "detail": detail, "finished_at": self._db.now(connection)}
            if not connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values)).rowcount:
                raise DataError(f"there is no run '{run_id}'", do="start it first")

    def runs(self, scenario: str) -> list[Run]:
        """Return the scenario's runs, newest first."""
        query = select(runs).where(runs.c.scenario == scenario).order_by(runs.c.started_at.desc(), runs.c.run_id)
        with self._db.read() as connection:
            return [Run(**row._asdict()) for row in connection.execute(query)]

    def record_outputs(self, run_id: str, step: str, refs: Mapping[str, str]) -> None:
        """Write down what a step of a run made: output port -> artifact reference. Later calls replace earlier ones."""
        with self._db.write() as connection:
            connection.execute(delete(outputs).where(outputs.c.run_id == run_id, outputs.c.step == step))
            if refs:
                connection.execute(
                    insert(outputs), [{"run_id": run_id, "step": step, "port": port, "ref": ref} for port, ref in refs.items()]
                )

    def outputs(self, run_id: str) -> dict[str, dict[str, str]]:
        """Return what a run's finished steps made: step -> output port -> artifact reference, in the order of their end."""
        query = select(outputs).where(outputs.c.run_id == run_id).order_by(outputs.c.n)
        made: dict[str, dict[str, str]] = {}
        with self._db.read() as connection:
            for row in connection.execute(query):
                made.setdefault(row.step, {})[row.port] = row.ref
        return made
