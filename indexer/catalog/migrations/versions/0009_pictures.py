"""Pictures that are shown to nobody, and the lists that name them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _lists()
    _withheld()
    _ad_faces()
    # A purge may speak of a picture by its SHA-256 now; nothing refers to this table.
    with op.batch_alter_table("purge_ledger") as table:
        table.alter_column(
            "subject_id",
            existing_type=sa.String(length=36),
            type_=sa.String(length=64),
            existing_nullable=False,
        )


def _lists() -> None:
    op.create_table(
        "hash_lists",
        sa.Column("list_name", sa.String(length=100), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("list_name", name=op.f("pk_hash_lists")),
    )
    op.create_table(
        "listed_hashes",
        sa.Column("kind", sa.String(length=6), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("list_name", sa.String(length=100), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('sha256', 'md5', 'sha1', 'pdq')", name=op.f("ck_listed_hashes_kind")
        ),
        sa.PrimaryKeyConstraint("kind", "digest", "list_name", name=op.f("pk_listed_hashes")),
    )
    op.create_index("ix_listed_hashes_list_name", "listed_hashes", ["list_name"], unique=False)
    op.create_table(
        "picture_rules",
        sa.Column("rules_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rules_id", name=op.f("pk_picture_rules")),
    )
    op.create_table(
        "picture_digests",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("md5", sa.LargeBinary(length=16), nullable=True),
        sa.Column("sha1", sa.LargeBinary(length=20), nullable=True),
        sa.Column("pdq", sa.LargeBinary(length=32), nullable=True),
        sa.Column("pdq_quality", sa.Integer(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["images.sha256"],
            name=op.f("fk_picture_digests_sha256_images"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_picture_digests")),
    )


def _ad_faces() -> None:
    op.create_table(
        "ad_face_mode",
        sa.Column("mode_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mode", sa.String(length=10), nullable=False),
        sa.CheckConstraint("mode IN ('standard', 'transient')", name=op.f("ck_ad_face_mode_mode")),
        sa.PrimaryKeyConstraint("mode_id", name=op.f("pk_ad_face_mode")),
    )
    op.add_column("image_analyses", sa.Column("faces", sa.Integer(), nullable=True))


def _withheld() -> None:
    op.create_table(
        "withheld_images",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("withheld_id", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.String(length=10), nullable=False),
        sa.Column("flag_reason", sa.String(length=40), nullable=True),
        sa.Column("list_name", sa.String(length=100), nullable=True),
        sa.Column("hash_kind", sa.String(length=6), nullable=True),
        sa.Column("copy_of", sa.String(length=64), nullable=True),
        sa.Column("case_id", sa.String(length=36), nullable=True),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pdq", sa.LargeBinary(length=32), nullable=True),
        sa.Column("pdq_quality", sa.Integer(), nullable=True),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("overdue_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_by", sa.String(length=100), nullable=True),
        sa.Column("outcome", sa.String(length=40), nullable=True),
        sa.CheckConstraint(
            "reason IN ('listed', 'flagged', 'copy')", name=op.f("ck_withheld_images_reason")
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_withheld_images")),
        sa.UniqueConstraint("withheld_id", name=op.f("uq_withheld_images_withheld_id")),
    )
    op.create_index(
        op.f("ix_withheld_images_settled_at_due_at"),
        "withheld_images",
        ["settled_at", "due_at"],
        unique=False,
    )
    op.create_index(
        "ix_withheld_images_reason_compared_at",
        "withheld_images",
        ["reason", "compared_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_withheld_images_copy_of"), "withheld_images", ["copy_of"], unique=False
    )
