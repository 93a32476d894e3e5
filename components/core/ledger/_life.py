"""The life of a case: which state may follow which. Every change is written down in `case_events`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from components.core.errors import DataError
from components.core.ledger._db import chunks
from components.core.ledger.schema import case_events, cases
from components.core.ledger.types import State

__all__ = ["NEXT", "Moves", "lock"]

NEXT: Mapping[State | None, frozenset[State]] = {
    None: frozenset({"open"}),
    "open": frozenset({"labelled"}),
    "labelled": frozenset({"merged", "held", "quarantined"}),
    "held": frozenset({"labelled"}),
    "quarantined": frozenset({"labelled"}),
    "merged": frozenset({"verified", "labelled"}),
    "verified": frozenset({"closed", "labelled"}),
    "closed": frozenset({"reopened", "labelled"}),
    "reopened": frozenset({"verified", "labelled"}),
}
"""State -> the states that may follow. A relabel brings any case back to `labelled`."""


def lock(connection: Connection, scenario: str, ids: Iterable[str]) -> dict[str, Row[Any]]:
    """Lock cases until the transaction ends, in one order everywhere so that no two transactions wait for each other.

    Returns:
        Case id -> row with `id, state, closed_seq`.
    """
    found: dict[str, Row[Any]] = {}
    for some in chunks(sorted(set(ids))):
        query = select(cases.c.id, cases.c.state, cases.c.closed_seq).where(cases.c.id.in_(some), cases.c.scenario == scenario)
        found |= {row.id: row for row in connection.execute(query.order_by(cases.c.id).with_for_update())}
    return found


@dataclass
class Moves:
    """Changes of state, collected and then written together.

    Attributes:
        states: Case id -> state now; kept up to date. An id that is not in it is about to be born.
        run_id: The run that moves them, where it is one.
    """

    scenario: str
    states: dict[str, State]
    now: datetime
    run_id: str | None = None
    _events: list[dict[str, Any]] = field(default_factory=list)
    _updates: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to(self, case_id: str, state: State, why: str = "") -> None:
        """Move one case.

        Raises:
            DataError: Its state can't be followed by this one.
        """
        before = self.states.get(case_id)
        if state not in NEXT[before]:
            raise DataError(
                f"case {case_id} is {before} and can't become {state}", do=f"from {before} it can become: {', '.join(sorted(NEXT[before]))}"
            )
        self.states[case_id] = state
        self._events.append(
            {
                "case_id": case_id,
                "scenario": self.scenario,
                "before": before,
                "after": state,
                "why": why,
                "run_id": self.run_id,
                "created_at": self.now,
            }
        )
        self._updates[case_id] = {"b_id": case_id, "b_state": state, "b_reason": why if state in ("held", "quarantined") else None}

    def write(self, connection: Connection) -> None:
        """Write the states and the events."""
        if self._events:
            statement = (
                update(cases).where(cases.c.id == bindparam("b_id")).values(state=bindparam("b_state"), reason=bindparam("b_reason"))
            )
            connection.execute(statement, list(self._updates.values()))
            connection.execute(insert(case_events), self._events)
