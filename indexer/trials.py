"""Pictures at which a process died: counted one by one, so that none can do so for ever.

A picture can kill its process in ways that no handler sees: native code that crashes, memory that
the system refuses. After such a death the job comes back to be done alone, and each of its
pictures is noted before it is analysed. One at which ``DEATHS_PER_IMAGE`` processes died is not
tried again; its neighbours are done as always.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

from sqlalchemy import delete
from sqlalchemy.orm import Session

from indexer import images
from indexer.batches import chunks
from indexer.catalog.tables import Image, ImageAnalysis, ImageTrial
from indexer.images import Analysed
from indexer.queue import CRASHED, DEATHS_PER_IMAGE
from indexer.records import Failure
from indexer.workspace import Workspace


def analyse_one_by_one(ws: Workspace, sha256s: Iterable[str]) -> Generator[Analysed | Failure]:
    """As ``images.analyse_stored``, one picture at a time, each noted before it is tried.

    The note is taken back when the caller comes for the next one, by when it has kept what came,
    or closes this: whatever else fails, only a death leaves it behind.
    """
    for sha256 in sha256s:
        crashes = _note(ws, sha256)
        if crashes is None:
            continue  # forgotten meanwhile
        if crashes > DEATHS_PER_IMAGE:
            yield Failure(
                item=sha256,
                code=CRASHED,
                detail=f"The process died {DEATHS_PER_IMAGE} times while it analysed this picture.",
            )
            continue
        try:
            yield from images.analyse_stored(ws, [sha256])
        finally:
            _take_back(ws, sha256, crashes)


def try_again(session: Session, sha256s: Iterable[str]) -> None:
    """Forget, in the caller's transaction, that pictures could not be analysed."""
    for some in chunks(sha256s):
        session.execute(delete(ImageTrial).where(ImageTrial.sha256.in_(some)))
        session.execute(
            delete(ImageAnalysis).where(
                ImageAnalysis.sha256.in_(some), ImageAnalysis.state == "failed"
            )
        )


def _take_back(ws: Workspace, sha256: str, crashes: int) -> None:
    """As it was before this attempt; all forgotten where the picture came through."""
    with ws.catalog.write() as session:
        row = session.get(ImageTrial, (sha256, ws.contract_id))
        if row is None:
            return
        if crashes > 1 and session.get(ImageAnalysis, (sha256, ws.contract_id)) is None:
            row.crashes = crashes - 1
        else:
            session.delete(row)


def _note(ws: Workspace, sha256: str) -> int | None:
    with ws.catalog.write() as session:
        if session.get(Image, sha256) is None:
            return None
        row = session.get(ImageTrial, (sha256, ws.contract_id))
        if row is None:
            row = ImageTrial(sha256=sha256, contract_id=ws.contract_id, crashes=0)
            session.add(row)
        if row.crashes <= DEATHS_PER_IMAGE:
            row.crashes += 1
        return row.crashes
