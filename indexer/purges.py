"""The purge ledger: proof that something was deleted, without saying what it was."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.catalog.tables import Purge
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page, PurgeRecord
from indexer.times import utc_now
from indexer.workspace import Workspace


def record_purge(
    session: Session, actor: str, kind: str, subject_id: str, counts: Mapping[str, int]
) -> PurgeRecord:
    """Write one entry, in the caller's transaction."""
    row = Purge(
        purge_id=new_id(),
        at=utc_now(),
        actor=actor,
        kind=kind,
        subject_id=subject_id,
        counts=dict(counts),
    )
    session.add(row)
    return _record(row)


def list_purges(ws: Workspace, *, limit: int = 50, cursor: str | None = None) -> Page[PurgeRecord]:
    """The ledger, newest first. Raises :class:`InvalidCursor`."""
    query = select(Purge).order_by(Purge.purge_id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Purge.purge_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
    items = tuple(_record(row) for row in rows[:limit])
    return Page(items, encode_cursor(items[-1].purge_id) if len(rows) > limit else None)


def _record(row: Purge) -> PurgeRecord:
    return PurgeRecord(
        purge_id=row.purge_id,
        at=row.at,
        actor=row.actor,
        kind=row.kind,
        subject_id=row.subject_id,
        counts=row.counts,
    )
