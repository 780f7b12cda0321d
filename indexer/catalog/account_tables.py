"""Who may sign in: agencies, people and what was tried with their names.

Keys and sessions are in ``tables``. An agency is known by its name, which is what ``cases.agency``
holds; the empty name is that of an installation that has one agency and never named it.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base, Id, Json, Sha
from indexer.catalog.sealed import SealedText
from indexer.catalog.types import UtcDateTime


class Agency(Base):
    """``retired_at``: nobody of it signs in any more, its cases stay."""

    __tablename__ = "agencies"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    title: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class User(Base):
    """A person. ``login`` is stored as it is compared: lower case, NFKC.

    ``password`` is the PHC string of argon2id; null for people who sign in elsewhere (OIDC).
    ``totp_secret`` is base32; ``totp_step`` is the last time step (RFC 6238) that was used, so
    that a code serves once. ``recovery_codes`` are digests. ``trained_until``: reviewers judge
    only while it has not passed. ``setup_sha256`` is the digest of the one-time code with which
    the person chooses a password. ``agency`` is null for those who work for all agencies.
    ``set_up_at``: when the account could first be signed in to; it is never cleared, so that what
    ends with the first account stays ended.
    """

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("login"), UniqueConstraint("issuer", "subject"))

    user_id: Mapped[str] = mapped_column(Id, primary_key=True)
    agency: Mapped[str | None] = mapped_column(ForeignKey("agencies.name"), index=True)
    login: Mapped[str] = mapped_column(String(100))
    display_name: Mapped[str] = mapped_column(
        SealedText("users.display_name", length=200), default=""
    )
    roles: Mapped[list[str]] = mapped_column(Json)
    password: Mapped[str | None] = mapped_column(Text)
    totp_secret: Mapped[str | None] = mapped_column(SealedText("users.totp_secret", length=200))
    totp_step: Mapped[int | None]
    recovery_codes: Mapped[list[str]] = mapped_column(Json, default=list)
    issuer: Mapped[str | None] = mapped_column(String(300))
    subject: Mapped[str | None] = mapped_column(String(300))
    setup_sha256: Mapped[str | None] = mapped_column(Sha, unique=True)
    setup_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    set_up_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    trained_until: Mapped[date | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SignInFailure(Base):
    """One failed sign-in; ``name`` is a digest of the login that was typed, known or not."""

    __tablename__ = "sign_in_failures"
    __table_args__ = (Index("ix_sign_in_failures_name_at", "name", "at"),)

    failure_id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64), index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
