"""Whether two actors are one person: nobody is their own second person."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.catalog.tables import ApiKey

_OPERATOR = "cli:"
"""Before the account of an operator at the command line, who makes keys for everybody."""


def makers(session: Session, actor: str) -> tuple[str, ...]:
    """``actor``, who made the key that it is, who made that key, and so on to the first: a person,
    or a key that nobody made, or that an operator at the command line made for others."""
    found: list[str] = []
    current: str | None = actor
    while current is not None and current not in found:
        found.append(current)
        made_by = session.scalar(select(ApiKey.created_by).where(ApiKey.key_id == current))
        current = None if made_by is None or made_by.startswith(_OPERATOR) else made_by
    return tuple(found)


def same_person(session: Session, one: str, other: str) -> bool:
    """Whether ``one`` and ``other`` may be the same person.

    They are where they are one actor, and where one and the same actor made both or made the one
    that the other is, however many keys lie between.
    """
    return not set(makers(session, one)).isdisjoint(makers(session, other))
