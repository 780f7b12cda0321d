"""Bringing everything that is stored under the present embedding contract.

A new version of Homeward, or another pack, has another contract, and vectors of two contracts are
never compared: until the stored images are read again, the galleries of the new contract are
empty. The work is done by ordinary jobs, so it can be stopped, resumed and shared; what the old
contract has stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from indexer import jobs, queue
from indexer.catalog.tables import (
    Capture,
    CaptureImage,
    Case,
    Face,
    GalleryMember,
    ImageAnalysis,
    Job,
    Photo,
)
from indexer.errors import JobNotFound
from indexer.hashes import fill_hashes
from indexer.records import Failure, Progress
from indexer.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Outdated:
    """What is stored and cannot be searched under the present contract."""

    ad_images: int
    photos: int

    def __bool__(self) -> bool:
        return bool(self.ad_images or self.photos)


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """``jobs`` were done; ``failures`` are the items that could not be read again."""

    jobs: int
    failures: tuple[Failure, ...]


def outdated(ws: Workspace) -> Outdated:
    """How many images of ads and photos of open cases wait for :func:`reindex`.

    Those that a queued or running job will read anyway do not count.
    """
    with ws.catalog.read() as session:
        captures = _captures_to_read(session, ws.contract_id)
        images: set[str] = set()
        for shas in captures.values():
            images |= shas
        photos = sum(len(found) for found in _photos_to_enrol(session, ws.contract_id).values())
    return Outdated(len(images), photos)


def reindex(ws: Workspace, progress: Callable[[Progress], None] | None = None) -> ReindexReport:
    """Analyse what is stored and not yet analysed under the present contract, and search it.

    Faces of ads go into the gallery of ads; each photo of an open case is enrolled again with the
    face that lies where the enrolled one lay. Everything is compared both ways as if it were new,
    and joins the leads that are there. Images of ads without a perceptual hash get one. Can be
    stopped anywhere and run again.
    """
    fill_hashes(ws)
    queued: list[str] = []
    with ws.catalog.write() as session:
        for capture_id, shas in _captures_to_read(session, ws.contract_id).items():
            capture = session.get_one(Capture, capture_id)
            capture.job_id = queue.enqueue(
                session, "ingest_ad", capture.ad_id, total=len(shas), capture_id=capture_id
            )
            queued.append(capture.job_id)
        for case_id, photos in _photos_to_enrol(session, ws.contract_id).items():
            queued.append(queue.enqueue(session, "enrol_case", case_id, total=len(photos)))
    waiting = jobs.waiting(ws)

    def step(at: Progress) -> None:
        if progress is not None:
            progress(Progress(stage="reindex", done=at.done, total=max(waiting, at.done)))

    jobs.run_pending(ws, progress=step, patient=True)
    failures: list[Failure] = []
    for job_id in queued:
        with suppress(JobNotFound):  # the ad or case was forgotten meanwhile
            failures += jobs.get_job(ws, job_id).failures
    if outdated(ws).ad_images:
        failures.append(
            Failure(
                item=ws.contract_id,
                code="contract_mismatch",
                detail="Images of ads are left that another process took under another contract. "
                "Stop what runs with another pack or version, and reindex again.",
            )
        )
    return ReindexReport(len(queued), tuple(failures))


def _captures_to_read(session: Session, contract_id: str) -> dict[str, set[str]]:
    """Captures with images that the gallery of ads lacks under the contract, and those images:
    never analysed, or analysed (as a photo of a case, say) with a face that is not in it."""
    outside = (
        select(Face.face_id)
        .outerjoin(
            GalleryMember,
            (GalleryMember.face_id == Face.face_id)
            & (GalleryMember.gallery == "ads")
            & (GalleryMember.contract_id == contract_id),
        )
        .where(
            Face.sha256 == CaptureImage.sha256,
            Face.contract_id == contract_id,
            GalleryMember.face_id.is_(None),
        )
        .exists()
    )
    rows = session.execute(
        select(CaptureImage.capture_id, CaptureImage.sha256)
        .join(Capture, Capture.capture_id == CaptureImage.capture_id)
        .outerjoin(
            ImageAnalysis,
            (ImageAnalysis.sha256 == CaptureImage.sha256)
            & (ImageAnalysis.contract_id == contract_id),
        )
        .outerjoin(Job, (Job.job_id == Capture.job_id) & Job.state.in_(("queued", "running")))
        .where(
            CaptureImage.sha256.is_not(None),
            or_(ImageAnalysis.sha256.is_(None), outside),
            Job.job_id.is_(None),
        )
        .order_by(CaptureImage.capture_id)
    )
    found: dict[str, set[str]] = {}
    for capture_id, sha256 in rows:
        if sha256 is not None:
            found.setdefault(capture_id, set()).add(sha256)
    return found


def _photos_to_enrol(session: Session, contract_id: str) -> dict[str, list[str]]:
    """Photos of open cases that are not in the gallery under the contract, by case."""
    busy = select(Job.subject_id).where(
        Job.kind == "enrol_case", Job.state.in_(("queued", "running"))
    )
    rows = session.execute(
        select(Photo.case_id, Photo.photo_id)
        .join(Case, Case.case_id == Photo.case_id)
        .outerjoin(
            GalleryMember,
            (GalleryMember.face_id == Photo.face_id)
            & (GalleryMember.gallery == "cases")
            & (GalleryMember.contract_id == contract_id),
        )
        .where(Case.status == "open", GalleryMember.face_id.is_(None), Photo.case_id.not_in(busy))
        .order_by(Photo.photo_id)
    )
    found: dict[str, list[str]] = {}
    for case_id, photo_id in rows:
        found.setdefault(case_id, []).append(photo_id)
    return found
