"""Taking the remains of committed deletions from the disk.

A deletion writes what has to go into ``pending_removals`` in its own transaction; this module
takes it away and crosses it out. A crash between the two is harmless: it is taken up again at the
next opening or the next call.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer.catalog.tables import CapturePage, Image, PendingRemoval
from indexer.errors import StorageError
from indexer.files import storage_errors
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

_BLOB = "blob:"
_SNAPSHOTS = "snapshots"
_LOG = "log"


def request(session: Session, sha256s: list[str]) -> None:
    """Note, in the caller's transaction, that these originals and all file remains have to go."""
    now = utc_now()
    for item in [_SNAPSHOTS, _LOG, *(f"{_BLOB}{sha256}" for sha256 in sha256s)]:
        session.merge(PendingRemoval(item=item, requested_at=now))


def finish(ws: Workspace) -> bool:
    """Take away what is pending. Returns false where something has to be tried again later."""
    with ws.catalog.read() as session:
        pending = set(session.scalars(select(PendingRemoval.item)))
    if not pending:
        return True
    blobs = [item.removeprefix(_BLOB) for item in pending if item.startswith(_BLOB)]
    if blobs:
        _remove_blobs(ws, blobs)
    if _SNAPSHOTS in pending:
        for gallery in (ws.cases, ws.ads):
            gallery.catch_up()
            gallery.discard_snapshot()
        for path in ws.index_dir.glob("*.index"):
            # Views under other contracts; whoever uses them rebuilds from the catalog.
            with storage_errors(str(path)):
                path.unlink(missing_ok=True)
        _cross_out(ws, _SNAPSHOTS)
    # Last, because the log of the database keeps the old pages until it is emptied.
    if _LOG in pending and not ws.catalog.scrub():
        return False
    _cross_out(ws, _LOG)
    return True


def finish_if_possible(ws: Workspace) -> None:
    """As :func:`finish`, right after a deletion: that one is committed whatever happens here."""
    try:
        finish(ws)
    except StorageError:
        _log.exception("remains of a deletion could not be cleared yet; it is tried again")


@contextmanager
def discard_if_refused(ws: Workspace, sha256s: Collection[str]) -> Generator[None]:
    """Where the block fails, take away the originals that were put for it, unless something else
    has them."""
    try:
        yield
    except BaseException:
        try:
            _remove_blobs(ws, sha256s)
        except StorageError:
            _log.exception("files of a refused upload could not be removed")
        raise


def _remove_blobs(ws: Workspace, sha256s: Collection[str]) -> None:
    for sha256 in sha256s:
        # Inside the write lock: an upload of the same bytes either has its row by now, and they
        # stay, or looks for them after this and writes them again.
        with ws.catalog.write() as session:
            owned = session.scalar(
                select(Image.sha256).where(Image.sha256 == sha256)
            ) or session.scalar(
                select(CapturePage.sha256).where(CapturePage.sha256 == sha256).limit(1)
            )
            if not owned:
                ws.blobs.delete(sha256)
            session.execute(delete(PendingRemoval).where(PendingRemoval.item == _BLOB + sha256))


def _cross_out(ws: Workspace, item: str) -> None:
    with ws.catalog.write() as session:
        session.execute(delete(PendingRemoval).where(PendingRemoval.item == item))
