"""Taking the remains of committed deletions from the disk.

A deletion writes what has to go into ``pending_removals`` in its own transaction; this module
takes it away and crosses it out. A crash between the two is harmless: it is taken up again at the
next opening or the next call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer import purges
from indexer.batches import chunks
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import CapturePage, Image, PendingRemoval, StagedImage
from indexer.compaction import clear_slack
from indexer.errors import StorageError
from indexer.files import storage_errors, try_lock
from indexer.galleries.folders import remove_broken, remove_unused
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

_BLOB = "blob:"
_SNAPSHOTS = "snapshots"
_LOG = "log"
_SLACK = "slack"
_AT_ONCE, _AT_ONCE_INLINE = 5_000, 100
"""Originals that one turn of upkeep, and one request, take away."""
_SWEEP_EVERY_S = 3600.0
_ORPHAN_AFTER_S = 3600.0
_ORPHANS_UNSUSPECTED = 100


def request(session: Session, sha256s: list[str]) -> None:
    """Note, in the caller's transaction, that these originals and all file remains have to go."""
    now = utc_now()
    for item in [_SNAPSHOTS, _LOG, _SLACK, *(f"{_BLOB}{sha256}" for sha256 in sha256s)]:
        session.merge(PendingRemoval(item=item, requested_at=now))


def request_bytes(session: Session, sha256s: Collection[str]) -> None:
    """Note, in the caller's transaction, that these originals have to go; no face hangs on them."""
    now = utc_now()
    for sha256 in sha256s:
        session.merge(PendingRemoval(item=f"{_BLOB}{sha256}", requested_at=now))


def finish(ws: Workspace, *, slack: bool = True) -> bool:
    """Take away what is pending. Returns false where something has to be tried again later.

    ``slack=False`` leaves one thing to upkeep, which reads the whole catalog for it: copies of
    deleted rows in the slack of its pages.
    """
    remove_broken(ws.index_dir)
    with ws.catalog.read() as session:
        found = session.execute(select(PendingRemoval.item, PendingRemoval.requested_at))
        pending = {row.item: row.requested_at for row in found}
    if not pending:
        return True
    # The newest first, so that a deletion clears what is its own, and not all that others left.
    waiting = sorted(
        (item for item in pending if item.startswith(_BLOB)),
        key=lambda item: pending[item],
        reverse=True,
    )
    turn = waiting[: _AT_ONCE if slack else _AT_ONCE_INLINE]
    _remove_blobs(ws, [item.removeprefix(_BLOB) for item in turn])
    vectors_gone = True
    if _SNAPSHOTS in pending:
        remove_unused(ws.index_dir)
        scrubbed = [
            gallery.scrub() for view in ws.views.opened() for gallery in (view.cases, view.ads)
        ]
        vectors_gone = all(scrubbed)
        if vectors_gone:
            _cross_out(ws, _SNAPSHOTS, pending[_SNAPSHOTS])
    # Late, because the log of the database keeps the old pages until it is emptied.
    if _LOG in pending:
        if not ws.catalog.scrub():
            return False
        _cross_out(ws, _LOG, pending[_LOG])
    done = vectors_gone and len(turn) == len(waiting)
    if _SLACK in pending:
        return slack and _clear_slack(ws, pending[_SLACK]) and done
    return done


def _clear_slack(ws: Workspace, asked: datetime) -> bool:
    if not ws.catalog.is_sqlite:
        _cross_out(ws, _SLACK, asked)
        return True
    lock = try_lock(ws.locks_dir / "slack.lock")
    if lock is None:
        return False
    with lock:
        if not clear_slack(ws.catalog):
            return False
        _cross_out(ws, _SLACK, asked)
    return True


def sweep_if_due(ws: Workspace) -> None:
    """Once an hour for all processes together: remove from the store what a process that was
    killed left there, half-written files and originals that no row names."""
    stamp = ws.locks_dir / "swept"
    lock = try_lock(ws.locks_dir / "sweep.lock")
    if lock is None:
        return
    with lock, storage_errors(str(stamp)):
        if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < _SWEEP_EVERY_S:
            return
        ws.blobs.sweep()
        remove_unused(ws.index_dir)
        # Young ones may belong to an upload that is not committed yet.
        seen, orphans = 0, list[str]()
        for some in chunks(ws.blobs.digests(older_than_s=_ORPHAN_AFTER_S)):
            seen += len(some)
            orphans += _orphans(ws, some)
        if look_foreign(len(orphans), seen):
            _log.error(
                "%d of %d originals are in no row of this catalog; they stay: do the catalog "
                "and the store of originals belong together?",
                len(orphans),
                seen,
            )
        else:
            _remove_blobs(ws, orphans)
        stamp.touch(mode=0o600)


def look_foreign(orphans: int, held: int) -> bool:
    """Whether so many originals have no row that they rather belong to another catalog.

    What interrupted uploads leave is little; a store of another installation, or the catalog of
    another, is found by this before anything is removed.
    """
    return orphans > _ORPHANS_UNSUSPECTED and 2 * orphans > held


def _orphans(ws: Workspace, sha256s: Collection[str]) -> list[str]:
    with ws.catalog.read() as session:
        owned = _owned(session, sha256s)
    return [sha256 for sha256 in sha256s if sha256 not in owned]


def is_owned(ws: Workspace, sha256: str) -> bool:
    """Whether a row names this original. Raises the StorageError tree."""
    return not _orphans(ws, [sha256])


def _owned(session: Session, sha256s: Collection[str]) -> set[str]:
    """Which of these originals something has: an image, a page of an ad, the staging, or the
    preservation of a withheld picture. One that was to be deleted after that is nobody's."""
    owned: set[str] = set()
    for column in (Image.sha256, CapturePage.sha256, StagedImage.sha256):
        owned |= set(session.scalars(select(column).where(column.in_(sha256s))))
    withheld = session.execute(
        select(WithheldImage.sha256, WithheldImage.outcome).where(WithheldImage.sha256.in_(sha256s))
    )
    for sha256, outcome in withheld:
        if outcome in (None, "reported_and_preserved"):
            owned.add(sha256)
        elif outcome == "deleted_after_preservation":
            owned.discard(sha256)
    return owned


def finish_if_possible(ws: Workspace) -> None:
    """As :func:`finish`, right after a deletion: that one is committed whatever happens here."""
    try:
        finish(ws, slack=False)
    except StorageError:
        _log.exception("remains of a deletion could not be cleared yet; it is tried again")
    try:
        purges.write_ledger(ws)
    except StorageError:
        _log.exception("the file of purges could not be written; it is tried again")


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
            if not _owned(session, [sha256]):
                ws.blobs.delete(sha256)
            session.execute(delete(PendingRemoval).where(PendingRemoval.item == _BLOB + sha256))


def _cross_out(ws: Workspace, item: str, asked: datetime) -> None:
    with ws.catalog.write() as session:
        # Not what a deletion asked for since: that one still has to be done.
        session.execute(
            delete(PendingRemoval).where(
                PendingRemoval.item == item, PendingRemoval.requested_at == asked
            )
        )
