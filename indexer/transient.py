"""Reading stored pictures again, taking faces away, and changing between the two modes
(``indexer.kept_faces``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session

from indexer import images, kept_faces, queue, removals
from indexer.audit import chain
from indexer.catalog.picture_tables import AdFaceMode, WithheldImage
from indexer.catalog.tables import CaptureImage, GalleryMember, Job
from indexer.galleries import add_faces
from indexer.generations.rows import is_active, require_live
from indexer.images import Analysed
from indexer.job_rows import failure_json
from indexer.purges import record_purge
from indexer.records import Failure, JobRecord
from indexer.trials import analyse_one_by_one
from indexer.watchlist import probe_cases, wanted_faces
from indexer.withheld.rows import DELETED
from indexer.workspace import Workspace
from models.types import FloatArray

_log = logging.getLogger(__name__)

_PICTURES: Final = 64
_FACES: Final = 500
_LISTED: Final = 500
_AGAIN: Final = queue.PASSING | {queue.CRASHED}
"""Codes of pictures that are read once more when the job is tried again."""
_ACTOR: Final = "retention"


def wanted_of(ws: Workspace, found: Sequence[Analysed]) -> dict[str, list[int]]:
    """For each analysed picture the numbers of the faces that may become candidates of open cases
    under the contract in use; of another contract none, for that is compared when it is in use."""
    with ws.catalog.read() as session:
        if not is_active(session, ws.contract_id):
            return {one.sha256: [] for one in found}
    vectors: dict[str, FloatArray] = {}
    for one in found:
        for index, face in enumerate(one.faces):
            vectors[f"{one.sha256}:{index}"] = face.embedding.vector
    wanted = wanted_faces(ws, vectors)
    return {
        one.sha256: [i for i in range(len(one.faces)) if f"{one.sha256}:{i}" in wanted]
        for one in found
    }


# --- reading again ---------------------------------------------------------------------------


def read_again(ws: Workspace, job: JobRecord) -> None:
    """Read the stored pictures of ads once more and compare them with the open cases, all at once:
    other cases that wait for the same when it begins are done with it. Where all faces are kept
    (again), it fills the gallery with those that are not in it.

    How far it came, and what could not be read, is kept with the job after each batch. What failed
    for a reason that may pass is read again later; where it still fails, the job is failed, and
    those that were to be done with it too. Raises what breaks off any job.
    """
    _begin(ws, job)
    while some := _take(ws, job.job_id):
        face_ids, failures = _read_batch(ws, some, alone=job.alone)
        with ws.catalog.write() as session:
            kept_faces.drop_rest(session, ws, face_ids, [job.job_id])
            _note_progress(ws, session, job.job_id, some, failures)
    with ws.catalog.write() as session:
        _end(ws, session, job.job_id)


def _begin(ws: Workspace, job: JobRecord) -> None:
    """Note from where to go on, and which jobs are done with this one."""
    with ws.catalog.write() as session:
        row = session.get_one(Job, job.job_id)
        if "with" not in row.payload:
            row.payload = _plan(session, job.job_id)
        row.done = min(int(row.payload["read"]), row.total)


def _plan(session: Session, job_id: str) -> dict[str, Any]:
    """Begin with all that wait; or go on where one broke off that this job was to be done with.

    The others are marked: whoever asks from now on for the cases that they are of is not served
    by a reading that is past its beginning (``kept_faces.ask_reading``).
    """
    waiting = session.scalars(
        select(Job).where(Job.kind == "read_again", Job.state == "queued").order_by(Job.job_id)
    ).all()
    for one in waiting:
        if job_id in one.payload.get("with", ()):
            others = [other for other in one.payload["with"] if other != job_id]
            return {**one.payload, "with": [one.job_id, *others], "hand": []}
    for one in waiting:
        one.payload = {**one.payload, "by": job_id}
    return {
        "with": [one.job_id for one in waiting],
        "after": "",
        "read": 0,
        "hand": [],
        "failed": [],
    }


def _take(ws: Workspace, job_id: str) -> list[str]:
    """The next pictures, noted with the job as those in hand; none where it is another's now."""
    with ws.catalog.write() as session:
        row = session.get(Job, job_id)
        if row is None or row.runner != ws.runner_id:
            return []
        some = _next(session, row.payload["after"], row.payload.get("only"))
        row.payload = {**row.payload, "hand": some}
        return some


def _next(session: Session, after: str, only: Sequence[str] | None) -> list[str]:
    query = _readable().where(CaptureImage.sha256 > after)
    if only is not None:
        query = query.where(CaptureImage.sha256.in_(only))
    rows = session.scalars(query.order_by(CaptureImage.sha256).limit(_PICTURES))
    return [sha256 for sha256 in rows if sha256 is not None]


def _readable() -> Select[str | None]:
    """What ads show and was not deleted after it was withheld."""
    gone = exists().where(
        WithheldImage.sha256 == CaptureImage.sha256, WithheldImage.outcome == DELETED
    )
    return select(CaptureImage.sha256).where(CaptureImage.sha256.is_not(None), ~gone).distinct()


