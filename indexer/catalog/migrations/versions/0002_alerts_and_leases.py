"""Alerts, judgements, leases of jobs, near-duplicates and clusters, staged images, quarantine"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _cases_and_ads()
    _images()
    _jobs()
    _candidates()
    _alerts()
    with op.batch_alter_table("purge_ledger") as batch:
        batch.add_column(sa.Column("written_at", sa.DateTime(timezone=True), nullable=True))
        batch.create_index(op.f("ix_purge_ledger_written_at"), ["written_at"], unique=False)


def _cases_and_ads() -> None:
    # Added one by one: to make a table anew on SQLite drops the old one, and with a case or an ad
    # go, by their foreign keys, the photos, captures and candidates that point at it.
    op.add_column("cases", sa.Column("alert_expected_false", sa.Double(), nullable=True))
    op.add_column("cases", sa.Column("alert_budget", sa.Integer(), nullable=True))
    op.add_column(
        "cases",
        sa.Column(
            "alert_emails",
            sa.JSON(none_as_null=True),
            nullable=False,
            server_default=sa.text("'[]'"),
        ),
    )
    # Of ads that are there, the time at which their newest capture came in.
    op.add_column(
        "ads",
        sa.Column(
            "last_received_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("'1970-01-01 00:00:00.000000'"),
        ),
    )
    op.execute(
        "UPDATE ads SET last_received_at = COALESCE((SELECT max(captures.received_at) "
        "FROM captures WHERE captures.ad_id = ads.ad_id), ads.created_at)"
    )
    op.create_index(op.f("ix_ads_last_received_at"), "ads", ["last_received_at"], unique=False)


def _images() -> None:
    for name in ("header_width", "header_height"):
        op.add_column("capture_images", sa.Column(name, sa.Integer(), nullable=True))
    op.create_index(op.f("ix_captures_job_id"), "captures", ["job_id"], unique=False)
    op.create_table(
        "image_trials",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["images.sha256"],
            name=op.f("fk_image_trials_sha256_images"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sha256", "contract_id", name=op.f("pk_image_trials")),
    )
    op.create_table(
        "image_hashes",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("pdq", sa.LargeBinary(), nullable=False),
        sa.Column("quality", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["images.sha256"],
            name=op.f("fk_image_hashes_sha256_images"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_image_hashes")),
    )
    op.create_table(
        "staged_images",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_staged_images")),
    )
    op.create_index(
        op.f("ix_staged_images_received_at"), "staged_images", ["received_at"], unique=False
    )
    op.create_table(
        "quarantine",
        sa.Column("item_id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("place", sa.String(length=200), nullable=False),
        sa.Column("code", sa.String(length=60), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_quarantine")),
    )
    op.create_index(op.f("ix_quarantine_at"), "quarantine", ["at"], unique=False)
    op.create_table(
        "face_clusters",
        sa.Column("face_id", sa.String(length=36), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("cluster_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["face_id"],
            ["faces.face_id"],
            name=op.f("fk_face_clusters_face_id_faces"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("face_id", name=op.f("pk_face_clusters")),
    )
    op.create_index(
        op.f("ix_face_clusters_cluster_id"), "face_clusters", ["cluster_id"], unique=False
    )


def _jobs() -> None:
    op.create_table(
        "runners",
        sa.Column("runner_id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("runner_id", name=op.f("pk_runners")),
    )
    with op.batch_alter_table("jobs") as batch:
        batch.drop_index("ix_jobs_state_job_id")
        batch.drop_constraint(op.f("ck_jobs_state"), type_="check")
        batch.create_check_constraint(
            op.f("ck_jobs_state"), "state IN ('queued', 'running', 'done', 'failed', 'dropped')"
        )
        batch.add_column(
            sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0"))
        )
        batch.add_column(
            sa.Column("alone", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch.add_column(sa.Column("run_after", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE jobs SET priority = 10 WHERE kind = 'ingest_ad'")
    op.create_index(
        op.f("ix_jobs_state_priority_job_id"),
        "jobs",
        ["state", "priority", "job_id"],
        unique=False,
    )
    op.create_index(op.f("ix_jobs_runner"), "jobs", ["runner"], unique=False)


def _candidates() -> None:
    with op.batch_alter_table("candidates") as batch:
        batch.alter_column(
            "status",
            existing_type=sa.String(length=20),
            type_=sa.String(length=40),
            existing_nullable=False,
        )
        batch.add_column(
            sa.Column(
                "sighting_id", sa.String(length=36), nullable=False, server_default=sa.text("''")
            )
        )
        batch.add_column(sa.Column("held_at", sa.DateTime(timezone=True), nullable=True))
        batch.create_index(op.f("ix_candidates_sighting_id"), ["sighting_id"], unique=False)
        batch.create_index(op.f("ix_candidates_held_at"), ["held_at"], unique=False)
    op.execute("UPDATE candidates SET sighting_id = candidate_id")
    op.create_table(
        "judgements",
        sa.Column("judgement_id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("image_sha256", sa.String(length=64), nullable=False),
        sa.Column("x", sa.Double(), nullable=False),
        sa.Column("y", sa.Double(), nullable=False),
        sa.Column("width", sa.Double(), nullable=False),
        sa.Column("height", sa.Double(), nullable=False),
        sa.Column("conclusion", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("components", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("supersedes", sa.String(length=36), nullable=True),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.case_id"],
            name=op.f("fk_judgements_case_id_cases"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("judgement_id", name=op.f("pk_judgements")),
    )
    op.create_index(
        op.f("ix_judgements_candidate_id"), "judgements", ["candidate_id"], unique=False
    )
    op.create_index(
        op.f("ix_judgements_case_id_image_sha256"),
        "judgements",
        ["case_id", "image_sha256"],
        unique=False,
    )


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("alert_id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("candidate_id", sa.String(length=36), nullable=False),
        sa.Column("sighting_id", sa.String(length=36), nullable=False),
        sa.Column("lead_id", sa.String(length=36), nullable=False),
        sa.Column("face_id", sa.String(length=36), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("photos_fused", sa.Integer(), nullable=False),
        sa.Column("gallery_size", sa.Integer(), nullable=False),
        sa.Column("expected_false", sa.Double(), nullable=False),
        sa.Column("expected_false_limit", sa.Double(), nullable=False),
        sa.Column("tightened", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["case_id"], ["cases.case_id"], name=op.f("fk_alerts_case_id_cases"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_alerts")),
        sa.UniqueConstraint("alert_id", name=op.f("uq_alerts_alert_id")),
        sa.UniqueConstraint("case_id", "sighting_id", name=op.f("uq_alerts_case_id_sighting_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_alerts_created_at"), "alerts", ["created_at"], unique=False)
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.String(length=36), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("secret", sa.String(length=200), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", name=op.f("pk_webhooks")),
    )
