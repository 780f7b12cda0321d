"""Which faces of ads are kept: all of them (``standard``), or only those that are candidates of
open cases (``transient``).

In the second mode a face that is near to no open case is never written: its vector lives in memory
while its picture is compared. A new case therefore has the stored pictures read again.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from indexer import queue, removals
from indexer.ad_faces import images_of_job
from indexer.batches import chunks
from indexer.catalog.picture_tables import AdFaceMode
from indexer.catalog.tables import (
    Candidate,
    Capture,
    CaptureImage,
    Case,
    Enrolment,
    Face,
    FaceCluster,
    GalleryMember,
    ImageAnalysis,
    Job,
    Photo,
)
from indexer.galleries import drop_idle_vectors, remove_faces
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

ADS: Final = "ads"
"""The subject of jobs that concern the faces of all ads, not one case."""
BEGUN: Final = frozenset({"with", "by"})
"""What the payload of a job has whose reading began: those that are done with it, or the job that
it is done with."""
_MODE: Final = 1
_LOOK_S: Final = 10.0
_LEFT_EVERY_S: Final = 600.0
_PAUSE_S: Final = 30.0
"""Seconds until faces that somebody was just comparing are looked at again."""


def is_transient(ws: Workspace) -> bool:
    """Whether only faces of candidates are kept: asked of the catalog each time, so that no
    process with another setting keeps what the others do not."""
    with ws.catalog.read() as session:
        return mode_of(session, ws) == "transient"


def mode_of(session: Session, ws: Workspace) -> str:
    """The mode that the catalog is in; what is set where it was never in another one."""
    row = session.get(AdFaceMode, _MODE)
    return ws.options.ad_faces if row is None else row.mode


def set_mode(session: Session, mode: str) -> None:
    """Note the mode, in the caller's transaction."""
    session.merge(AdFaceMode(mode_id=_MODE, mode=mode))
    session.flush()


def compared_size(ws: Workspace) -> int:
    """How many faces of ads a case was compared with: the number that strangers to expect are
    reckoned by. Where faces are not kept, those that were found in the pictures, known to some
    seconds."""
    held = ws.ads.count()
    if not is_transient(ws):
        return held
    now = time.monotonic()
    known = ws.compared_faces.get(ws.contract_id)
    if known is None or now - known[1] > _LOOK_S:
        shown = select(CaptureImage.sha256).where(CaptureImage.sha256 == ImageAnalysis.sha256)
        with ws.catalog.read() as session:
            found = session.scalar(
                select(func.sum(ImageAnalysis.faces)).where(
                    ImageAnalysis.contract_id == ws.contract_id, shown.exists()
                )
            )
        known = ws.compared_faces[ws.contract_id] = int(found or 0), now
    return max(held, known[0])


def ask(session: Session, ws: Workspace, case_id: str) -> str | None:
    """Where faces are not kept, have the stored pictures read again for a case, in the caller's
    transaction; returns the id of the job."""
    if mode_of(session, ws) != "transient":
        return None
    return ask_reading(session, case_id)


def ask_reading(session: Session, subject_id: str) -> str:
    """Have the stored pictures read again from the first to the last; returns the id of the job.

    One that waits is used only where nothing was read for it yet, by itself or by the one that it
    waits with: what was read before now was not compared with what is asked for now.
    """
    waiting = session.scalars(
        select(Job)
        .where(Job.kind == "read_again", Job.subject_id == subject_id, Job.state == "queued")
        .order_by(Job.job_id)
    )
    for job in waiting:
        if not BEGUN & job.payload.keys():
            return job.job_id
    return queue.enqueue(session, "read_again", subject_id, total=stored_pictures(session))


def ask_tidy(session: Session, ws: Workspace, subject_id: str) -> None:
    """Where faces are not kept, have those taken away that are no candidate's any more."""
    if mode_of(session, ws) == "transient":
        queue.enqueue(session, "tidy_faces", subject_id)


def tidy_if_left(ws: Workspace) -> None:
    """Now and then: queue a job where faces are left that nobody wants, of a job, say, that was
    given up between writing its faces and comparing them."""
    now = time.monotonic()
    if now - ws.looked_for_unwanted < _LEFT_EVERY_S:
        return
    ws.looked_for_unwanted = now
    if not is_transient(ws):
        return
    with ws.catalog.read() as session:
        left = session.scalar(unwanted().limit(1))
    if left is not None:
        with ws.catalog.write() as session:
            if not tidy_waits(session):
                ask_tidy(session, ws, ADS)


def tidy_waits(session: Session) -> bool:
    """Whether a job is queued that takes away all that nobody wants."""
    job = select(Job.job_id).where(Job.kind == "tidy_faces", Job.state == "queued")
    return session.scalar(job.limit(1)) is not None


def unwanted() -> Select[str]:
    """Faces in the gallery of ads, of any contract, that are no candidate of an open case."""
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


def stored_pictures(session: Session) -> int:
    """Pictures that ads show."""
    return (
        session.scalar(
            select(func.count(CaptureImage.sha256.distinct())).where(
                CaptureImage.sha256.is_not(None)
            )
        )
        or 0
    )