def _read_batch(
    ws: Workspace, shas: Sequence[str], *, alone: bool
) -> tuple[list[str], list[Failure]]:
    """Analyse and compare some pictures; returns the faces that were written for it, and what
    could not be read of what ads still show."""
    analyse = analyse_one_by_one if alone else images.analyse_stored
    with closing(analyse(ws, shas)) as results:
        every = list(results)
    found = [one for one in every if not isinstance(one, Failure)]
    transient = kept_faces.is_transient(ws)
    wanted = wanted_of(ws, found) if transient else {}
    with ws.catalog.write() as session:
        require_live(session, ws.contract_id)
        shown = set(session.scalars(_readable().where(CaptureImage.sha256.in_(shas))))
        vectors: dict[str, FloatArray] = {}
        for one in found:
            if one.sha256 not in shown:
                continue
            rows = images.keep_analysis(
                session, ws.contract_id, one, only=wanted.get(one.sha256) if transient else None
            )
            vectors |= {row.face_id: row.vector for row in rows if row.vector is not None}
        add_faces(session, "ads", ws.contract_id, list(vectors))
    probe_cases(ws, vectors)
    failures = [one for one in every if isinstance(one, Failure) and one.item in shown]
    return list(vectors), failures


def _note_progress(
    ws: Workspace, session: Session, job_id: str, some: Sequence[str], failures: Sequence[Failure]
) -> None:
    row = session.get(Job, job_id)
    if row is None or row.runner != ws.runner_id:
        return
    failed = [*row.payload["failed"], *(failure_json(failure) for failure in failures)]
    again = [one for one in failed if one["code"] in _AGAIN]
    lasting = [one for one in failed if one["code"] not in _AGAIN]
    row.payload = {
        **row.payload,
        "after": some[-1],
        "read": int(row.payload["read"]) + len(some),
        "hand": [],
        "failed": [*again[:_LISTED], *lasting[:_LISTED]],
        # More than are listed: all pictures are read again instead.
        "unlisted": row.payload.get("unlisted", False) or len(again) > _LISTED,
    }
    row.done = min(row.payload["read"], row.total)
    _to_others(session, row, done=row.done)


def _end(ws: Workspace, session: Session, job_id: str) -> None:
    """End the job and those that are done with it; where pictures are left that could not be
    read, note that these are what remains."""
    row = session.get(Job, job_id)
    if row is None or row.runner != ws.runner_id:
        return
    failed = list(row.payload["failed"])
    again = sorted({one["item"] for one in failed if one["code"] in _AGAIN})
    others = list(row.payload["with"])
    queue.finish(session, ws.runner_id, job_id, [Failure(**one) for one in failed])
    if again and row.payload.get("unlisted"):
        row.payload = {}
    elif again:
        row.payload = {
            "with": others,
            "after": "",
            "read": max(0, int(row.payload["read"]) - len(again)),
            "hand": [],
            "failed": [one for one in failed if one["code"] not in _AGAIN],
            "only": again,
        }
    if row.state == "queued":
        # They take the reading up where they come before this one, but no sooner than it would.
        _to_others(session, row, others, run_after=row.run_after)
        return
    ended: dict[str, Any] = {"state": row.state, "done": Job.total}
    ended |= {"failures": row.failures, "finished_at": row.finished_at}
    if row.state == "failed":
        ended["payload"] = row.payload and {**row.payload, "with": []}
    _to_others(session, row, others, **ended)


def _to_others(
    session: Session, row: Job, others: Sequence[str] | None = None, **values: Any
) -> None:
    """Set the same for those jobs that wait to be done with this one."""
    ids = row.payload["with"] if others is None else others
    session.execute(update(Job).where(Job.job_id.in_(ids), Job.state == "queued").values(**values))


# --- taking away -----------------------------------------------------------------------------


def tidy_faces(ws: Workspace, job: JobRecord) -> None:
    """Take away the faces of ads that are no candidates of open cases, under every contract, and
    leave a proof of how many. What is not done yet is found again when it is broken off; what
    another job is just comparing is left to a job that comes later."""
    total = {"faces": 0, "vectors": 0}
    after = ""
    while True:
        with ws.catalog.write() as session:
            # Asked anew each time: where all faces are kept again, no more may go.
            if kept_faces.mode_of(session, ws) != "transient":
                break
            some = session.scalars(
                kept_faces.unwanted()
                .where(GalleryMember.face_id > after)
                .order_by(GalleryMember.face_id)
                .limit(_FACES)
            ).all()
            if not some:
                break
            after = some[-1]
            counts = kept_faces.drop_unwanted(session, some)
            if any(counts.values()):
                kept_faces.forget_remains(session, counts)
                record_purge(session, _ACTOR, "ad_faces", job.job_id, counts)
                chain.record(
                    session, "face.transient_purge", subject=("job", job.job_id), details=counts
                )
        total = {name: total[name] + counts[name] for name in total}
    with ws.catalog.write() as session:
        queue.finish(session, ws.runner_id, job.job_id)
    if any(total.values()):
        _log.info("%d faces of ads were taken away", total["faces"])
        removals.finish_if_possible(ws)


def settle_mode(ws: Workspace) -> None:
    """Bring the catalog into the mode that is set; called as the service starts, and by no
    command that somebody runs with other settings.

    To ``transient``: what is no candidate goes, by a job. Back: the stored pictures are read
    again, by a job.
    """
    mode = ws.options.ad_faces
    with ws.catalog.read() as session:
        before = _noted(session)
        left = session.scalar(kept_faces.unwanted().limit(1)) if mode == "transient" else None
    if before == mode and left is None:
        return
    with ws.catalog.write() as session:
        before = _noted(session)
        kept_faces.set_mode(session, mode)
        if mode == "transient":
            if not kept_faces.tidy_waits(session):
                queue.enqueue(session, "tidy_faces", kept_faces.ADS)
        elif before != mode:
            kept_faces.ask_reading(session, kept_faces.ADS)
        if before != mode:
            chain.record(session, "face.mode", details={"before": before, "after": mode})


def _noted(session: Session) -> str:
    row = session.get(AdFaceMode, 1)
    return "standard" if row is None else row.mode
