"""Deployments: which model serves. A linear chain; the newest link is the champion, and every change appends one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from components.core.errors import DataError, Refused
from components.core.ledger._db import Database, chunks
from components.core.ledger._leases import lock_scenario, require
from components.core.ledger._life import Moves, lock
from components.core.ledger._versions import dataset_of
from components.core.ledger.schema import blessings, cases, deployments
from components.core.ledger.types import Deployment

__all__ = ["Deployments"]


class Deployments:
    """The noun `deployment`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def champion(self, scenario: str) -> Deployment | None:
        """Return what serves now."""
        with self._db.read() as connection:
            row = _champion(connection, scenario)
        return _deployment(row) if row else None

    def deployments(self, scenario: str) -> list[Deployment]:
        """Return the serving history, oldest first."""
        query = select(deployments).where(deployments.c.scenario == scenario).order_by(deployments.c.seq)
        with self._db.read() as connection:
            return [_deployment(row) for row in connection.execute(query)]

    def deploy(
        self,
        scenario: str,
        run_id: str,
        *,
        model: str,
        blessing: str,
        expected_seq: int | None,
        right: Sequence[str],
        wrong: Sequence[str],
    ) -> Deployment:
        """Move the pointer to `model`, and the cases with it, in one transaction. A run that repeats its deploy changes nothing.

        Args:
            scenario: The scenario.
            run_id: The run; it must hold the lease.
            model: Reference of the challenger.
            blessing: Reference of the verdict that lets it pass.
            expected_seq: `seq` of the champion that the run compared with; None: nothing served.
            right: Ids of merged cases that the challenger gets right: they are verified and closed.
            wrong: Ids of those that it gets wrong: closed ones are reopened.

        Raises:
            Refused: The lease is lost; the champion is not the expected one; or the blessing is unknown, not accepted, about
                another model, or about another champion.
            DataError: A case is unknown.
        """
        with self._db.write() as connection:
            require(self._db, connection, scenario, run_id)
            champion = _champion(connection, scenario)
            if champion and (champion.run_id, champion.model, champion.blessing, champion.kind) == (run_id, model, blessing, "deploy"):
                return _deployment(champion)
            _check_blessing(connection, scenario, model, blessing, champion)
            if (champion.seq if champion else None) != expected_seq:
                serving = champion.seq if champion else "none"
                raise Refused(
                    f"deployment {serving} of '{scenario}' serves now, the run compared with {expected_seq or 'none'}",
                    do="start a new run: its baseline is what serves now",
                )
            dataset = dataset_of(connection, scenario, model)
            new = {"model": model, "dataset": dataset, "blessing": blessing, "run_id": run_id, "kind": "deploy", "restores": None}
            row = self._append(connection, scenario, champion, new)
            _close_and_reopen(connection, row, right, wrong)
            return _deployment(row)

    def rollback(self, scenario: str, *, to_seq: int | None = None) -> Deployment:
        """Let an earlier model serve again, by a new link of the chain; cases closed since then are reopened.

        Args:
            scenario: The scenario.
            to_seq: The deployment to go back to; by default the last one before the champion's, with another model.

        Raises:
            DataError: There is no deployment `to_seq`.
            Refused: There is nothing to go back to, or its model serves already.
        """
        with self._db.write() as connection:
            lock_scenario(self._db, connection, scenario)
            champion = _champion(connection, scenario)
            target = _target(connection, scenario, champion, to_seq)
            origin = target.restores or target.seq
            row = self._append(
                connection,
                scenario,
                champion,
                {
                    "model": target.model,
                    "dataset": target.dataset,
                    "blessing": target.blessing,
                    "run_id": None,
                    "kind": "rollback",
                    "restores": origin,
                },
            )
            later = select(cases.c.id).where(cases.c.scenario == scenario, cases.c.state == "closed", cases.c.closed_seq > origin)
            ids = connection.execute(later).scalars().all()
            _reopen(connection, row, ids, f"rollback to deployment {origin}")
            return _deployment(row)

    def _append(self, connection: Connection, scenario: str, champion: Row[Any] | None, new: dict[str, Any]) -> Row[Any]:
        previous = champion.seq if champion else None
        place = {"scenario": scenario, "seq": (previous or 0) + 1, "previous": previous, "created_at": self._db.now(connection)}
        connection.execute(insert(deployments).values(**new, **place))
        row = _champion(connection, scenario)
        if row is None:  # never: it was inserted above
            raise DataError(f"scenario '{scenario}' has no deployment", do="report this")
        return row


