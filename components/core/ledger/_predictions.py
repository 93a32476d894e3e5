"""Logged predictions, and where one came from: model, deployment, dataset version, cases, run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, exists, func, select

from components.core.errors import DataError
from components.core.ledger._db import Database, check_json, check_text, chunks, insert_missing
from components.core.ledger.schema import cases, dataset_cases, dataset_versions, deployments, models, predictions, runs
from components.core.ledger.types import Prediction

__all__ = ["Predictions", "serving_seq"]


class Predictions:
    """The noun `prediction`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def log_predictions(self, new: Sequence[Prediction]) -> None:
        """Keep predictions, all or none; a known id changes nothing.

        Raises:
            DataError: An id or another text is malformed.
        """
        rows = []
        for one in new:
            for name in ("id", "scenario", "model", "group", "media_type"):
                check_text(f"a prediction's {name}", getattr(one, name))
            check_json("a prediction's answer", one.answer)
            row = asdict(one)
            row["group_key"] = row.pop("group")
            rows.append(row)
        with self._db.write() as connection:
            for some in chunks(sorted(rows, key=lambda row: str(row["id"]))):
                connection.execute(insert_missing(connection, predictions), list(some))

    def prediction(self, id: str) -> Prediction:
        """Return a logged prediction.

        Raises:
            DataError: There is none with this id; it may have been pruned.
        """
        with self._db.read() as connection:
            return _prediction(connection, id)

    def prune_predictions(self, scenario: str, keep: int) -> int:
        """Drop all but the newest `keep` predictions, and return how many went. Those that cases are about stay."""
        newest = select(predictions.c.n).where(predictions.c.scenario == scenario).order_by(predictions.c.n.desc())
        with self._db.write() as connection:
            last = connection.execute(newest.offset(max(keep, 0)).limit(1)).scalar()
            if last is None:
                return 0
            about = exists().where(cases.c.prediction_id == predictions.c.id)
            gone = connection.execute(delete(predictions).where(predictions.c.scenario == scenario, predictions.c.n <= last, ~about))
            return int(gone.rowcount)

    def lineage(self, prediction_id: str) -> dict[str, Any]:
        """Return where a prediction came from, as plain JSON data.

        Returns:
            `prediction` (without its payload), `model`, `deployment`, `dataset` (the version it was trained on; `chain` lists
            the versions up to it), `cases` (introduced by that version), `reported` (cases about this prediction) and `run`.
            What the ledger does not know is None.

        Raises:
            DataError: There is no such prediction.
        """
        with self._db.read() as connection:
            found = _prediction(connection, prediction_id)
            scenario = found.scenario
            model = connection.execute(select(models).where(models.c.scenario == scenario, models.c.ref == found.model)).one_or_none()
            seq = _deployed(connection, scenario, found.model, found.created_at)
            deployment = connection.execute(
                select(deployments).where(deployments.c.scenario == scenario, deployments.c.seq == seq)
            ).one_or_none()
            dataset_ref = model.dataset if model else deployment.dataset if deployment else None
            dataset, introduced = _dataset(connection, scenario, dataset_ref)
            reported = select(cases.c.id, cases.c.state).where(cases.c.prediction_id == prediction_id).order_by(cases.c.id)
            run_id = model.run_id if model else deployment.run_id if deployment else None
            run = connection.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
            about = asdict(found)
            del about["payload"]
            return {
                "prediction": _plain(about),
                "model": _plain(model._asdict()) if model else None,
                "deployment": _plain(deployment._asdict()) if deployment else None,
                "dataset": dataset,
                "cases": introduced,
                "reported": [dict(row._mapping) for row in connection.execute(reported)],
                "run": _plain(run._asdict()) if run else None,
            }


def serving_seq(connection: Connection, scenario: str, prediction_id: str) -> int | None:
    """Return the deployment that made a prediction; None when the ledger does not know."""
    row = connection.execute(select(predictions.c.model, predictions.c.created_at).where(predictions.c.id == prediction_id)).one_or_none()
    return _deployed(connection, scenario, row.model, row.created_at) if row else None


def _deployed(connection: Connection, scenario: str, model: str, at: datetime) -> int | None:
    """A model may serve, be replaced, and serve again: take its last deployment before `at`, or its first."""
    of_model = (deployments.c.scenario == scenario) & (deployments.c.model == model)
    before = connection.execute(select(func.max(deployments.c.seq)).where(of_model, deployments.c.created_at <= at)).scalar()
    if before is not None:
        return int(before)
    first: int | None = connection.execute(select(func.min(deployments.c.seq)).where(of_model)).scalar()
    return first


def _dataset(connection: Connection, scenario: str, ref: str | None) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    count = (
        select(func.count()).where(dataset_cases.c.scenario == scenario, dataset_cases.c.seq == dataset_versions.c.seq).scalar_subquery()
    )
    query = select(dataset_versions, count.label("cases")).where(dataset_versions.c.scenario == scenario).order_by(dataset_versions.c.seq)
    versions = connection.execute(query).all()
    own = next((version for version in versions if version.ref == ref), None)
    if own is None:
        return ({"ref": ref} if ref else None), []
    chain = [{"seq": version.seq, "ref": version.ref, "cases": version.cases} for version in versions if version.seq <= own.seq]
    of_version = (dataset_cases.c.scenario == scenario) & (dataset_cases.c.seq == own.seq)
    introduced = select(cases.c.id, cases.c.state).join(dataset_cases, dataset_cases.c.case_id == cases.c.id).where(of_version)
    return (
        _plain(own._asdict()) | {"chain": chain},
        [dict(row._mapping) for row in connection.execute(introduced.order_by(cases.c.id))],
    )


def _prediction(connection: Connection, id: str) -> Prediction:
    row = connection.execute(select(predictions).where(predictions.c.id == id)).one_or_none()
    if row is None:
        raise DataError(f"there is no prediction '{id}'", do="check the id; old predictions are dropped (serving.keep_predictions)")
    return Prediction(
        row.id, row.scenario, row.model, row.content, row.group_key, row.media_type, row.payload, row.answer, row.confidence, row.created_at
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items() if key != "n"}
