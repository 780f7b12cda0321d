"""Identifiers: UUID version 7 (RFC 9562) as text, so that ids sort by the time of creation."""

from __future__ import annotations

import base64
import binascii
import secrets
import uuid

import uuid_utils

from indexer.errors import InvalidCursor


def new_id() -> str:
    """A fresh UUIDv7, lower case with hyphens (36 characters)."""
    return str(uuid_utils.uuid7())


def random_id() -> str:
    """A fresh id in the form of a UUIDv7 that does not tell when it was made: all of it is random.

    For things that may be seen by somebody who must not learn when they were first known.
    """
    bits = secrets.randbits(128) & ~(0xF << 76) & ~(0x3 << 62)
    return str(uuid.UUID(int=bits | (7 << 76) | (2 << 62)))


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id (any UUID in canonical form)."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def canonical_id(text: str) -> str | None:
    """``text`` as an id in its one form, or None where it cannot be one."""
    try:
        return str(uuid.UUID(text)) if len(text) == 36 else None
    except ValueError:
        return None


def encode_cursor(last_id: str) -> str:
    """An opaque cursor that continues a list after ``last_id``."""
    return seal_cursor("v1", last_id)


def decode_cursor(cursor: str) -> str:
    """The id inside ``cursor``. Raises :class:`InvalidCursor` for anything else."""
    last_id = open_cursor("v1", cursor)
    if not is_id(last_id):
        raise InvalidCursor
    return last_id


def seal_cursor(kind: str, place: str) -> str:
    """An opaque cursor for a ``place`` in lists of this ``kind``."""
    return base64.urlsafe_b64encode(f"{kind}:{place}".encode()).decode().rstrip("=")


def open_cursor(kind: str, cursor: str) -> str:
    """The place inside a cursor of this ``kind``. Raises :class:`InvalidCursor` for another."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise InvalidCursor from error
    found, _, place = text.partition(":")
    if found != kind:
        raise InvalidCursor
    return place
