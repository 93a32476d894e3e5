"""The ledger's tables. A change here needs a migration: a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from components.core.ledger.types import STATES

__all__ = [
    "blessings",
    "case_events",
    "cases",
    "claim_sets",
    "claims",
    "dataset_cases",
    "dataset_versions",
    "deployments",
    "labels",
    "leases",
    "metadata",
    "models",
    "outputs",
    "predictions",
    "runs",
    "studies",
]


class Utc(TypeDecorator[datetime]):
    """Aware UTC in Python; SQLite keeps no zone, so UTC is stored and read back as such."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"time {value} has no zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _serial() -> Column[Any]:
    """A number that grows with every row; SQLite counts only plain INTEGER keys by itself."""
    return Column("n", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _at(name: str, nullable: bool = False) -> Column[Any]:
    return Column(name, Utc(), nullable=nullable)


def _text(name: str, nullable: bool = False) -> Column[Any]:
    return Column(name, Text(), nullable=nullable)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

cases = Table(
    "cases",
    metadata,
    Column("id", String(32), primary_key=True),
    _text("scenario"),
    Column("content", String(64), nullable=False),
    _text("group_key"),
    _text("media_type"),
    Column("payload", LargeBinary(), nullable=False),
    Column("state", String(16), nullable=False),
    _text("source"),
    _text("prediction_id", nullable=True),
    Column("confidence", Float(), nullable=True),
    _text("reason", nullable=True),
    Column("closed_seq", Integer(), nullable=True),  # the deployment that closed it last
    _at("created_at"),
    UniqueConstraint("scenario", "content"),
    CheckConstraint(f"state IN ({', '.join(map(repr, STATES))})", name="state"),
    Index(None, "scenario", "state"),
    Index(None, "prediction_id"),
)

labels = Table(
    "labels",
    metadata,
    _serial(),
    Column("case_id", String(32), ForeignKey("cases.id"), nullable=False),
    _text("key"),
    Column("value", JSON(), nullable=False),
    _text("source"),
    Column("reviewed", Boolean(), nullable=False),
    _at("created_at"),
    UniqueConstraint("case_id", "key"),
)

case_events = Table(
    "case_events",
    metadata,
    _serial(),
    Column("case_id", String(32), ForeignKey("cases.id"), nullable=False),
    _text("scenario"),
    Column("before", String(16), nullable=True),
    Column("after", String(16), nullable=False),
    _text("why"),
    _text("run_id", nullable=True),
    _at("created_at"),
    Index(None, "case_id"),
    Index(None, "scenario", "n"),
)

leases = Table(
    "leases",
    metadata,
    Column("scenario", Text(), primary_key=True),
    _text("run_id", nullable=True),  # NULL: nobody holds it; the token stays and only grows
    Column("token", Integer(), nullable=False),
    Column("ttl_s", Float(), nullable=False),
    _at("expires_at"),
)

claim_sets = Table(
    "claim_sets",
    metadata,
    Column("scenario", Text(), primary_key=True),
    Column("run_id", Text(), primary_key=True),
    Column("head_seq", Integer(), nullable=False),  # the dataset chain's length when the run claimed: its commit compares
    _at("created_at"),
)

claims = Table(
    "claims",
    metadata,
    Column("scenario", Text(), primary_key=True),
    Column("run_id", Text(), primary_key=True),
    Column("case_id", String(32), ForeignKey("cases.id"), primary_key=True),
    Column("last_label", BigInteger(), nullable=False),  # labels.n; what came later was not seen by the run
    ForeignKeyConstraint(["scenario", "run_id"], ["claim_sets.scenario", "claim_sets.run_id"]),
    Index(None, "case_id"),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("scenario", Text(), primary_key=True),
    Column("seq", Integer(), primary_key=True, autoincrement=False),
    _text("ref"),
    _text("parent", nullable=True),
    _text("run_id"),
    Column("merged", Integer(), nullable=False),  # cases it introduced or updated
    _at("created_at"),
    UniqueConstraint("scenario", "ref"),
)

dataset_cases = Table(
    "dataset_cases",
    metadata,
    Column("case_id", String(32), ForeignKey("cases.id"), primary_key=True),  # one row a case: exactly once
    _text("scenario"),
    Column("seq", Integer(), nullable=False),
    ForeignKeyConstraint(["scenario", "seq"], ["dataset_versions.scenario", "dataset_versions.seq"]),
    Index(None, "scenario", "seq"),
)

models = Table(
    "models",
    metadata,
    _serial(),
    _text("scenario"),
    _text("ref"),
    _text("dataset", nullable=True),
    _text("run_id"),
    Column("metadata", JSON(), nullable=False),
    _at("created_at"),
    UniqueConstraint("scenario", "ref"),
)

blessings = Table(
    "blessings",
    metadata,
    _serial(),
    _text("scenario"),
    _text("ref"),
    _text("model"),
    _text("baseline", nullable=True),
    Column("accepted", Boolean(), nullable=False),
    _text("evaluation_set"),
    _text("run_id"),
    _at("created_at"),
    UniqueConstraint("scenario", "ref"),
    Index(None, "scenario", "model"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("scenario", Text(), primary_key=True),
    Column("seq", Integer(), primary_key=True, autoincrement=False),
    _text("model"),
    _text("dataset", nullable=True),
    _text("blessing", nullable=True),
    _text("run_id", nullable=True),
    Column("kind", String(16), nullable=False),
    Column("previous", Integer(), nullable=True),
    Column("restores", Integer(), nullable=True),  # the deployment that a rollback goes back to
    _at("created_at"),
    CheckConstraint("kind IN ('deploy', 'rollback')", name="kind"),
    CheckConstraint("(seq = 1 AND previous IS NULL) OR previous = seq - 1", name="linear"),
)

predictions = Table(
    "predictions",
    metadata,
    _serial(),
    Column("id", Text(), nullable=False, unique=True),
    _text("scenario"),
    _text("model"),
    Column("content", String(64), nullable=False),
    _text("group_key"),
    _text("media_type"),
    Column("payload", LargeBinary(), nullable=False),
    Column("answer", JSON(), nullable=False),
    Column("confidence", Float(), nullable=False),
    _at("created_at"),
    Index(None, "scenario", "n"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text(), primary_key=True),
    _text("scenario"),
    _text("engine"),
    _text("trigger"),
    Column("state", String(32), nullable=False),
    _at("started_at"),
    _at("finished_at", nullable=True),
    Column("detail", JSON(), nullable=True),
    Index(None, "scenario", "started_at"),
)

outputs = Table(
    "outputs",
    metadata,
    _serial(),
    _text("run_id"),
    _text("step"),
    _text("port"),
    _text("ref"),
    UniqueConstraint("run_id", "step", "port"),
)

studies = Table(
    "studies",
    metadata,
    _serial(),
    _text("scenario"),
    _text("ref"),  # the report that holds it
    _text("dataset", nullable=True),
    _text("run_id"),
    _text("problem"),
    _text("metric"),
    Column("rows", Integer(), nullable=False),
    Column("meta", JSON(), nullable=False),
    Column("trials", JSON(), nullable=False),
    _at("created_at"),
    UniqueConstraint("scenario", "ref"),
    Index(None, "problem", "n"),
)
