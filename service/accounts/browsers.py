"""The browsers in which a person is signed in: listed and ended, by the person or for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.tables import WebSession
from indexer.times import utc_now
from service.accounts.errors import SessionNotFound


@dataclass(frozen=True, slots=True)
class BrowserRecord:
    """One session. ``user_agent`` is what the browser said of itself; ``address`` where it was when
    the session began."""

    session_id: str
    address: str
    user_agent: str
    created_at: datetime
    last_used_at: datetime


def sessions_of(
    catalog: Catalog, user_id: str, now: datetime | None = None
) -> tuple[BrowserRecord, ...]:
    """The sessions of a person that are open, newest first."""
    query = (
        select(WebSession)
        .where(WebSession.user_id == user_id, WebSession.expires_at > (now or utc_now()))
        .order_by(WebSession.session_id.desc())
    )
    with catalog.read() as session:
        return tuple(
            BrowserRecord(
                row.session_id,
                row.address or "",
                row.user_agent or "",
                row.created_at,
                row.last_used_at,
            )
            for row in session.scalars(query)
        )


def end(catalog: Catalog, user_id: str, session_id: str) -> None:
    """End one session of a person. Raises :class:`SessionNotFound`, also for another's."""
    with catalog.write() as session:
        gone = session.execute(
            delete(WebSession)
            .where(WebSession.session_id == session_id, WebSession.user_id == user_id)
            .returning(WebSession.session_id)
        ).all()
        if not gone:
            raise SessionNotFound
        record(
            session,
            "session.end",
            subject=("user", user_id),
            details={"session": session_id, "sessions": 1},
        )


def end_all(catalog: Catalog, user_id: str, *, but: str | None = None) -> int:
    """End the sessions of a person, except ``but``; how many there were."""
    with catalog.write() as session:
        query = delete(WebSession).where(WebSession.user_id == user_id)
        if but is not None:
            query = query.where(WebSession.session_id != but)
        gone = session.execute(query.returning(WebSession.session_id)).all()
        record(session, "session.end", subject=("user", user_id), details={"sessions": len(gone)})
        return len(gone)
