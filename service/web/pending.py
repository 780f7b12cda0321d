"""Sign-ins that lack their second factor: a row like that of a session, but of nobody, so that it
opens nothing. It holds across processes, for a few minutes."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select

from indexer.catalog import Catalog
from indexer.catalog.tables import WebSession
from indexer.ids import new_id
from indexer.times import utc_now
from service.web.sessions import new_token

LASTS: Final = timedelta(minutes=5)
_AWAITED: Final = "awaits_code_of"


def begin(catalog: Catalog, user_id: str, now: datetime | None = None) -> str:
    """The text of a cookie that stands for a person who still has to give a code."""
    now, token = now or utc_now(), new_token()
    with catalog.write() as db:
        db.execute(delete(WebSession).where(WebSession.expires_at <= now))
        db.add(
            WebSession(
                session_id=new_id(),
                token_sha256=_digest(token),
                data={_AWAITED: user_id},
                created_at=now,
                last_used_at=now,
                expires_at=now + LASTS,
            )
        )
    return token


def user_of(catalog: Catalog, token: str, now: datetime | None = None) -> str | None:
    """The id of the person whom ``token`` stands for, or None."""
    with catalog.read() as db:
        row = db.scalar(select(WebSession).where(WebSession.token_sha256 == _digest(token)))
        if row is None or row.expires_at <= (now or utc_now()):
            return None
        found = row.data.get(_AWAITED)
    return found if isinstance(found, str) else None


def end(catalog: Catalog, token: str) -> None:
    """It stands for nobody from now on. Sessions are not touched."""
    with catalog.write() as db:
        row = db.scalar(select(WebSession).where(WebSession.token_sha256 == _digest(token)))
        if row is not None and _AWAITED in row.data:
            db.delete(row)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
