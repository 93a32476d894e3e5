"""Bad cases: delivered any number of times, in any order, kept once; labelled, read, counted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select

from components.core.artifacts import digest_of
from components.core.errors import DataError, nearest
from components.core.ledger._db import Database, check_text, chunks, insert_missing
from components.core.ledger._life import Moves, lock
from components.core.ledger._predictions import serving_seq
from components.core.ledger.schema import case_events, cases, dataset_cases, dataset_versions, labels
from components.core.ledger.types import STATES, Case, CaseEvent, Label, NewCase, Receipt, State

__all__ = ["Cases", "case_id", "read_cases"]


def case_id(scenario: str, content: str) -> str:
    """Return the id that a scenario's case about this content always has."""
    return hashlib.sha256(f"{scenario}:{content}".encode()).hexdigest()[:32]


class Cases:
    """The noun `case`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_case(self, scenario: str, new: NewCase) -> Receipt:
        """Keep one bad case; see `add_cases`."""
        return self.add_cases(scenario, [new])[0]

    def add_cases(self, scenario: str, new: Sequence[NewCase]) -> list[Receipt]:
        """Keep bad cases, all or none. When this returns they are on disk.

        Known content makes no second case, a known label key no second label. A *new* label makes the case `labelled`,
        except that a merged, verified or closed case stays as it is when the label says what is known already; a closed
        case is then `reopened` if a newer model than the one that closed it made the mistake.

        Raises:
            DataError: An item's digest, a label, a key or a source is malformed; nothing was kept.
            TryAgain: The database can't be used now.
        """
        check_text("scenario", scenario)
        for one in new:
            _check(one)
        ids = [case_id(scenario, one.item.content) for one in new]
        with self._db.write() as connection:
            now = self._db.now(connection)
            created = _insert_cases(connection, scenario, dict(zip(reversed(ids), reversed(new), strict=True)), now)
            rows = lock(connection, scenario, ids)
            moves = Moves(scenario, {key: row.state for key, row in rows.items() if key not in created}, now)
            arrivals = _Arrivals(connection, scenario, rows, moves)
            receipts = []
            for key, one in zip(ids, new, strict=True):
                fresh = key not in moves.states
                if fresh:
                    moves.to(key, "open", one.source)
                if one.label is not None:
                    arrivals.label(key, one.label, one.source, one.reviewed, one.key, one.prediction_id)
                receipts.append(Receipt(key, fresh, moves.states[key]))
            arrivals.write()
        return receipts

    def label_case(self, case_id: str, value: str | float, *, source: str, reviewed: bool = False, key: str | None = None) -> Case:
        """Add a label to a known case.

        Without a key this is an act of its own: going back to an earlier label counts, saying the same thing twice does not.

        Raises:
            DataError: There is no such case, or the label is malformed.
        """
        _check_label(value, source, key)
        with self._db.write() as connection:
            scenario = connection.execute(select(cases.c.scenario).where(cases.c.id == case_id)).scalar()
            if scenario is None:
                raise _unknown(case_id)
            rows = lock(connection, scenario, [case_id])
            moves = Moves(scenario, {case_id: rows[case_id].state}, self._db.now(connection))
            arrivals = _Arrivals(connection, scenario, rows, moves)
            if key is None:
                key = arrivals.act(case_id, value, source, reviewed)
            if key is not None:
                arrivals.label(case_id, value, source, reviewed, key, None)
                arrivals.write()
            return read_cases(connection, cases.c.id == case_id)[0]

    def case(self, case_id: str) -> Case:
        """Return one case.

        Raises:
            DataError: There is no such case.
        """
        with self._db.read() as connection:
            found = read_cases(connection, cases.c.id == case_id)
        if not found:
            raise _unknown(case_id)
        return found[0]

    def cases(
        self, scenario: str, *, states: Collection[str] | None = None, limit: int | None = None, newest_first: bool = False
    ) -> list[Case]:
        """Return a scenario's cases, oldest first unless `newest_first`; `limit` keeps the first of them."""
        conditions = [cases.c.scenario == scenario]
        if states is not None:
            for state in states:
                if state not in STATES:
                    raise DataError(f"'{state}' is no state of a case", do=nearest(state, STATES))
            conditions.append(cases.c.state.in_(list(states)))
        with self._db.read() as connection:
            return read_cases(connection, *conditions, limit=limit, newest_first=newest_first)

    def history(self, case_id: str) -> list[CaseEvent]:
        """Return every change of the case's state, oldest first.

        Raises:
            DataError: There is no such case.
        """
        with self._db.read() as connection:
            rows = connection.execute(select(case_events).where(case_events.c.case_id == case_id).order_by(case_events.c.n)).all()
        if not rows:
            raise _unknown(case_id)
        return [CaseEvent(row.case_id, row.before, row.after, row.why, row.run_id, row.created_at) for row in rows]

    def counts(self, scenario: str) -> dict[State, int]:
        """Return state -> number of cases, for every state."""
        query = select(cases.c.state, func.count()).where(cases.c.scenario == scenario).group_by(cases.c.state)
        with self._db.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in STATES}


