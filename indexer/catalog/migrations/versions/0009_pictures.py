"""Pictures that are shown to nobody, and the lists that name them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    op.create_table(
        "withheld_images",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=10), nullable=False),
        sa.Column("list_name", sa.String(length=100), nullable=True),
        sa.Column("case_id", sa.String(length=36), nullable=True),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_by", sa.String(length=100), nullable=True),
        sa.Column("outcome", sa.String(length=40), nullable=True),
        sa.CheckConstraint(
            "reason IN ('listed', 'flagged')", name=op.f("ck_withheld_images_reason")
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_withheld_images")),
    )
    op.create_index(
        op.f("ix_withheld_images_settled_at_due_at"),
        "withheld_images",
        ["settled_at", "due_at"],
        unique=False,
    )
