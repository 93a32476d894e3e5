"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0001"
down_revision = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AT = sa.DateTime(timezone=True)
_STATES = "'open', 'labelled', 'merged', 'verified', 'closed', 'reopened', 'held', 'quarantined'"


def upgrade() -> None:
    """Create every table, and make the audit append-only."""
    _cases()
    _datasets()
    _models()
    _serving_and_runs()
    _append_only()


def _cases() -> None:
    op.create_table(
        "cases",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("prediction_id", sa.Text()),
        sa.Column("confidence", sa.Float()),
        sa.Column("reason", sa.Text()),
        sa.Column("closed_seq", sa.Integer()),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cases"),
        sa.UniqueConstraint("scenario", "content", name="uq_cases_scenario_content"),
        sa.CheckConstraint(f"state IN ({_STATES})", name="ck_cases_state"),
    )
    op.create_index("ix_cases_scenario_state", "cases", ["scenario", "state"])
    op.create_index("ix_cases_prediction_id", "cases", ["prediction_id"])
    op.create_table(
        "labels",
        sa.Column("n", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("case_id", sa.String(32), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reviewed", sa.Boolean(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_labels"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_labels_case_id"),
        sa.UniqueConstraint("case_id", "key", name="uq_labels_case_id_key"),
    )
    op.create_table(
        "case_events",
        sa.Column("n", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("case_id", sa.String(32), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("before", sa.String(16)),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_case_events"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_case_events_case_id"),
    )
    op.create_index("ix_case_events_case_id", "case_events", ["case_id"])
    op.create_index("ix_case_events_scenario_n", "case_events", ["scenario", "n"])


def _datasets() -> None:
    op.create_table(
        "leases",
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("ttl_s", sa.Float(), nullable=False),
        sa.Column("expires_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("scenario", name="pk_leases"),
    )
    op.create_table(
        "claim_sets",
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("head_seq", sa.Integer(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("scenario", "run_id", name="pk_claim_sets"),
    )
    op.create_table(
        "claims",
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("case_id", sa.String(32), nullable=False),
        sa.Column("last_label", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scenario", "run_id", "case_id", name="pk_claims"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_claims_case_id"),
        sa.ForeignKeyConstraint(["scenario", "run_id"], ["claim_sets.scenario", "claim_sets.run_id"], name="fk_claims_scenario_run_id"),
    )
    op.create_index("ix_claims_case_id", "claims", ["case_id"])
    op.create_table(
        "dataset_versions",
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text()),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("merged", sa.Integer(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("scenario", "seq", name="pk_dataset_versions"),
        sa.UniqueConstraint("scenario", "ref", name="uq_dataset_versions_scenario_ref"),
    )
    op.create_table(
        "dataset_cases",
        sa.Column("case_id", sa.String(32), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("case_id", name="pk_dataset_cases"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_dataset_cases_case_id"),
        sa.ForeignKeyConstraint(
            ["scenario", "seq"], ["dataset_versions.scenario", "dataset_versions.seq"], name="fk_dataset_cases_scenario_seq"
        ),
    )
    op.create_index("ix_dataset_cases_scenario_seq", "dataset_cases", ["scenario", "seq"])


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("n", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text()),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_models"),
        sa.UniqueConstraint("scenario", "ref", name="uq_models_scenario_ref"),
    )
    op.create_table(
        "blessings",
        sa.Column("n", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("baseline", sa.Text()),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("evaluation_set", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_blessings"),
        sa.UniqueConstraint("scenario", "ref", name="uq_blessings_scenario_ref"),
    )
    op.create_index("ix_blessings_scenario_model", "blessings", ["scenario", "model"])
    op.create_table(
        "deployments",
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text()),
        sa.Column("blessing", sa.Text()),
        sa.Column("run_id", sa.Text()),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("previous", sa.Integer()),
        sa.Column("restores", sa.Integer()),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("scenario", "seq", name="pk_deployments"),
        sa.CheckConstraint("kind IN ('deploy', 'rollback')", name="ck_deployments_kind"),
        sa.CheckConstraint("(seq = 1 AND previous IS NULL) OR previous = seq - 1", name="ck_deployments_linear"),
    )


def _serving_and_runs() -> None:
    op.create_table(
        "predictions",
        sa.Column("n", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_predictions"),
        sa.UniqueConstraint("id", name="uq_predictions_id"),
    )
    op.create_index("ix_predictions_scenario_n", "predictions", ["scenario", "n"])
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("started_at", _AT, nullable=False),
        sa.Column("finished_at", _AT),
        sa.Column("detail", sa.JSON()),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    op.create_index("ix_runs_scenario_started_at", "runs", ["scenario", "started_at"])
    op.create_table(
        "outputs",
        sa.Column("n", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("port", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_outputs"),
        sa.UniqueConstraint("run_id", "step", "port", name="uq_outputs_run_id_step_port"),
    )


def _append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER case_events_no_{verb.lower()} BEFORE {verb} ON case_events "
                "BEGIN SELECT RAISE(ABORT, 'case_events is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION case_events_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'case_events is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER case_events_append_only BEFORE UPDATE OR DELETE ON case_events "
        "FOR EACH ROW EXECUTE FUNCTION case_events_append_only()"
    )
