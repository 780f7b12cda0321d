"""Which faces of ads are kept: all of them (``standard``), or only those that are candidates of
open cases (``transient``).

In the second mode a face that is near to no open case is never written: its vector lives in memory
while its picture is compared. A new case therefore has the stored pictures read again.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from indexer import queue, removals
from indexer.batches import chunks
from indexer.catalog.picture_tables import AdFaceMode
from indexer.catalog.tables import (
    Candidate,
    CaptureImage,
    Case,
    Enrolment,
    Face,
    FaceCluster,
    ImageAnalysis,
    Job,
    Photo,
)
from indexer.galleries import drop_idle_vectors, remove_faces

if TYPE_CHECKING:
    from indexer.workspace import Workspace

ADS: Final = "ads"
"""The subject of jobs that concern the faces of all ads, not one case."""
_MODE: Final = 1
_LOOK_S: Final = 10.0


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
    waits = session.scalar(
        select(Job.job_id).where(
            Job.kind == "read_again", Job.subject_id == case_id, Job.state == "queued"
        )
    )
    return waits or queue.enqueue(session, "read_again", case_id, total=stored_pictures(session))


def ask_tidy(session: Session, ws: Workspace, subject_id: str) -> None:
    """Where faces are not kept, have those taken away that are no candidate's any more."""
    if mode_of(session, ws) == "transient":
        queue.enqueue(session, "tidy_faces", subject_id)


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


def drop_unwanted(session: Session, face_ids: Collection[str]) -> dict[str, int]:
    """Take away those of the faces that are no candidate of an open case, in the caller's
    transaction; returns counts. A face that was judged keeps its row without a vector, as the
    record of the judgement; what belongs to a photo of a case is the case's."""
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
