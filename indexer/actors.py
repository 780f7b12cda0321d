"""The names of those who acted, for people who read what they did."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.catalog.account_tables import User
from indexer.catalog.tables import ApiKey


def names_of(catalog: Catalog, actors: Iterable[str | None]) -> dict[str, str]:
    """The name of each actor: of a person or a key as it is called, else the actor itself."""
    wanted = {actor for actor in actors if actor}
    found = {actor: actor for actor in wanted}
    with catalog.read() as session:
        for some in chunks(sorted(wanted)):
            for key_id, name in session.execute(
                select(ApiKey.key_id, ApiKey.name).where(ApiKey.key_id.in_(some))
            ):
                found[key_id] = name
            for user in session.scalars(select(User).where(User.user_id.in_(some))):
                found[user.user_id] = user.display_name or user.login
    return found
