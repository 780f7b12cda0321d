"""Keys that data is encrypted with, and room for what they seal"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

WIDER = (
    ("cases", "missing_since", 40),
    ("photos", "filename", 500),
    ("capture_images", "filename", 500),
    ("capture_pages", "filename", 500),
    ("webhooks", "description", 200),
    ("webhooks", "secret", 200),
    ("users", "display_name", 200),
    ("users", "totp_secret", 200),
)
"""Columns that are longer when they are sealed. SQLite holds nobody to a length."""


def upgrade() -> None:
    op.create_table(
        "data_keys",
        sa.Column("data_key_id", sa.String(length=16), nullable=False),
        sa.Column("purpose", sa.String(length=10), nullable=False),
        sa.Column("wrapped_by", sa.String(length=60), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("seals", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("purpose IN ('seal', 'lookup')", name=op.f("ck_data_keys_purpose")),
        sa.PrimaryKeyConstraint("data_key_id", name=op.f("pk_data_keys")),
    )
    op.create_table(
        "sealing_works",
        sa.Column("work_id", sa.String(length=36), nullable=False),
        sa.Column("data_key_id", sa.String(length=16), nullable=False),
        sa.Column("part", sa.String(length=60), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("plain", sa.LargeBinary(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("work_id", name=op.f("pk_sealing_works")),
    )
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column, length in WIDER:
        op.alter_column(table, column, existing_type=sa.String(length=length), type_=sa.Text())
