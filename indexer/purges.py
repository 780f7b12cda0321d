"""The purge ledger: proof that something was deleted, without saying what it was.

An entry is written in the transaction of its deletion. Where the workspace names a file for it,
upkeep and every deletion copy the entries there as well: that file outlives a restored back-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from indexer import ledger
from indexer.audit import record
from indexer.batches import chunks
from indexer.catalog.tables import Purge
from indexer.files import file_lock
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page, PurgeRecord
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_AT_ONCE = 5_000

FORGOTTEN: Final[Mapping[str, str]] = {
    "ad": "ad.forget",
    "case": "case.forget",
    "case_withdrawn": "case.withdraw",
    "photo": "photo.forget",
}
"""What the audit log calls each kind of deletion."""


def record_purge(
    session: Session,
    actor: str,
    kind: str,
    subject_id: str,
    counts: Mapping[str, int],
    *,
    case_id: str | None = None,
) -> PurgeRecord:
    """Write one entry, in the caller's transaction, and the record of the audit log.

    ``case_id``: the case that the subject is part of.
    """
    row = Purge(
        purge_id=new_id(),
        at=utc_now(),
        actor=actor,
        kind=kind,
        subject_id=subject_id,
        counts=dict(counts),
    )
    session.add(row)
    record(
        session,
        FORGOTTEN.get(kind, "purge.other"),
        subject=(kind, subject_id),
        case_id=case_id or (subject_id if kind in ("case", "case_withdrawn") else None),
        details={"purge_id": row.purge_id, **counts},
    )
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


def write_ledger(ws: Workspace) -> int:
    """Copy entries that are not there yet to the file of purges; returns how many.

    Where the file is gone it is written anew, whole. A crash between the file and the catalog
    lists an entry twice, which does no harm. Raises :class:`LedgerDamaged` and the StorageError
    tree.
    """
    path = ws.options.purge_ledger
    if path is None or not _to_write(ws, path):
        return 0
    written = 0
    # Beside the file: more than one data folder may name it.
    with file_lock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            with ws.catalog.write() as session:
                session.execute(update(Purge).values(written_at=None))
        while True:
            with ws.catalog.read() as session:
                rows = session.scalars(
                    select(Purge)
                    .where(Purge.written_at.is_(None))
                    .order_by(Purge.purge_id)
                    .limit(_AT_ONCE)
                ).all()
            if not rows:
                return written
            ledger.append(path, [_record(row) for row in rows])
            now = utc_now()
            with ws.catalog.write() as session:
                for some in chunks(row.purge_id for row in rows):
                    session.execute(
                        update(Purge).where(Purge.purge_id.in_(some)).values(written_at=now)
                    )
            written += len(rows)


def _to_write(ws: Workspace, path: Path) -> bool:
    query = select(Purge.purge_id).limit(1)
    with ws.catalog.read() as session:
        if path.exists():
            query = query.where(Purge.written_at.is_(None))
        return session.scalar(query) is not None


def pending_entries(ws: Workspace) -> int:
    """How many entries are not in the file of purges yet."""
    with ws.catalog.read() as session:
        return session.scalar(select(func.count()).where(Purge.written_at.is_(None))) or 0


def _record(row: Purge) -> PurgeRecord:
    return PurgeRecord(
        purge_id=row.purge_id,
        at=row.at,
        actor=row.actor,
        kind=row.kind,
        subject_id=row.subject_id,
        counts=row.counts,
    )
