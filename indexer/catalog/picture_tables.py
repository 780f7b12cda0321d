"""Pictures that are shown to nobody, and the lists of hashes that name them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base, Id, Sha
from indexer.catalog.sealed import SealedBytes
from indexer.catalog.types import UtcDateTime


class HashList(Base):
    """A list of hashes that an agency supplied."""

    __tablename__ = "hash_lists"

    list_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    actor: Mapped[str] = mapped_column(String(100))
    loaded_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ListedHash(Base):
    """A hash of a list. ``digest`` is raw bytes of the ``kind``."""

    __tablename__ = "listed_hashes"
    __table_args__ = (
        CheckConstraint("kind IN ('sha256', 'md5', 'sha1', 'pdq')", name="kind"),
        Index("ix_listed_hashes_list_name", "list_name"),
    )

    kind: Mapped[str] = mapped_column(String(6), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    list_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    added_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PictureRules(Base):
    """One row: ``version`` rises with every change of the lists, so that a picture that was
    compared with an earlier state of them is known to be due again."""

    __tablename__ = "picture_rules"

    rules_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)


class PictureDigest(Base):
    """The digests of a stored picture that lists may name, each null while no list needs it, and
    with which version of the lists it was compared. ``pdq`` stays null where nothing can be
    decoded."""

    __tablename__ = "picture_digests"

    sha256: Mapped[str] = mapped_column(
        ForeignKey("images.sha256", ondelete="CASCADE"), primary_key=True
    )
    md5: Mapped[bytes | None] = mapped_column(SealedBytes("picture_digests.md5"))
    sha1: Mapped[bytes | None] = mapped_column(SealedBytes("picture_digests.sha1"))
    pdq: Mapped[bytes | None] = mapped_column(SealedBytes("picture_digests.pdq"))
    pdq_quality: Mapped[int | None]
    version: Mapped[int] = mapped_column(BigInteger)


class AdFaceMode(Base):
    """One row: the mode in which faces of ads are kept (``indexer.kept_faces``)."""

    __tablename__ = "ad_face_mode"
    __table_args__ = (CheckConstraint("mode IN ('standard', 'transient')", name="mode"),)

    mode_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    mode: Mapped[str] = mapped_column(String(10))


class WithheldImage(Base):
    """A picture whose pixels go to nobody: listed, flagged by a reviewer, or a copy of a flagged
    one. Its lead lives on.

    ``pdq``: of a flagged picture, to find its copies by; ``compared_at``: when all that is stored
    had been compared with it. ``due_at``: by when the designated role has to have dealt with it;
    ``overdue_at``: when it was noted that it had not. It outlives the picture's own row.
    """

    __tablename__ = "withheld_images"
    __table_args__ = (
        CheckConstraint("reason IN ('listed', 'flagged', 'copy')", name="reason"),
        Index(None, "settled_at", "due_at"),
        Index("ix_withheld_images_reason_compared_at", "reason", "compared_at"),
    )

    sha256: Mapped[str] = mapped_column(Sha, primary_key=True)
    withheld_id: Mapped[str] = mapped_column(Id, unique=True)
    reason: Mapped[str] = mapped_column(String(10))
    flag_reason: Mapped[str | None] = mapped_column(String(40))
    list_name: Mapped[str | None] = mapped_column(String(100))
    hash_kind: Mapped[str | None] = mapped_column(String(6))
    copy_of: Mapped[str | None] = mapped_column(Sha, index=True)
    case_id: Mapped[str | None] = mapped_column(Id)
    actor: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    pdq: Mapped[bytes | None] = mapped_column(SealedBytes("withheld_images.pdq"))
    pdq_quality: Mapped[int | None]
    compared_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    overdue_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    settled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    settled_by: Mapped[str | None] = mapped_column(String(100))
    outcome: Mapped[str | None] = mapped_column(String(40))
