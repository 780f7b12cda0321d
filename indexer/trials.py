"""Pictures at which a process died: counted one by one, so that none can do so for ever.

A picture can kill its process in ways that no handler sees: native code that crashes, memory that
the system refuses. After such a death the job comes back to be done alone, and each of its
pictures is noted before it is analysed. One that was noted ``MAX_CRASHES`` times and never came
through is not tried again; its neighbours are done as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import delete
from sqlalchemy.orm import Session

from indexer import images
from indexer.batches import chunks
from indexer.catalog.tables import Image, ImageAnalysis, ImageTrial
from indexer.images import Analysed
from indexer.queue import CRASHED
from indexer.records import Failure
from indexer.workspace import Workspace

MAX_CRASHES = 2


def analyse_one_by_one(ws: Workspace, sha256s: Iterable[str]) -> Iterator[Analysed | Failure]:
    """As ``images.analyse_stored``, one picture at a time, each noted before it is tried.

    The note is taken back when the caller comes for the next one: by then it has kept what came.
    """
    for sha256 in sha256s:
        crashes = _note(ws, sha256)
        if crashes is None:
            continue  # forgotten meanwhile
        if crashes > MAX_CRASHES:
            yield Failure(
                item=sha256,
                code=CRASHED,
                detail=f"The process died {MAX_CRASHES} times while it analysed this picture.",
            )
            continue
        yield from images.analyse_stored(ws, [sha256])
        with ws.catalog.write() as session:
            session.execute(
                delete(ImageTrial).where(
                    ImageTrial.sha256 == sha256, ImageTrial.contract_id == ws.contract_id
                )
            )


def try_again(session: Session, sha256s: Iterable[str]) -> None:
    """Forget, in the caller's transaction, that pictures could not be analysed."""
    for some in chunks(sha256s):
        session.execute(delete(ImageTrial).where(ImageTrial.sha256.in_(some)))
        session.execute(
            delete(ImageAnalysis).where(
                ImageAnalysis.sha256.in_(some), ImageAnalysis.state == "failed"
            )
        )


def _note(ws: Workspace, sha256: str) -> int | None:
    with ws.catalog.write() as session:
        if session.get(Image, sha256) is None:
            return None
        row = session.get(ImageTrial, (sha256, ws.contract_id))
        if row is None:
            row = ImageTrial(sha256=sha256, contract_id=ws.contract_id, crashes=0)
            session.add(row)
        if row.crashes <= MAX_CRASHES:
            row.crashes += 1
        return row.crashes
