"""The keys that somebody made: they are worth no more than whoever made them."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog.tables import ApiKey, WebSession
from indexer.times import utc_now


def revoke(session: Session, row: ApiKey) -> None:
    """Take back a key and end what was begun with it, in the caller's transaction."""
    if row.revoked_at is None:
        row.revoked_at = utc_now()
        record(session, "key.revoke", subject=("key", row.key_id))
    session.execute(delete(WebSession).where(WebSession.key_id == row.key_id))


def revoke_made_by(session: Session, actor: str) -> None:
    """Take back every key that ``actor`` made, and those that these keys made, and so on."""
    seen: set[str] = set()
    waiting = [actor]
    while waiting:
        made = session.scalars(select(ApiKey).where(ApiKey.created_by == waiting.pop())).all()
        for row in made:
            if row.key_id not in seen:
                seen.add(row.key_id)
                waiting.append(row.key_id)
                revoke(session, row)
