"""The ledger: the one truth about bad cases, claims, dataset versions, models, blessings, deployments and runs.

One SQL database, SQLite (WAL) on a laptop and PostgreSQL in production; the same code, the same tests. Every call is one
transaction. What it raises:

    TryAgain    the database is not there, is locked, or its disk is full
    DataError   a case, a prediction, a deployment that does not exist; a malformed label
    Refused     a lost lease, a stale baseline, a missing or refused blessing
    NothingToDo another run holds the lease
"""

from __future__ import annotations

from components.core.ledger._ledger import Ledger
from components.core.ledger.types import (
    LEASE_TTL_S,
    STATES,
    Blessing,
    Case,
    CaseEvent,
    DatasetVersion,
    Deployment,
    Label,
    Lease,
    ModelVersion,
    NewCase,
    Prediction,
    Receipt,
    Run,
    State,
    Study,
    Work,
)

__all__ = [
    "LEASE_TTL_S",
    "STATES",
    "Blessing",
    "Case",
    "CaseEvent",
    "DatasetVersion",
    "Deployment",
    "Label",
    "Lease",
    "Ledger",
    "ModelVersion",
    "NewCase",
    "Prediction",
    "Receipt",
    "Run",
    "State",
    "Study",
    "Work",
]
