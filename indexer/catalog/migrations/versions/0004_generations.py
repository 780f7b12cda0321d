"""Generations of vectors beside each other; the enrolled face of a photo under each contract"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "generations",
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("generation_id", sa.String(length=36), nullable=False),
        sa.Column("pack", sa.String(length=100), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("keep_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('building', 'active', 'kept', 'dropping')",
            name=op.f("ck_generations_state"),
        ),
        sa.PrimaryKeyConstraint("contract_id", name=op.f("pk_generations")),
        sa.UniqueConstraint("generation_id", name=op.f("uq_generations_generation_id")),
    )
    op.create_index(
        "uq_generations_active",
        "generations",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "generation_events",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("pack", sa.String(length=100), nullable=False),
        sa.Column("event", sa.String(length=20), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_generation_events")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("contract_id", sa.String(length=120), nullable=True))
        batch.create_index(op.f("ix_jobs_contract_id_state"), ["contract_id", "state"])
    # SQLite makes the table of photos anew for a column that goes: what hangs on it comes after.
    op.execute(
        "CREATE TABLE enrolled AS SELECT photos.photo_id, faces.contract_id, photos.face_id "
        "FROM photos JOIN faces ON faces.face_id = photos.face_id"
    )
    with op.batch_alter_table("photos") as batch:
        batch.drop_index(op.f("ix_photos_face_id"))
        batch.drop_constraint(op.f("fk_photos_face_id_faces"), type_="foreignkey")
        batch.drop_column("face_id")
    op.create_table(
        "enrolments",
        sa.Column("photo_id", sa.String(length=36), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("face_id", sa.String(length=36), nullable=True),
        sa.Column("code", sa.String(length=60), nullable=True),
        sa.ForeignKeyConstraint(
            ["photo_id"],
            ["photos.photo_id"],
            name=op.f("fk_enrolments_photo_id_photos"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["face_id"],
            ["faces.face_id"],
            name=op.f("fk_enrolments_face_id_faces"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("photo_id", "contract_id", name=op.f("pk_enrolments")),
    )
    op.create_index(op.f("ix_enrolments_face_id"), "enrolments", ["face_id"], unique=False)
    op.execute(
        "INSERT INTO enrolments (photo_id, contract_id, face_id) "
        "SELECT photo_id, contract_id, face_id FROM enrolled"
    )
    op.execute("DROP TABLE enrolled")
    op.create_index(op.f("ix_alerts_face_id"), "alerts", ["face_id"], unique=False)
