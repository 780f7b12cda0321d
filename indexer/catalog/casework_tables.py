"""Who agreed to what about a case: approvals of searches, holds, and questions between agencies."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base, Id
from indexer.catalog.sealed import SealedText
from indexer.catalog.types import UtcDateTime


class Approval(Base):
    """A request to search for a case, and what a second person decided.

    ``emergency``: searching began at once and ends at ``ratify_by`` unless it was approved.
    """

    __tablename__ = "approvals"
    __table_args__ = (
        CheckConstraint("state IN ('asked', 'approved', 'refused', 'lapsed')", name="state"),
    )

    approval_id: Mapped[str] = mapped_column(Id, primary_key=True)
    case_id: Mapped[str] = mapped_column(
        ForeignKey("cases.case_id", ondelete="CASCADE"), index=True
    )
    purpose: Mapped[str] = mapped_column(String(40))
    note: Mapped[str | None] = mapped_column(SealedText("approvals.note"))
    emergency: Mapped[bool]
    state: Mapped[str] = mapped_column(String(10))
    asked_by: Mapped[str] = mapped_column(String(100))
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ratify_by: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    decided_by: Mapped[str | None] = mapped_column(String(100))
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    valid_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Hold(Base):
    """A legal hold on a case or an ad, from when it was set until it was lifted.

    ``agency`` is that of the case, or of whoever set it on an ad (null: for all agencies).
    Rows stay when what they speak of is forgotten, without the words that may name a person.
    """

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("kind IN ('case', 'ad')", name="kind"),
        Index("ix_holds_kind_subject_id", "kind", "subject_id"),
    )

    hold_id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    subject_id: Mapped[str] = mapped_column(Id)
    agency: Mapped[str | None] = mapped_column(String(100))
    reason: Mapped[str] = mapped_column(String(40))
    note: Mapped[str | None] = mapped_column(SealedText("holds.note"))
    set_by: Mapped[str] = mapped_column(String(100))
    set_at: Mapped[datetime] = mapped_column(UtcDateTime)
    lifted_by: Mapped[str | None] = mapped_column(String(100))
    lifted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class LinkRequest(Base):
    """One agency asks the owner of another case about a lead that both have.

    ``case_id`` is the case of whoever asks, ``other_case_id`` that of the owner, which the asker
    never sees unless ``state`` is ``shared``.
    """

    __tablename__ = "link_requests"
    __table_args__ = (CheckConstraint("state IN ('asked', 'shared', 'declined')", name="state"),)

    request_id: Mapped[str] = mapped_column(Id, primary_key=True)
    case_id: Mapped[str] = mapped_column(
        ForeignKey("cases.case_id", ondelete="CASCADE"), index=True
    )
    other_case_id: Mapped[str] = mapped_column(
        ForeignKey("cases.case_id", ondelete="CASCADE"), index=True
    )
    candidate_id: Mapped[str] = mapped_column(Id)
    other_candidate_id: Mapped[str | None] = mapped_column(Id)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(10))
    note: Mapped[str | None] = mapped_column(SealedText("link_requests.note"))
    answer: Mapped[str | None] = mapped_column(SealedText("link_requests.answer"))
    asked_by: Mapped[str] = mapped_column(String(100))
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    answered_by: Mapped[str | None] = mapped_column(String(100))
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
