"""Dataset versions, models and blessings: what runs have made, as a chain that others can rely on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, select

from components.core.errors import DataError
from components.core.ledger._cases import read_cases
from components.core.ledger._claims import check_claim, claimed_labels, head_row
from components.core.ledger._db import Database, chunks, insert_missing
from components.core.ledger._leases import require
from components.core.ledger._life import Moves, lock
from components.core.ledger.schema import blessings, cases, dataset_cases, dataset_versions, labels, models
from components.core.ledger.types import Blessing, Case, DatasetVersion, ModelVersion

if TYPE_CHECKING:
    from components.core.artifacts import Artifact

__all__ = ["Versions", "dataset_of"]


class Versions:
    """The nouns `dataset version`, `model` and `blessing`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def commit_dataset(
        self,
        scenario: str,
        run_id: str,
        artifact: Artifact,
        *,
        merged: Collection[str],
        held: Mapping[str, str],
        quarantined: Mapping[str, str],
    ) -> DatasetVersion:
        """Append a dataset version and move its cases, in one transaction; the same artifact again changes nothing.

        A case that was in an earlier version keeps that membership: this version only updates it. A case that got a label
        after the run had claimed it becomes `labelled` again at once, so that the next run sees what this one could not.

        Args:
            scenario: The scenario.
            run_id: The run; it must hold the lease.
            artifact: The dataset.
            merged: Ids of the cases whose label is in the dataset.
            held: Case id -> why it waits for a review.
            quarantined: Case id -> the row rule it broke.

        Raises:
            Refused: The lease is lost, or another run committed a version since this one claimed.
            DataError: A case is unknown, or not in a state to be merged.
        """
        with self._db.write() as connection:
            require(self._db, connection, scenario, run_id)
            known = _version(connection, scenario, artifact.ref)
            if known is not None:
                return _versions(connection, scenario, [known])[0]
            check_claim(connection, scenario, run_id)
            now = self._db.now(connection)
            head = head_row(connection, scenario)
            seq, parent = (head.seq + 1, head.ref) if head else (1, None)
            row = {"scenario": scenario, "seq": seq, "ref": artifact.ref, "parent": parent, "run_id": run_id, "merged": len(set(merged))}
            connection.execute(insert(dataset_versions).values(**row, created_at=now))
            fates = {**dict.fromkeys(merged, ("merged", f"dataset version {seq}"))}
            fates |= {case: ("held", why) for case, why in held.items()} | {case: ("quarantined", why) for case, why in quarantined.items()}
            if len(fates) != len(set(merged)) + len(held) + len(quarantined):
                raise DataError("a case is in two of merged, held and quarantined", do="give each case one fate")
            rows = lock(connection, scenario, fates)
            if missing := sorted(set(fates) - set(rows)):
                raise DataError(
                    f"scenario '{scenario}' has no case '{missing[0]}' ({len(missing)} unknown)", do="use ids that claim() returned"
                )
            moves = Moves(scenario, {case: found.state for case, found in rows.items()}, now, run_id)
            _settle(connection, moves, fates, claimed_labels(connection, scenario, run_id))
            _introduce(connection, scenario, seq, sorted(set(merged)))
            version = _version(connection, scenario, artifact.ref)
            return _versions(connection, scenario, [version] if version else [])[0]

    def head(self, scenario: str) -> DatasetVersion | None:
        """Return the newest dataset version."""
        with self._db.read() as connection:
            row = head_row(connection, scenario)
            return _versions(connection, scenario, [row])[0] if row else None

    def dataset_versions(self, scenario: str) -> list[DatasetVersion]:
        """Return the chain, oldest first."""
        query = select(dataset_versions).where(dataset_versions.c.scenario == scenario).order_by(dataset_versions.c.seq)
        with self._db.read() as connection:
            return _versions(connection, scenario, list(connection.execute(query)))

    def merged_cases(self, scenario: str) -> list[Case]:
        """Return every case that a dataset version ever introduced, whatever its state is now, sorted by id."""
        with self._db.read() as connection:
            found = read_cases(connection, cases.c.scenario == scenario, dataset_cases.c.case_id.is_not(None))
        return sorted(found, key=lambda case: case.id)

    def record_model(self, scenario: str, run_id: str, artifact: Artifact) -> None:
        """Make a model known; again changes nothing. The dataset it was trained on is among its parents."""
        dataset = next((parent for parent in artifact.parents if parent.startswith("Dataset/")), None)
        row = {"scenario": scenario, "ref": artifact.ref, "dataset": dataset, "run_id": run_id, "metadata": dict(artifact.metadata)}
        with self._db.write() as connection:
            connection.execute(insert_missing(connection, models), {**row, "created_at": self._db.now(connection)})

    def models(self, scenario: str) -> list[ModelVersion]:
        """Return the scenario's models, oldest first."""
        with self._db.read() as connection:
            rows = connection.execute(select(models).where(models.c.scenario == scenario).order_by(models.c.n)).all()
        return [ModelVersion(row.scenario, row.ref, row.dataset, row.run_id, row.created_at, row.metadata) for row in rows]

    def record_blessing(self, scenario: str, run_id: str, artifact: Artifact) -> None:
        """Make a verdict known; again changes nothing.

        Raises:
            DataError: The artifact's metadata lacks the verdict.
        """
        facts = artifact.metadata
        if (
            not isinstance(facts.get("accepted"), bool)
            or not facts.get("model")
            or "baseline" not in facts
            or not facts.get("evaluation_set")
        ):
            raise DataError(f"{artifact.ref} names no verdict", do="note accepted, model, baseline and evaluation_set in its metadata")
        row = {name: facts[name] for name in ("accepted", "model", "baseline", "evaluation_set")}
        row |= {"scenario": scenario, "ref": artifact.ref, "run_id": run_id}
        with self._db.write() as connection:
            connection.execute(insert_missing(connection, blessings), {**row, "created_at": self._db.now(connection)})

    def blessing(self, scenario: str, model_ref: str, baseline_ref: str | None) -> Blessing | None:
        """Return the newest verdict on a model against a baseline (None: against nothing)."""
        about = (
            (blessings.c.scenario == scenario) & (blessings.c.model == model_ref) & blessings.c.baseline.is_not_distinct_from(baseline_ref)
        )
        with self._db.read() as connection:
            row = connection.execute(select(blessings).where(about).order_by(blessings.c.n.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        return Blessing(row.scenario, row.ref, row.model, row.baseline, row.accepted, row.evaluation_set, row.run_id, row.created_at)


def dataset_of(connection: Connection, scenario: str, model: str) -> str | None:
    """Return the dataset that a model was trained on, where that is known."""
    found: str | None = connection.execute(select(models.c.dataset).where(models.c.scenario == scenario, models.c.ref == model)).scalar()
    return found


def _settle(connection: Connection, moves: Moves, fates: Mapping[str, tuple[str, str]], seen: Mapping[str, int]) -> None:
    """Give every case its fate, then wake those whose newest label the run has not seen."""
    newest: dict[str, int] = {}
    for some in chunks(sorted(fates)):
        query = select(labels.c.case_id, func.max(labels.c.n)).where(labels.c.case_id.in_(some)).group_by(labels.c.case_id)
        newest |= {row[0]: row[1] for row in connection.execute(query)}
    for case, (fate, why) in sorted(fates.items()):
        state = moves.states[case]
        if state == fate or (fate == "merged" and state in ("verified", "closed", "reopened")):
            continue  # a version that only repeats it
        settled = state in ("merged", "verified", "closed", "reopened")
        if case not in seen and not settled and state != "open":
            continue  # not this run's, and somebody is at it already; an open case has no label that could be merged
        if case in seen and state in ("merged", "held", "quarantined"):
            moves.to(case, "labelled", "the run commits again")  # its code changed between a kill and the re-run
        elif settled:
            moves.to(case, "labelled", "the new version does not hold it any more")
        moves.to(case, fate, why)  # type: ignore[arg-type]
        if case in seen and newest.get(case, 0) > seen[case]:
            moves.to(case, "labelled", "labelled while a run was merging it")
    moves.write(connection)


def _introduce(connection: Connection, scenario: str, seq: int, merged: list[str]) -> None:
    for some in chunks(merged):
        connection.execute(
            insert_missing(connection, dataset_cases), [{"case_id": case, "scenario": scenario, "seq": seq} for case in some]
        )


def _version(connection: Connection, scenario: str, ref: str) -> Row[Any] | None:
    return connection.execute(
        select(dataset_versions).where(dataset_versions.c.scenario == scenario, dataset_versions.c.ref == ref)
    ).one_or_none()


def _versions(connection: Connection, scenario: str, rows: list[Row[Any]]) -> list[DatasetVersion]:
    members: dict[int, list[str]] = {row.seq: [] for row in rows}
    of_these = (dataset_cases.c.scenario == scenario) & dataset_cases.c.seq.between(min(members, default=0), max(members, default=0))
    for row in connection.execute(select(dataset_cases).where(of_these).order_by(dataset_cases.c.case_id)):
        members.get(row.seq, []).append(row.case_id)
    return [DatasetVersion(row.scenario, row.seq, row.ref, row.parent, row.run_id, tuple(members[row.seq]), row.created_at) for row in rows]
