"""Pictures that are shown to nobody, and the lists of hashes that name them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base, Id, Sha
from indexer.catalog.types import UtcDateTime


class ListedHash(Base):
    """A hash from a list that an agency supplied. ``digest`` is raw bytes of the ``kind``."""

    __tablename__ = "listed_hashes"
    __table_args__ = (CheckConstraint("kind IN ('sha256', 'md5', 'sha1', 'pdq')", name="kind"),)

    kind: Mapped[str] = mapped_column(String(6), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    list_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    added_at: Mapped[datetime] = mapped_column(UtcDateTime)


class WithheldImage(Base):
    """A picture whose pixels go to nobody: listed, or flagged by a reviewer. Its lead lives on.

    ``due_at``: by when the designated role has to have dealt with it.
    """

    __tablename__ = "withheld_images"
    __table_args__ = (
        CheckConstraint("reason IN ('listed', 'flagged')", name="reason"),
        Index(None, "settled_at", "due_at"),
    )

    sha256: Mapped[str] = mapped_column(Sha, primary_key=True)
    reason: Mapped[str] = mapped_column(String(10))
    list_name: Mapped[str | None] = mapped_column(String(100))
    case_id: Mapped[str | None] = mapped_column(Id)
    actor: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    settled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    settled_by: Mapped[str | None] = mapped_column(String(100))
    outcome: Mapped[str | None] = mapped_column(String(40))
