"""Leases: one run per scenario. The lease's row is also the lock under which a run's transactions line up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update

from components.core.errors import NothingToDo, Refused
from components.core.ledger._db import Database, check_text, insert_missing
from components.core.ledger.schema import leases
from components.core.ledger.types import LEASE_TTL_S, Lease

__all__ = ["Leases", "live", "lock_scenario", "require"]


class Leases:
    """The noun `lease`.

    A lease is lost when another run takes it over, which it may once the lease has expired, or when it is released. A run
    that only fell asleep, and that nobody replaced, goes on: its token is still the newest, so nothing can have happened.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def acquire(self, scenario: str, run_id: str, ttl_s: float = LEASE_TTL_S) -> Lease:
        """Take the lease, take it over from a run that let it expire, or renew one's own (same token).

        Raises:
            NothingToDo: Another run holds it.
        """
        check_text("run id", run_id, 500)
        with self._db.write() as connection:
            row = lock_scenario(self._db, connection, scenario)
            now = self._db.now(connection)
            if row.run_id not in (None, run_id) and live(row, now):
                raise NothingToDo(
                    f"run {row.run_id} is already working on scenario '{scenario}' (until {row.expires_at:%H:%M:%S} UTC at least)",
                    do="wait for it to end",
                )
            token = row.token if row.run_id == run_id else row.token + 1
            return _keep(connection, Lease(scenario, run_id, token, now + timedelta(seconds=ttl_s)), ttl_s)

    def renew(self, lease: Lease) -> Lease:
        """Hold the lease for another term.

        Raises:
            Refused: It was lost.
        """
        with self._db.write() as connection:
            row = lock_scenario(self._db, connection, lease.scenario)
            if (row.run_id, row.token) != (lease.run_id, lease.token):
                raise _lost(lease.scenario, lease.run_id, row)
            expires_at = self._db.now(connection) + timedelta(seconds=row.ttl_s)
            return _keep(connection, Lease(lease.scenario, lease.run_id, lease.token, expires_at), row.ttl_s)

    def release(self, scenario: str, run_id: str) -> bool:
        """Give the lease back; False when the run does not hold it."""
        statement = update(leases).where(leases.c.scenario == scenario, leases.c.run_id == run_id).values(run_id=None)
        with self._db.write() as connection:
            return bool(connection.execute(statement).rowcount)

    def lease(self, scenario: str) -> Lease | None:
        """Return the live lease, if there is one."""
        with self._db.read() as connection:
            row = connection.execute(select(leases).where(leases.c.scenario == scenario)).one_or_none()
            if row is None or not live(row, self._db.now(connection)):
                return None
        return Lease(row.scenario, row.run_id, row.token, row.expires_at)


def live(row: Row[Any], now: datetime) -> bool:
    """Whether somebody holds this lease now."""
    return row.run_id is not None and row.expires_at > now


def lock_scenario(db: Database, connection: Connection, scenario: str) -> Row[Any]:
    """Lock the scenario until the transaction ends and return its lease's row."""
    query = select(leases).where(leases.c.scenario == scenario).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        check_text("scenario", scenario)
        nobody = {"scenario": scenario, "run_id": None, "token": 0, "ttl_s": LEASE_TTL_S, "expires_at": db.now(connection)}
        connection.execute(insert_missing(connection, leases), nobody)
        row = connection.execute(query).one()
    return row


def require(db: Database, connection: Connection, scenario: str, run_id: str) -> None:
    """Lock the scenario for a run that must hold its lease.

    Raises:
        Refused: The run has lost the lease, or never had it.
    """
    row = lock_scenario(db, connection, scenario)
    if row.run_id != run_id:
        raise _lost(scenario, run_id, row)


def _keep(connection: Connection, lease: Lease, ttl_s: float) -> Lease:
    values = {"run_id": lease.run_id, "token": lease.token, "ttl_s": ttl_s, "expires_at": lease.expires_at}
    connection.execute(update(leases).where(leases.c.scenario == lease.scenario).values(**values))
    return lease


def _lost(scenario: str, run_id: str, row: Row[Any]) -> Refused:
    holder = f"run {row.run_id} holds it" if row.run_id else "nobody holds it"
    return Refused(f"run {run_id} does not hold the lease of scenario '{scenario}': {holder} (token {row.token})", do="start a new run")
