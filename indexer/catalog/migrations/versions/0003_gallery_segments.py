"""Published segments of the galleries; what a member of a gallery may be filtered by"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SHELF = ["store_id", "gallery", "contract_id"]


def upgrade() -> None:
    op.add_column("gallery_members", sa.Column("tags_digest", sa.String(length=32), nullable=True))
    op.create_table(
        "catalog_identity",
        sa.Column("catalog_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("catalog_id", name=op.f("pk_catalog_identity")),
    )
    op.create_table(
        "gallery_shelves",
        sa.Column("store_id", sa.String(length=36), nullable=False),
        sa.Column("gallery", sa.String(length=10), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("seq_face_id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(*_SHELF, name=op.f("pk_gallery_shelves")),
    )
    op.create_table(
        "gallery_segments",
        sa.Column("segment_id", sa.String(length=36), nullable=False),
        sa.Column("store_id", sa.String(length=36), nullable=False),
        sa.Column("gallery", sa.String(length=10), nullable=False),
        sa.Column("contract_id", sa.String(length=120), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("dead", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            _SHELF,
            [f"gallery_shelves.{name}" for name in _SHELF],
            name=op.f("fk_gallery_segments_store_id_gallery_contract_id_gallery_shelves"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("pk_gallery_segments")),
    )
    op.create_index(
        op.f("ix_gallery_segments_store_id_gallery_contract_id"),
        "gallery_segments",
        _SHELF,
        unique=False,
    )
