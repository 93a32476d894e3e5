"""Claims: which cases a run works on. Only the lease's holder claims, so the claims of all other runs are void."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, func, insert, select

from components.core.errors import Refused
from components.core.ledger._cases import read_cases
from components.core.ledger._db import Database, chunks
from components.core.ledger._leases import live, require
from components.core.ledger.schema import blessings, case_events, cases, claim_sets, claims, dataset_versions, labels, leases, models
from components.core.ledger.types import Case, Work

__all__ = ["Claims", "check_claim", "claimed_labels", "head_row"]

_MOST_TRIES = 3


class Claims:
    """The noun `claim`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def claim(self, scenario: str, run_id: str) -> list[Case]:
        """Claim every labelled case for a run, once: asked again, the run gets the same cases with the same labels.

        Returns:
            The cases, sorted by id.

        Raises:
            Refused: The run does not hold the lease, or another run committed a dataset version since this one claimed.
        """
        with self._db.write() as connection:
            require(self._db, connection, scenario, run_id)
            head = head_row(connection, scenario)
            if _claim_set(connection, scenario, run_id) is None:
                seq = head.seq if head else 0
                now = self._db.now(connection)
                connection.execute(insert(claim_sets).values(scenario=scenario, run_id=run_id, head_seq=seq, created_at=now))
                _claim_labelled(connection, scenario, run_id)
            else:
                check_claim(connection, scenario, run_id)
            last_label = claimed_labels(connection, scenario, run_id)
            mine = exists().where(claims.c.scenario == scenario, claims.c.run_id == run_id, claims.c.case_id == cases.c.id)
            found = read_cases(connection, mine, last_label=last_label)
        return sorted(found, key=lambda case: case.id)

    def work(self, scenario: str) -> Work:
        """Return what there is to do; cheap enough to ask every second."""
        with self._db.read() as connection:
            lease = connection.execute(select(leases).where(leases.c.scenario == scenario)).one_or_none()
            holder = lease.run_id if lease is not None and live(lease, self._db.now(connection)) else None
            labelled = select(func.count()).where(cases.c.scenario == scenario, cases.c.state == "labelled")
            if holder:
                own = exists().where(claims.c.scenario == scenario, claims.c.run_id == holder, claims.c.case_id == cases.c.id)
                labelled = labelled.where(~own)
            latest = select(func.max(case_events.c.n)).where(case_events.c.scenario == scenario)
            return Work(
                claimable=connection.execute(labelled).scalar_one(),
                unfinished=_unfinished(connection, scenario, holder),
                holder=holder,
                latest=connection.execute(latest).scalar() or 0,
            )


def head_row(connection: Connection, scenario: str) -> Row[Any] | None:
    """Return the newest dataset version's row."""
    query = select(dataset_versions).where(dataset_versions.c.scenario == scenario).order_by(dataset_versions.c.seq.desc()).limit(1)
    return connection.execute(query).one_or_none()


def check_claim(connection: Connection, scenario: str, run_id: str) -> None:
    """Check that no other run moved the dataset chain since this run claimed; a run that never claimed passes.

    Raises:
        Refused: What the run read is out of date.
    """
    claim_set = _claim_set(connection, scenario, run_id)
    if claim_set is None:
        return
    of_others = (dataset_versions.c.scenario == scenario) & (dataset_versions.c.run_id != run_id)
    other = connection.execute(
        select(dataset_versions).where(of_others, dataset_versions.c.seq > claim_set.head_seq).limit(1)
    ).one_or_none()
    if other is not None:
        raise Refused(
            f"run {other.run_id} committed dataset version {other.seq} of '{scenario}' after run {run_id} had claimed its cases",
            do="start a new run: it builds on that version",
        )


def claimed_labels(connection: Connection, scenario: str, run_id: str) -> dict[str, int]:
    """Return case id -> number of the newest label that the run saw when it claimed."""
    query = select(claims.c.case_id, claims.c.last_label).where(claims.c.scenario == scenario, claims.c.run_id == run_id)
    return {row.case_id: row.last_label for row in connection.execute(query)}


def _claim_set(connection: Connection, scenario: str, run_id: str) -> Row[Any] | None:
    return connection.execute(select(claim_sets).where(claim_sets.c.scenario == scenario, claim_sets.c.run_id == run_id)).one_or_none()


def _claim_labelled(connection: Connection, scenario: str, run_id: str) -> None:
    labelled = select(cases.c.id).where(cases.c.scenario == scenario, cases.c.state == "labelled")
    ids = connection.execute(labelled.order_by(cases.c.id).with_for_update()).scalars().all()
    for some in chunks(ids):
        newest = select(labels.c.case_id, func.max(labels.c.n)).where(labels.c.case_id.in_(some)).group_by(labels.c.case_id)
        rows = [{"scenario": scenario, "run_id": run_id, "case_id": row[0], "last_label": row[1]} for row in connection.execute(newest)]
        connection.execute(insert(claims), rows)


def _unfinished(connection: Connection, scenario: str, holder: str | None) -> bool:
    """Whether versions follow the last one that a gate judged. A version without cases is one more try at the one before."""
    of_scenario = dataset_versions.c.scenario == scenario
    trained = (models.c.scenario == scenario) & (models.c.dataset == dataset_versions.c.ref)
    judged = (blessings.c.scenario == scenario) & (blessings.c.model == models.c.ref)
    last = select(func.max(dataset_versions.c.seq)).join(models, trained).join(blessings, judged).where(of_scenario)
    brought = select(func.max(dataset_versions.c.seq)).where(of_scenario, dataset_versions.c.merged > 0)
    since = max((connection.execute(last).scalar() or 0) + 1, connection.execute(brought).scalar() or 1)
    committed = select(dataset_versions.c.run_id).where(of_scenario, dataset_versions.c.seq >= since)
    tried = set(connection.execute(committed).scalars())
    if not tried:
        return False
    started = select(claim_sets.c.run_id).where(claim_sets.c.scenario == scenario, claim_sets.c.head_seq >= since)
    return len((tried | set(connection.execute(started).scalars())) - {holder}) < _MOST_TRIES
