"""What the job of an ad has before it: its images, which of them are to be read, their faces."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import CaptureImage, Face, GalleryMember, ImageAnalysis, Job
from indexer.queue import PASSING
from indexer.records import Failure
from indexer.withheld.rows import bytes_deleted
from models.types import FloatArray


def capture_images(session: Session, job_id: str) -> list[str]:
    job = session.get(Job, job_id)
    if job is None:
        return []  # the ad was forgotten meanwhile
    capture_id = job.payload["capture_id"]
    return list(
        dict.fromkeys(
            sha256
            for sha256 in session.scalars(
                select(CaptureImage.sha256)
                .where(CaptureImage.capture_id == capture_id)
                .order_by(CaptureImage.position)
            )
            if sha256 is not None
        )
    )


def images_of_job(session: Session, job_id: str) -> list[str]:
    """The images that a job of kind ``embed_images`` is to read: of its capture, or all that ads
    show from one SHA-256 to another."""
    job = session.get(Job, job_id)
    if job is None or "capture_id" in job.payload:
        return capture_images(session, job_id)
    between = CaptureImage.sha256.between(job.payload["first"], job.payload["last"])
    rows = session.scalars(
        select(CaptureImage.sha256).where(between).distinct().order_by(CaptureImage.sha256)
    )
    return [sha256 for sha256 in rows if sha256 is not None]


def without_vectors(
    session: Session, contract_id: str, shas: Sequence[str], lost: Collection[str] = ()
) -> list[str]:
    """Images that are still to be analysed for the gallery of ads under the contract. ``lost``:
    those that are analysed again though they were, for their faces may be gone.

    A failure for a reason that may have passed is tried again. What was analysed as the photo of a
    case is analysed once more: the time that it takes must not tell that a case has it.
    """
    whole: set[str] = set()
    for some in chunks(shas):
        analysed = set(
            session.scalars(
                select(ImageAnalysis.sha256).where(
                    ImageAnalysis.sha256.in_(some),
                    ImageAnalysis.contract_id == contract_id,
                    or_(ImageAnalysis.state == "done", ImageAnalysis.code.not_in(PASSING)),
                )
            )
        )
        outside = session.scalars(
            select(Face.sha256)
            .outerjoin(
                GalleryMember,
                (GalleryMember.face_id == Face.face_id)
                & (GalleryMember.gallery == "ads")
                & (GalleryMember.contract_id == contract_id),
            )
            .where(
                Face.sha256.in_(some),
                Face.contract_id == contract_id,
                or_(Face.vector.is_(None), GalleryMember.face_id.is_(None)),
            )
        )
        whole |= analysed - set(outside)
    if lost:
        whole -= set(lost) - set(failures_of(session, contract_id, list(lost)))
    whole |= bytes_deleted(session, shas)
    return [sha256 for sha256 in shas if sha256 not in whole]


def still_shown(session: Session, shas: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for some in chunks(shas):
        rows = session.scalars(select(CaptureImage.sha256).where(CaptureImage.sha256.in_(some)))
        found.update(sha256 for sha256 in rows if sha256 is not None)
    return [sha256 for sha256 in shas if sha256 in found]


def vectors_of(session: Session, contract_id: str, shas: Sequence[str]) -> dict[str, FloatArray]:
    found: dict[str, FloatArray] = {}
    for some in chunks(shas):
        rows = session.execute(
            select(Face.face_id, Face.vector)
            .where(Face.sha256.in_(some), Face.contract_id == contract_id, Face.vector.is_not(None))
            .order_by(Face.face_id)
        )
        found.update((face_id, vector) for face_id, vector in rows if vector is not None)
    return found


def failures_of(session: Session, contract_id: str, shas: Sequence[str]) -> dict[str, Failure]:
    found: dict[str, Failure] = {}
    for some in chunks(shas):
        rows = session.scalars(
            select(ImageAnalysis).where(
                ImageAnalysis.sha256.in_(some),
                ImageAnalysis.contract_id == contract_id,
                ImageAnalysis.state == "failed",
            )
        )
        for row in rows:
            found[row.sha256] = Failure(
                item=row.sha256, code=row.code or "analysis_failed", detail=row.detail or ""
            )
    return found
