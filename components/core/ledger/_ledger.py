"""The ledger's front: the nouns behind it, composed over one database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType

from components.core.ledger._cases import Cases
from components.core.ledger._claims import Claims
from components.core.ledger._db import Database
from components.core.ledger._deployments import Deployments
from components.core.ledger._leases import Leases
from components.core.ledger._predictions import Predictions
from components.core.ledger._runs import Runs
from components.core.ledger._studies import Studies
from components.core.ledger._versions import Versions

__all__ = ["Ledger"]


class Ledger:
    """Every call is one transaction; each is described where its noun is. Safe to share between threads.

    Use `Ledger.open`; the constructor takes a database that is open and up to date.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

        cases = Cases(db)
        self.add_case, self.add_cases, self.label_case = cases.add_case, cases.add_cases, cases.label_case
        self.case, self.cases, self.history, self.counts = cases.case, cases.cases, cases.history, cases.counts

        leases = Leases(db)
        self.acquire, self.renew, self.release, self.lease = leases.acquire, leases.renew, leases.release, leases.lease

        claims = Claims(db)
        self.claim, self.work = claims.claim, claims.work

        versions = Versions(db)
        self.commit_dataset, self.head, self.dataset_versions = versions.commit_dataset, versions.head, versions.dataset_versions
        self.merged_cases = versions.merged_cases
        self.record_model, self.models = versions.record_model, versions.models
        self.record_blessing, self.blessing = versions.record_blessing, versions.blessing

        deployments = Deployments(db)
        self.champion, self.deployments = deployments.champion, deployments.deployments
        self.deploy, self.rollback = deployments.deploy, deployments.rollback

        predictions = Predictions(db)
        self.log_predictions, self.prediction = predictions.log_predictions, predictions.prediction
        self.prune_predictions, self.lineage = predictions.prune_predictions, predictions.lineage

        runs = Runs(db)
        self.start_run, self.finish_run, self.runs = runs.start_run, runs.finish_run, runs.runs
        self.record_outputs, self.outputs = runs.record_outputs, runs.outputs

        studies = Studies(db)
        self.record_study, self.studies = studies.record_study, studies.studies

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], datetime] | None = None) -> Ledger:
        """Open a ledger; a database that is empty or behind is brought up to date first.

        Args:
            url: `sqlite:///FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.
            clock: What time it is (aware); by default PostgreSQL's own clock, or this machine's for SQLite.

        Raises:
            ConfigError: The URL is wrong, or a newer ATLAS made the database.
            TryAgain: The database can't be reached.
        """
        return cls(Database.open(url, clock))

    def close(self) -> None:
        """Close all connections."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
