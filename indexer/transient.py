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
from indexer.catalog.tables import Candidate, CaptureImage, Case, GalleryMember, Job
from indexer.galleries import add_faces
from indexer.generations.rows import is_active, require_live
from indexer.images import Analysed
from indexer.purges import record_purge
from indexer.records import Failure, JobRecord
from indexer.times import utc_now
from indexer.trials import analyse_one_by_one
from indexer.watchlist import probe_cases, wanted_faces
from indexer.withheld.rows import DELETED
from indexer.workspace import Workspace
from models.types import FloatArray

_log = logging.getLogger(__name__)

_PICTURES: Final = 64
_FACES: Final = 500
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


def drop_rest(ws: Workspace, face_ids: Sequence[str]) -> None:
    """Of faces that were just compared, keep those that became candidates."""
    with ws.catalog.write() as session:
        kept_faces.forget_remains(session, kept_faces.drop_unwanted(session, face_ids))


# --- reading again ---------------------------------------------------------------------------


def read_again(ws: Workspace, job: JobRecord) -> None:
    """Read the stored pictures of ads once more and compare them with the open cases, all at once:
    other cases that wait for the same when it begins are done with it. Where all faces are kept
    (again), it fills the gallery with those that are not in it.

    How far it came is kept with the job after each batch. Raises what breaks off any job.
    """
    after, others = _begin(ws, job)
    done = job.done
    while True:
        with ws.catalog.read() as session:
            some = _next(session, after)
        if not some:
            break
        _read_batch(ws, some, alone=job.alone)
        after, done = some[-1], done + len(some)
        with ws.catalog.write() as session:
            _note_progress(ws, session, job.job_id, others, after, done)
    with ws.catalog.write() as session:
        for other in others:
            row = session.get(Job, other)
            if row is not None and row.state == "queued":
                row.state, row.done, row.finished_at = "done", row.total, utc_now()
        queue.finish(session, ws.runner_id, job.job_id)


def _begin(ws: Workspace, job: JobRecord) -> tuple[str, list[str]]:
    """From where to go on, and the jobs that are done with this one."""
    with ws.catalog.write() as session:
        row = session.get_one(Job, job.job_id)
        if "with" not in row.payload:
            row.payload = {**row.payload, **_plan(session, job.job_id)}
        row.done = int(row.payload["read"])
        return str(row.payload["after"]), list(row.payload["with"])


def _plan(session: Session, job_id: str) -> dict[str, Any]:
    """Begin with all that wait; or go on where one broke off that this job was to be done with."""
    waiting = session.scalars(
        select(Job).where(Job.kind == "read_again", Job.state == "queued").order_by(Job.job_id)
    ).all()
    for one in waiting:
        if job_id in one.payload.get("with", ()):
            others = [other for other in one.payload["with"] if other != job_id]
            return {
                "with": [one.job_id, *others],
                "after": one.payload["after"],
                "read": one.payload["read"],
            }
    return {"with": [one.job_id for one in waiting], "after": "", "read": 0}


def _next(session: Session, after: str) -> list[str]:
    gone = exists().where(
        WithheldImage.sha256 == CaptureImage.sha256, WithheldImage.outcome == DELETED
    )
    rows = session.scalars(
        select(CaptureImage.sha256)
        .where(CaptureImage.sha256 > after, ~gone)
        .distinct()
        .order_by(CaptureImage.sha256)
        .limit(_PICTURES)
    )
    return [sha256 for sha256 in rows if sha256 is not None]


def _read_batch(ws: Workspace, shas: Sequence[str], *, alone: bool) -> None:
    analyse = analyse_one_by_one if alone else images.analyse_stored
    with closing(analyse(ws, shas)) as results:
        found = [one for one in results if not isinstance(one, Failure)]
    transient = kept_faces.is_transient(ws)
    wanted = wanted_of(ws, found) if transient else {}
    with ws.catalog.write() as session:
        require_live(session, ws.contract_id)
        vectors: dict[str, FloatArray] = {}
        for one in found:
            if not _shown(session, one.sha256):
                continue
            rows = images.keep_analysis(
                session, ws.contract_id, one, only=wanted.get(one.sha256) if transient else None
            )
            vectors |= {row.face_id: row.vector for row in rows if row.vector is not None}
        add_faces(session, "ads", ws.contract_id, list(vectors))
    probe_cases(ws, vectors)
    if transient:
        drop_rest(ws, list(vectors))


