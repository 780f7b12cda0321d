"""Images that a scraper sends ahead of the ads that will name them by their SHA-256.

What is said here speaks of ads and of the staging alone. Bytes that only the photo of a case has
are treated exactly as bytes that nobody has, in what is answered and in what is done.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from indexer import removals
from indexer.audit.chain import record
from indexer.batches import SQL_VALUES
from indexer.blobs import Received
from indexer.catalog.tables import CaptureImage, StagedImage
from indexer.errors import StagingFull
from indexer.room import require_room
from indexer.times import utc_now
from indexer.withheld import rows as withheld
from models.decode import inspect

if TYPE_CHECKING:
    from indexer.workspace import Workspace

STAGED_PER_JOB = 20
"""Images that may wait for each job that may: as many as one ad may have."""


def of_ads(session: Session, sha256s: Collection[str]) -> set[str]:
    """Which of these images an ad has. Photos of cases are never asked."""
    query = select(CaptureImage.sha256).where(CaptureImage.sha256.in_(sha256s)).distinct()
    return {sha256 for sha256 in session.scalars(query) if sha256 is not None}


def staged(session: Session, sha256s: Collection[str]) -> set[str]:
    """Which of these images wait for their ad."""
    return set(session.scalars(select(StagedImage.sha256).where(StagedImage.sha256.in_(sha256s))))


def is_known(ws: Workspace, sha256: str) -> bool:
    """Whether an ad has this image or it waits for one, so that its bytes need not be sent."""
    with ws.catalog.read() as session:
        owned = of_ads(session, [sha256]) or staged(session, [sha256])
    # Where the original itself is lost, the bytes are wanted.
    return bool(owned) and ws.blobs.has(sha256)


def stage(ws: Workspace, file: Received, actor: str) -> bool:
    """Keep the bytes of an image until an ad names it; returns false where they are known.

    ``file`` stays the caller's to discard. Raises ``ImageRejected`` for what is no usable image,
    :class:`StagingFull`, and the StorageError tree; then nothing is kept.
    """
    inspect(file.read(), ws.limits)
    if is_known(ws, file.sha256):
        return False
    require_room(ws)
    bound = ws.options.max_queued_jobs * STAGED_PER_JOB
    with removals.discard_if_refused(ws, [file.sha256]):
        # Evenly: how long it takes must not tell whether a case has the photo.
        ws.blobs.keep([file], evenly=True)
        with ws.catalog.write() as session:
            waiting = session.scalar(select(func.count()).select_from(StagedImage)) or 0
            if waiting >= bound and not staged(session, [file.sha256]):
                raise StagingFull(waiting, bound)
            if not ws.blobs.has(file.sha256):
                # Another owner of the same bytes was forgotten since they were kept.
                ws.blobs.keep([file])
            withheld.arrived(session, ws, [file.sha256])
            session.merge(
                StagedImage(sha256=file.sha256, size=file.size, actor=actor, received_at=utc_now())
            )
            record(session, "image.stage", subject=("image", file.sha256))
    return True


def unstage(session: Session, sha256s: Collection[str]) -> None:
    """In the transaction in which an ad takes these images: they wait no longer."""
    session.execute(delete(StagedImage).where(StagedImage.sha256.in_(sha256s)))


def expire(ws: Workspace) -> int:
    """Let go of images whose ad did not come in time; returns how many. Their bytes follow."""
    oldest = utc_now() - timedelta(hours=ws.options.staged_hours)
    late = select(StagedImage.sha256).where(StagedImage.received_at < oldest).limit(SQL_VALUES)
    gone = 0
    while True:
        with ws.catalog.read() as session:
            if not session.scalars(late.limit(1)).all():
                return gone
        with ws.catalog.write() as session:
            found = session.scalars(late).all()
            unstage(session, found)
            removals.request_bytes(session, found)
        gone += len(found)
