"""The audit log: append-only, each record chained to the one before it; the stamps of its heads.

Triggers of the database refuse to change or take away a record (migration 0006).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base, Id, Json, Sha
from indexer.catalog.types import UtcDateTime


class AuditRecord(Base):
    """One act. Ids, field names and figures only, never personal values: nothing here is ever
    purged. ``seq`` has no gaps; ``hash`` covers every other column and the hash before it."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_case_id_seq", "case_id", "seq"),
        Index("ix_audit_log_subject_id_seq", "subject_id", "seq"),
        Index("ix_audit_log_actor_seq", "actor", "seq"),
    )

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    action: Mapped[str] = mapped_column(String(60), index=True)
    outcome: Mapped[str] = mapped_column(String(60))
    channel: Mapped[str] = mapped_column(String(10))
    actor_kind: Mapped[str] = mapped_column(String(10))
    actor: Mapped[str] = mapped_column(String(100))
    agency: Mapped[str | None] = mapped_column(String(100))
    request_id: Mapped[str | None] = mapped_column(String(128))
    subject_kind: Mapped[str | None] = mapped_column(String(30))
    subject_id: Mapped[str | None] = mapped_column(String(200))
    case_id: Mapped[str | None] = mapped_column(Id)
    purpose: Mapped[str | None] = mapped_column(String(40))
    details: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    hash: Mapped[str] = mapped_column(Sha)


class AuditStamp(Base):
    """A head of the chain for which a time-stamping authority was asked (RFC 3161).

    ``token`` is its answer in DER, ``stamped_at`` the time in it; both are null while ``state`` is
    ``pending``.
    """

    __tablename__ = "audit_stamps"

    stamp_id: Mapped[str] = mapped_column(Id, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(Sha)
    state: Mapped[str] = mapped_column(String(10), index=True)
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    stamped_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    token: Mapped[bytes | None] = mapped_column(LargeBinary)
