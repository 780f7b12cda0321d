"""Whether two actors are one person: nobody is their own second person."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.catalog.tables import ApiKey

_OPERATOR = "cli:"
"""Before the account of an operator at the command line, who makes keys for everybody."""


def same_person(session: Session, one: str, other: str) -> bool:
    """Whether ``one`` and ``other`` may be the same person.

    They are where they are one actor, where one made the key that the other is, and where both are
    keys that one and the same actor made (unless that was at the command line, where an operator
    makes keys for others).
    """
    if one == other:
        return True
    rows = session.execute(
        select(ApiKey.key_id, ApiKey.created_by).where(ApiKey.key_id.in_((one, other)))
    )
    makers = {row.key_id: row.created_by for row in rows}
    made_one, made_other = makers.get(one), makers.get(other)
    if made_one == other or made_other == one:
        return True
    return made_one is not None and made_one == made_other and not made_one.startswith(_OPERATOR)