class _Arrivals:
    """Labels that arrive in one transaction, against what the locked cases have already."""

    def __init__(self, connection: Connection, scenario: str, rows: Mapping[str, Row[Any]], moves: Moves) -> None:
        self._connection = connection
        self._scenario = scenario
        self._rows = rows
        self._moves = moves
        self._known: dict[str, list[Label]] = _labels(connection, list(rows))
        self._keys = {case: {label.key for label in found} for case, found in self._known.items()}
        self._new: list[dict[str, Any]] = []

    def act(self, case: str, value: str | float, source: str, reviewed: bool) -> str | None:
        """Return the key of a label given without one, by hand; None when it repeats what this source said last."""
        own = [label for label in self._known.get(case, ()) if label.source == source]
        if own and (own[-1].value, own[-1].reviewed) == (value, reviewed):
            return None
        return f"{_derived(value, source, reviewed)}#{len(own)}"

    def label(self, case: str, value: str | float, source: str, reviewed: bool, key: str | None, prediction_id: str | None) -> None:
        key = key or _derived(value, source, reviewed)
        keys = self._keys.setdefault(case, set())
        if key in keys:
            return
        known = self._known.setdefault(case, [])
        says_nothing_new = bool(known) and known[-1].value == value
        keys.add(key)
        known.append(Label(value, source, reviewed, key, self._moves.now))
        self._new.append(
            {"case_id": case, "key": key, "value": value, "source": source, "reviewed": reviewed, "created_at": self._moves.now}
        )
        state = self._moves.states[case]
        if state == "labelled":
            return
        if says_nothing_new and state in ("merged", "verified", "closed"):
            if state == "closed" and self._by_newer_model(case, prediction_id):
                self._moves.to(case, "reopened", f"prediction {prediction_id} by a newer model")
            return
        self._moves.to(case, "labelled", source)

    def write(self) -> None:
        self._moves.write(self._connection)
        if self._new:
            self._connection.execute(insert(labels), self._new)

    def _by_newer_model(self, case: str, prediction_id: str | None) -> bool:
        closed_seq = self._rows[case].closed_seq
        seq = serving_seq(self._connection, self._scenario, prediction_id) if prediction_id else None
        return seq is not None and closed_seq is not None and seq > closed_seq


def read_cases(
    connection: Connection,
    *conditions: ColumnElement[bool],
    limit: int | None = None,
    last_label: Mapping[str, int] | None = None,
    newest_first: bool = False,
) -> list[Case]:
    """Read cases with their labels.

    Args:
        connection: An open transaction.
        conditions: On the table `cases`.
        limit: At most this many.
        last_label: Case id -> the newest label number to show.
        newest_first: The order; by default the oldest case comes first.
    """
    joined = cases.outerjoin(dataset_cases, dataset_cases.c.case_id == cases.c.id).outerjoin(
        dataset_versions,
        (dataset_versions.c.scenario == dataset_cases.c.scenario) & (dataset_versions.c.seq == dataset_cases.c.seq),
    )
    query = select(cases, dataset_versions.c.ref.label("dataset")).select_from(joined).where(*conditions)
    keys = (cases.c.created_at, cases.c.id)
    rows = connection.execute(query.order_by(*(key.desc() if newest_first else key for key in keys)).limit(limit)).all()
    found = _labels(connection, [row.id for row in rows], last_label)
    return [
        Case(
            id=row.id,
            scenario=row.scenario,
            content=row.content,
            group=row.group_key,
            media_type=row.media_type,
            payload=row.payload,
            state=row.state,
            source=row.source,
            prediction_id=row.prediction_id,
            labels=tuple(found.get(row.id, ())),
            reason=row.reason,
            created_at=row.created_at,
            dataset=row.dataset,
            confidence=row.confidence,
        )
        for row in rows
    ]


def _labels(connection: Connection, ids: Sequence[str], last_label: Mapping[str, int] | None = None) -> dict[str, list[Label]]:
    found: dict[str, list[Label]] = {}
    for some in chunks(ids):
        for row in connection.execute(select(labels).where(labels.c.case_id.in_(some)).order_by(labels.c.n)):
            if last_label is None or row.n <= last_label[row.case_id]:
                found.setdefault(row.case_id, []).append(Label(row.value, row.source, row.reviewed, row.key, row.created_at))
    return found


def _insert_cases(connection: Connection, scenario: str, first: Mapping[str, NewCase], now: datetime) -> set[str]:
    """Insert the cases that are not there yet and return their ids; two writers of one case agree on who was first."""
    known: set[str] = set()
    for some in chunks(sorted(first)):
        known.update(connection.execute(select(cases.c.id).where(cases.c.id.in_(some))).scalars())
    created: set[str] = set()
    for some in chunks(sorted(set(first) - known)):
        rows = [
            {
                "id": key,
                "scenario": scenario,
                "content": first[key].item.content,
                "group_key": first[key].item.group,
                "media_type": first[key].item.media_type,
                "payload": first[key].item.payload,
                "state": "open",
                "source": first[key].source,
                "prediction_id": first[key].prediction_id,
                "confidence": first[key].confidence,
                "created_at": now,
            }
            for key in some
        ]
        created.update(connection.execute(insert_missing(connection, cases).returning(cases.c.id), rows).scalars())
    return created


def _derived(value: str | float, source: str, reviewed: bool) -> str:
    return "auto:" + digest_of([value, source, reviewed])[:32]


def _check(new: NewCase) -> None:
    if hashlib.sha256(new.item.payload).hexdigest() != new.item.content:
        raise DataError(
            f"an item of {len(new.item.payload)} bytes does not hash to its content {new.item.content[:12]}…",
            do="make items with item_from_bytes",
        )
    check_text("group", new.item.group)
    check_text("media type", new.item.media_type)
    check_text("source", new.source)
    if new.prediction_id is not None:
        check_text("prediction id", new.prediction_id)
    if new.label is not None:
        _check_label(new.label, new.source, new.key)


def _check_label(value: str | float, source: str, key: str | None) -> None:
    check_text("source", source)
    if key is not None:
        check_text("label key", key)
    if isinstance(value, str):
        check_text("label", value, 10_000)
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"label {value!r} is neither a text nor a finite number", do="correct the label")


def _unknown(case_id: str) -> DataError:
    return DataError(f"there is no case '{case_id}'", do="list them: atlas cases list SCENARIO")
