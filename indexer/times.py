"""Time as the catalog keeps it: UTC with milliseconds."""

from __future__ import annotations

from datetime import UTC, date, datetime


def utc_now() -> datetime:
    """The present moment, aware, UTC, cut to milliseconds."""
    return to_utc_ms(datetime.now(UTC))


def to_utc_ms(moment: datetime) -> datetime:
    """``moment`` in UTC, cut to milliseconds. Raises ``ValueError`` for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is ambiguous; give its offset or Z")
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def rfc3339(moment: datetime) -> str:
    """``2026-01-31T12:00:00.000Z``."""
    return to_utc_ms(moment).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def moment_text(value: date | datetime | None) -> str | None:
    """A date stays a date (``2026-01-31``), a time becomes RFC 3339; nothing is guessed."""
    if value is None:
        return None
    return rfc3339(value) if isinstance(value, datetime) else value.isoformat()


def moment_from_text(text: str | None) -> date | datetime | None:
    """The inverse of :func:`moment_text`."""
    if text is None:
        return None
    if len(text) == 10:
        return date.fromisoformat(text)
    return datetime.fromisoformat(text)
