"""What is stored and not yet in a generation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.picture_tables import AdFaceMode, WithheldImage
from indexer.catalog.tables import (
    Capture,
    CaptureImage,
    Case,
    Enrolment,
    Face,
    GalleryMember,
    ImageAnalysis,
    Job,
    Photo,
)
from indexer.queue import PASSING
from indexer.withheld.rows import DELETED

_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Missing:
    """Images of ads, and photos of open cases, that cannot be found under a contract."""

    ad_images: int
    photos: int

    def __bool__(self) -> bool:
        return bool(self.ad_images or self.photos)


def look(session: Session, contract_id: str) -> Missing:
    """How much was not even tried yet, whether that is being done or not."""
    images = session.scalar(select(func.count()).select_from(ad_images(contract_id).subquery()))
    found = session.scalar(select(func.count()).select_from(photos(contract_id).subquery()))
    return Missing(images or 0, found or 0)


def ad_images(contract_id: str, *, again: bool = False) -> Select[str | None]:
    """SHA-256 of images that ads show and the gallery of ads lacks: never analysed, or analysed
    (as a photo of a case, say) with a face that is not in it. Those of ads that wait in the queue
    since they were received are left out: they come by themselves. ``again``: also
    those that failed for a reason that may be over."""
    return (
        select(CaptureImage.sha256)
        .join(Capture, Capture.capture_id == CaptureImage.capture_id)
        .where(
            CaptureImage.sha256.is_not(None),
            _unread(contract_id, again),
            ~_awaited(contract_id),
            ~_bytes_deleted(),
        )
        .distinct()
        .order_by(CaptureImage.sha256)
    )


def _bytes_deleted() -> ColumnElement[bool]:
    """Whether it was withheld, and its bytes went after they were preserved."""
    return exists().where(
        WithheldImage.sha256 == CaptureImage.sha256, WithheldImage.outcome == DELETED
    )


def _unread(contract_id: str, again: bool) -> ColumnElement[bool]:
    read = exists().where(
        ImageAnalysis.sha256 == CaptureImage.sha256,
        ImageAnalysis.contract_id == contract_id,
    )
    # Where the last attempt failed, a face that was read before cannot be had again either.
    done = read.where(ImageAnalysis.state == "done")
    if again:
        read = read.where(or_(ImageAnalysis.state == "done", ImageAnalysis.code.not_in(PASSING)))
    member = exists().where(
        GalleryMember.face_id == Face.face_id,
        GalleryMember.gallery == "ads",
        GalleryMember.contract_id == contract_id,
    )
    outside = exists().where(
        Face.sha256 == CaptureImage.sha256, Face.contract_id == contract_id, ~member
    )
    # Where only candidates are kept, a face that is not in the gallery is no gap.
    transient = exists().where(AdFaceMode.mode == "transient")
    return or_(~read, and_(done, outside, ~transient))


def _awaited(contract_id: str) -> ColumnElement[bool]:
    """Whether the job that reads a capture has not ended: the first, which hands on to all
    generations, or the one for this contract."""
    pending = Job.state.in_(("queued", "running"))
    first = exists().where(Job.job_id == Capture.job_id, pending)
    handed_on = exists().where(
        Job.subject_id == Capture.ad_id,
        Job.kind == "embed_images",
        Job.contract_id == contract_id,
        pending,
    )
    return or_(first, handed_on)


def photos(contract_id: str, *, again: bool = False) -> Select[str, str]:
    """Photos of open cases that are not enrolled: their case and id, by case. ``again``: also
    those that failed for a reason that may be over."""
    failed: ColumnElement[bool] = Enrolment.face_id.is_(None)
    if again:
        failed = and_(failed, Enrolment.code.not_in(PASSING))
    member = exists().where(
        GalleryMember.face_id == Enrolment.face_id,
        GalleryMember.gallery == "cases",
        GalleryMember.contract_id == contract_id,
    )
    settled = exists().where(
        Enrolment.photo_id == Photo.photo_id,
        Enrolment.contract_id == contract_id,
        or_(and_(Enrolment.face_id.is_not(None), member), failed),
    )
    return (
        select(Photo.case_id, Photo.photo_id)
        .join(Case, Case.case_id == Photo.case_id)
        .where(Case.status == "open", ~settled)
        .order_by(Photo.case_id, Photo.photo_id)
    )


def ranges(session: Session, contract_id: str, size: int) -> Iterator[tuple[str, str, int]]:
    """Missing images of ads, ``size`` at a time: the first and the last SHA-256, and how many."""
    # In one pass: a database that sorts would do so again for each range.
    found = session.scalars(ad_images(contract_id).execution_options(yield_per=_AT_ONCE))
    for some in chunks(found, size):
        yield str(some[0]), str(some[-1]), len(some)