def _champion(connection: Connection, scenario: str) -> Row[Any] | None:
    query = select(deployments).where(deployments.c.scenario == scenario).order_by(deployments.c.seq.desc()).limit(1)
    return connection.execute(query).one_or_none()


def _check_blessing(connection: Connection, scenario: str, model: str, blessing: str, champion: Row[Any] | None) -> None:
    query = select(blessings).where(blessings.c.scenario == scenario, blessings.c.ref == blessing)
    verdict = connection.execute(query).one_or_none()
    if verdict is None:
        raise Refused(f"scenario '{scenario}' has no blessing '{blessing}'", do="let evaluate judge the model")
    if verdict.model != model:
        raise Refused(f"{blessing} is about {verdict.model}, not about {model}", do="let evaluate judge this model")
    if not verdict.accepted:
        raise Refused(f"{blessing} refuses {model}", do="read its rules in the report; a better model is needed")
    serving = champion.model if champion else None
    if verdict.baseline != serving:
        raise Refused(
            f"{blessing} compares with {verdict.baseline or 'nothing'}, but {serving or 'nothing'} serves now",
            do="start a new run: its baseline is what serves now",
        )


def _target(connection: Connection, scenario: str, champion: Row[Any] | None, to_seq: int | None) -> Row[Any]:
    if champion is None:
        raise Refused(f"nothing serves for scenario '{scenario}'", do="deploy a model first: atlas run")
    of_scenario = select(deployments).where(deployments.c.scenario == scenario)
    if to_seq is not None:
        target = connection.execute(of_scenario.where(deployments.c.seq == to_seq)).one_or_none()
        if target is None:
            raise DataError(f"scenario '{scenario}' has no deployment {to_seq}", do=f"give a number from 1 to {champion.seq}")
        if target.model == champion.model:
            raise Refused(f"the model of deployment {to_seq} serves already", do="nothing is left to do")
        return target
    earlier = of_scenario.where(deployments.c.seq < (champion.restores or champion.seq), deployments.c.model != champion.model)
    target = connection.execute(earlier.order_by(deployments.c.seq.desc()).limit(1)).one_or_none()
    if target is None:
        raise Refused(f"scenario '{scenario}' has no earlier model to go back to", do="deploy a better one: atlas run")
    return target


def _close_and_reopen(connection: Connection, row: Row[Any], right: Sequence[str], wrong: Sequence[str]) -> None:
    found = lock(connection, row.scenario, [*right, *wrong])
    if missing := sorted({*right, *wrong} - set(found)):
        raise DataError(f"scenario '{row.scenario}' has no case '{missing[0]}' ({len(missing)} unknown)", do="give ids of merged cases")
    moves = Moves(row.scenario, {key: case.state for key, case in found.items()}, row.created_at, row.run_id)
    closed = []
    for key in sorted(set(right)):
        state = moves.states[key]
        if state in ("merged", "reopened"):
            moves.to(key, "verified", f"the model of deployment {row.seq} gets it right")
        if moves.states[key] == "verified":
            moves.to(key, "closed", f"deployment {row.seq}")
            closed.append(key)
    for key in sorted(set(wrong) - set(right)):
        if moves.states[key] == "closed":
            moves.to(key, "reopened", f"the model of deployment {row.seq} gets it wrong")
    moves.write(connection)
    for some in chunks(closed):
        connection.execute(update(cases).where(cases.c.id.in_(some)).values(closed_seq=row.seq))


def _reopen(connection: Connection, row: Row[Any], ids: Sequence[str], why: str) -> None:
    found = lock(connection, row.scenario, ids)
    moves = Moves(row.scenario, {key: case.state for key, case in found.items()}, row.created_at)
    for key, case in found.items():
        if case.state == "closed":
            moves.to(key, "reopened", why)
    moves.write(connection)


def _deployment(row: Row[Any]) -> Deployment:
    return Deployment(row.scenario, row.seq, row.model, row.dataset, row.blessing, row.run_id, row.kind, row.previous, row.created_at)