def _shown(session: Session, sha256: str) -> bool:
    found = select(CaptureImage.sha256).where(CaptureImage.sha256 == sha256).limit(1)
    return session.scalar(found) is not None


def _note_progress(
    ws: Workspace, session: Session, job_id: str, others: Sequence[str], after: str, done: int
) -> None:
    row = session.get(Job, job_id)
    if row is None or row.runner != ws.runner_id:
        return
    row.payload = {**row.payload, "after": after, "read": done}
    row.done = min(done, row.total)
    session.execute(
        update(Job).where(Job.job_id.in_(others), Job.state == "queued").values(done=row.done)
    )


# --- taking away -----------------------------------------------------------------------------


def tidy_faces(ws: Workspace, job: JobRecord) -> None:
    """Take away the faces of ads that are no candidates of open cases, under every contract, and
    leave a proof of how many. What is not done yet is found again when it is broken off."""
    total = {"faces": 0, "vectors": 0}
    while kept_faces.is_transient(ws):
        with ws.catalog.write() as session:
            some = session.scalars(_unwanted().limit(_FACES)).all()
            if not some:
                break
            counts = kept_faces.drop_unwanted(session, some)
            kept_faces.forget_remains(session, counts)
            record_purge(session, _ACTOR, "ad_faces", job.job_id, counts)
            chain.record(
                session, "face.transient_purge", subject=("job", job.job_id), details=dict(counts)
            )
        total = {name: total[name] + counts[name] for name in total}
    with ws.catalog.write() as session:
        queue.finish(session, ws.runner_id, job.job_id)
    if any(total.values()):
        _log.info("%d faces of ads were taken away", total["faces"])
        removals.finish_if_possible(ws)


def _unwanted() -> Select[str]:
    wanted = (
        select(Candidate.face_id)
        .join(Case, Case.case_id == Candidate.case_id)
        .where(Candidate.face_id == GalleryMember.face_id, Case.status == "open")
    )
    return (
        select(GalleryMember.face_id)
        .where(GalleryMember.gallery == "ads", ~wanted.exists())
        .distinct()
    )


def settle_mode(ws: Workspace) -> None:
    """Bring the catalog into the mode that is set; called as the service starts, and by no
    command that somebody runs with other settings.

    To ``transient``: what is no candidate goes, by a job. Back: the stored pictures are read
    again, by a job.
    """
    mode = ws.options.ad_faces
    with ws.catalog.read() as session:
        before = _noted(session)
        left = session.scalar(_unwanted().limit(1)) if mode == "transient" else None
    if before == mode and left is None:
        return
    with ws.catalog.write() as session:
        before = _noted(session)
        kept_faces.set_mode(session, mode)
        if mode == "transient":
            if not _waits(session, "tidy_faces"):
                queue.enqueue(session, "tidy_faces", kept_faces.ADS)
        elif before != mode and not _waits(session, "read_again"):
            queue.enqueue(
                session,
                "read_again",
                kept_faces.ADS,
                total=kept_faces.stored_pictures(session),
            )
        if before != mode:
            chain.record(session, "face.mode", details={"before": before, "after": mode})


def _noted(session: Session) -> str:
    row = session.get(AdFaceMode, 1)
    return "standard" if row is None else row.mode


def _waits(session: Session, kind: str) -> bool:
    job = select(Job.job_id).where(
        Job.kind == kind, Job.subject_id == kept_faces.ADS, Job.state.in_(("queued", "running"))
    )
    return session.scalar(job.limit(1)) is not None