def drop_unwanted(
    session: Session, face_ids: Collection[str], *, own: Collection[str] = ()
) -> dict[str, int]:
    """Take away those of the faces that are no candidate of an open case, in the caller's
    transaction; returns counts. A face that was judged keeps its row without a vector, as the
    record of the judgement; what belongs to a photo of a case is the case's.

    Faces of pictures that another running job is just comparing (any but ``own``) stay, for it may
    be about to make them candidates; a job is queued that comes again for them.
    """
    counts = {"faces": 0, "vectors": 0}
    for some in chunks(face_ids):
        wanted = set(
            session.scalars(
                select(Candidate.face_id)
                .join(Case, Case.case_id == Candidate.case_id)
                .where(Candidate.face_id.in_(some), Case.status == "open")
            )
        )
        leaving = [face_id for face_id in some if face_id not in wanted]
        if held := _held(session, leaving, own):
            leaving = [face_id for face_id in leaving if face_id not in held]
            _come_again(session)
        if not leaving:
            continue
        contracts: dict[str, list[str]] = {}
        for face_id, contract_id in session.execute(
            select(Face.face_id, Face.contract_id).where(Face.face_id.in_(leaving))
        ):
            contracts.setdefault(contract_id, []).append(face_id)
        _count_faces(session, leaving)
        for contract_id, own in contracts.items():
            remove_faces(session, "ads", contract_id, own)
        session.execute(delete(FaceCluster).where(FaceCluster.face_id.in_(leaving)))
        counts["vectors"] += drop_idle_vectors(session, leaving)
        counts["faces"] += len(gone := _rowless(session, leaving))
        session.execute(delete(Face).where(Face.face_id.in_(gone)))
    return counts


def drop_rest(
    session: Session, ws: Workspace, face_ids: Collection[str], own: Collection[str]
) -> None:
    """Of faces that the jobs ``own`` compared, keep those that became candidates, if that is the
    mode now; to be called in the transaction in which these jobs let go of the pictures, so that
    of two jobs that have the same one the later takes its faces away."""
    if mode_of(session, ws) == "transient":
        forget_remains(session, drop_unwanted(session, face_ids, own=own))


def _held(session: Session, face_ids: Collection[str], own: Collection[str]) -> set[str]:
    """Those of the faces whose pictures another running job has in hand.

    One that broke off holds nothing: it analyses its pictures again before it compares them.
    """
    rows = session.execute(select(Face.face_id, Face.sha256).where(Face.face_id.in_(face_ids)))
    pictures = {face_id: sha256 for face_id, sha256 in rows}  # noqa: C416 - rows are no pairs
    running = session.scalars(
        select(Job).where(
            Job.state == "running",
            Job.kind.in_(("ingest_ad", "embed_images", "read_again")),
            Job.job_id.not_in(own),
        )
    ).all()
    shas: set[str] = set()
    for job in running:
        if job.kind == "read_again":
            shas.update(job.payload.get("hand", ()))
        elif job.kind == "embed_images":
            shas.update(images_of_job(session, job.job_id))
    if any(job.kind == "ingest_ad" for job in running):
        shas.update(
            sha256
            for sha256 in session.scalars(
                select(CaptureImage.sha256)
                .join(Capture, Capture.capture_id == CaptureImage.capture_id)
                .join(Job, Job.job_id == Capture.job_id)
                .where(
                    Job.state == "running",
                    Job.kind == "ingest_ad",
                    Job.job_id.not_in(own),
                    CaptureImage.sha256.in_(set(pictures.values())),
                )
            )
            if sha256 is not None
        )
    return {face_id for face_id, sha256 in pictures.items() if sha256 in shas}


def _come_again(session: Session) -> None:
    """Queue a job that takes away what has to stay for now, unless one waits already."""
    if not tidy_waits(session):
        job_id = queue.enqueue(session, "tidy_faces", ADS)
        session.flush()
        session.get_one(Job, job_id).run_after = utc_now() + timedelta(seconds=_PAUSE_S)


def _rowless(session: Session, face_ids: Collection[str]) -> list[str]:
    """Those that nothing speaks of."""
    judged = select(Candidate.face_id).where(
        Candidate.face_id == Face.face_id, Candidate.status != "unreviewed"
    )
    enrolled = select(Enrolment.face_id).where(Enrolment.face_id == Face.face_id)
    photo = select(Photo.sha256).where(Photo.sha256 == Face.sha256)
    return list(
        session.scalars(
            select(Face.face_id).where(
                Face.face_id.in_(face_ids),
                ~or_(judged.exists(), enrolled.exists(), photo.exists()),
            )
        )
    )


def _count_faces(session: Session, face_ids: Collection[str]) -> None:
    """Keep with each picture how many faces were found in it, before they go."""
    shas = set(session.scalars(select(Face.sha256).where(Face.face_id.in_(face_ids))))
    found = (
        select(func.count())
        .where(Face.sha256 == ImageAnalysis.sha256, Face.contract_id == ImageAnalysis.contract_id)
        .scalar_subquery()
    )
    session.execute(
        update(ImageAnalysis)
        .where(ImageAnalysis.sha256.in_(shas), ImageAnalysis.faces.is_(None))
        .values(faces=found)
    )


def forget_remains(session: Session, counts: dict[str, int]) -> None:
    """Have index files, snapshots and slack cleared of what was taken away."""
    if any(counts.values()):
        removals.request(session, [])
