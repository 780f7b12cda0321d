"""Figures of a generation as a whole: what could be read under it, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from indexer.catalog.tables import (
    CaptureImage,
    Case,
    Enrolment,
    Face,
    GalleryMember,
    ImageAnalysis,
    Job,
    Photo,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What is in a generation, and what is not; see :class:`comparison.Side`."""

    faces: int
    ad_images: int
    without_face: int
    failed: int
    unread: int
    photos: int
    not_enrolled: int
    photos_unread: int
    reasons: dict[str, int]
    cases_without_photo: int


def enrolled_figures(session: Session, contract_id: str) -> Enrolled:
    """Counts over all pictures of ads and all photos of open cases."""
    shown = select(CaptureImage.sha256).where(CaptureImage.sha256 == ImageAnalysis.sha256).exists()
    of_ads = (ImageAnalysis.contract_id == contract_id, shown)
    states = {"done": 0, "failed": 0}
    rows = session.execute(
        select(ImageAnalysis.state, func.count()).where(*of_ads).group_by(ImageAnalysis.state)
    )
    for state, count in rows:
        states[state] = count
    any_face = (
        select(Face.face_id)
        .where(Face.sha256 == ImageAnalysis.sha256, Face.contract_id == contract_id)
        .exists()
    )
    empty = _count(
        session,
        select(func.count())
        .select_from(ImageAnalysis)
        .where(*of_ads, ImageAnalysis.state == "done", ~any_face),
    )
    members = (GalleryMember.gallery == "ads", GalleryMember.contract_id == contract_id)
    with_face = _count(
        session,
        select(func.count(Face.sha256.distinct()))
        .join(GalleryMember, GalleryMember.face_id == Face.face_id)
        .where(*members),
    )
    total = _count(session, select(func.count(CaptureImage.sha256.distinct())))
    # An analysis as the photo of a case has a face, and is not one of the ad's until it is read.
    elsewhere = max(0, states["done"] - empty - with_face)
    photos, enrolled, vain, reasons = _photos(session, contract_id)
    return Enrolled(
        faces=_count(
            session,
            select(func.count()).select_from(GalleryMember).where(*members),
        ),
        ad_images=total,
        without_face=empty,
        failed=states["failed"],
        unread=total - sum(states.values()) + elsewhere,
        photos=photos,
        not_enrolled=vain,
        photos_unread=photos - enrolled - vain,
        reasons=reasons,
        cases_without_photo=_cases_without(session, contract_id),
    )


def _photos(session: Session, contract_id: str) -> tuple[int, int, int, dict[str, int]]:
    """Photos of open cases: all, enrolled, read in vain, and those by code."""
    of_open = select(Photo.photo_id).join(Case, Case.case_id == Photo.case_id)
    of_open = of_open.where(Case.status == "open")
    total = _count(session, select(func.count()).select_from(of_open.subquery()))
    inside = of_open.join(Enrolment, Enrolment.photo_id == Photo.photo_id).where(
        Enrolment.contract_id == contract_id, _in_gallery(contract_id)
    )
    enrolled = _count(session, select(func.count()).select_from(inside.subquery()))
    reasons = read_in_vain(session, contract_id)
    return total, enrolled, sum(reasons.values()), reasons


def read_in_vain(session: Session, contract_id: str) -> dict[str, int]:
    """Photos of open cases whose face was not found (again), by code: nobody is searched for by
    them."""
    rows = session.execute(
        select(Enrolment.code, func.count())
        .join(Photo, Photo.photo_id == Enrolment.photo_id)
        .join(Case, Case.case_id == Photo.case_id)
        .where(
            Case.status == "open",
            Enrolment.contract_id == contract_id,
            Enrolment.face_id.is_(None),
        )
        .group_by(Enrolment.code)
        .order_by(Enrolment.code)
    )
    return {code or "analysis_failed": count for code, count in rows}


def _cases_without(session: Session, contract_id: str) -> int:
    inside = (
        select(Photo.photo_id)
        .join(Enrolment, Enrolment.photo_id == Photo.photo_id)
        .where(
            Photo.case_id == Case.case_id,
            Enrolment.contract_id == contract_id,
            _in_gallery(contract_id),
        )
        .exists()
    )
    photo = exists().where(Photo.case_id == Case.case_id)
    return _count(
        session,
        select(func.count()).select_from(Case).where(Case.status == "open", photo, ~inside),
    )


def _in_gallery(contract_id: str) -> Any:
    return exists().where(
        GalleryMember.face_id == Enrolment.face_id,
        GalleryMember.gallery == "cases",
        GalleryMember.contract_id == contract_id,
    )


def _count(session: Session, query: Select[Any]) -> int:
    return int(session.scalar(query) or 0)


def build_rate(session: Session, contract_id: str) -> float | None:
    """Images a second that jobs read for a generation, all processes together, over the time in
    which at least one of them ran; ``None`` where no such job is known."""
    rows = session.execute(
        select(Job.started_at, Job.finished_at, Job.done)
        .where(
            Job.contract_id == contract_id,
            Job.kind == "embed_images",
            or_(Job.state == "done", and_(Job.state == "failed", Job.done > 0)),
            Job.started_at.is_not(None),
            Job.finished_at.is_not(None),
        )
        .order_by(Job.started_at)
        .execution_options(yield_per=1_000)
    )
    images, seconds = 0, 0.0
    until: datetime | None = None
    for started, finished, done in rows:
        if started is None or finished is None:
            continue
        images += done
        since = started if until is None else max(started, until)
        seconds += max(0.0, (finished - since).total_seconds())
        until = finished if until is None else max(until, finished)
    return images / seconds if images and seconds else None
