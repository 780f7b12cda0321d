"""Time as the catalog keeps it, UTC with milliseconds; and which stated times are taken."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

FIRST_YEAR, LAST_YEAR = 1900, 2200

_DATE_START = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WANTED = "give text such as 2026-01-31 or 2026-01-31T12:00:00Z"


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
    # Not strftime: its %Y drops the leading zeros of a year.
    return to_utc_ms(moment).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


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


# --- what a border takes ---------------------------------------------------------------------


def date_or_text(value: object) -> object:
    """``value`` where it is a date, a time, or text that starts with a date (``YYYY-MM-DD``).

    Raises ``ValueError`` for anything else: as a number 2020 would be a moment in 1970.
    """
    if isinstance(value, date) or (isinstance(value, str) and _DATE_START.match(value)):
        return value
    raise ValueError(_WANTED)


def time_in_range(value: datetime) -> datetime:
    """``value`` in UTC, cut to milliseconds.

    Raises ``ValueError`` without a zone and outside of the years 1900 to 2200.
    """
    if value.tzinfo is None:
        raise ValueError("a time needs its zone: end it with Z or an offset such as +02:00")
    try:
        moment = to_utc_ms(value)
    except (OverflowError, ValueError):
        raise ValueError("the time is out of range") from None
    _require_year(moment)
    return moment


def date_in_range(value: date) -> date:
    """``value``. Raises ``ValueError`` outside of the years 1900 to 2200."""
    _require_year(value)
    return value


def moment_in_range(value: object) -> date | datetime:
    """A date or a time with its zone, whichever is stated: a date alone stays a date.

    Raises ``ValueError`` for what is neither, and outside of the years 1900 to 2200.
    """
    stated = date_or_text(value)
    if isinstance(stated, str):
        try:
            stated = (
                date.fromisoformat(stated) if len(stated) == 10 else datetime.fromisoformat(stated)
            )
        except (ValueError, OverflowError):
            raise ValueError(_WANTED) from None
    if isinstance(stated, datetime):
        return time_in_range(stated)
    assert isinstance(stated, date)
    return date_in_range(stated)


def _require_year(value: date) -> None:
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"the year must lie between {FIRST_YEAR} and {LAST_YEAR}")
