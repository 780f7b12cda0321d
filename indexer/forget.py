"""Forgetting: a photo, a case or an ad leaves every search, every file and the catalog.

When one of these functions returns, the vectors are in no search of any process any more. Bytes,
index files and the database's own log are cleared right after, and by ``Workspace.maintain``
where something held them back. What stays is an entry of the purge ledger without content.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from indexer import images, removals
from indexer.catalog.tables import (
    Ad,
    Candidate,
    Capture,
    CaptureImage,
    CapturePage,
    Case,
    IdempotentResponse,
    Image,
    Job,
    Photo,
    Search,
)
from indexer.errors import AdNotFound, CaseNotFound, LegalHold, PhotoNotFound
from indexer.purges import list_purges, record_purge
from indexer.records import PurgeRecord
from indexer.workspace import Workspace

__all__ = ["forget_ad", "forget_case", "forget_photo", "list_purges"]


def forget_photo(
    ws: Workspace, case_id: str, photo_id: str, *, actor: str = "system"
) -> PurgeRecord:
    """Forget one photo of a case.

    Raises :class:`CaseNotFound`, :class:`PhotoNotFound`, :class:`LegalHold`.
    """
    with ws.catalog.write() as session:
        case = session.get(Case, case_id)
        if case is None:
            raise CaseNotFound(case_id)
        photo = session.get(Photo, photo_id)
        if photo is None or photo.case_id != case_id:
            raise PhotoNotFound(photo_id)
        _refuse_hold(case.legal_hold, "case")
        sha256 = photo.sha256
        session.execute(delete(Photo).where(Photo.photo_id == photo_id))
        counts = {"photos": 1, **images.release(session, [sha256])}
        left = session.scalar(select(func.count()).where(Photo.case_id == case_id))
        if not left:
            counts["candidates"] = _forget_unreviewed(session, case_id)
        _forget_responses(session, [case_id, photo_id])
        record = record_purge(session, actor, "photo", photo_id, counts)
    removals.finish_if_possible(ws)
    return record


def forget_case(ws: Workspace, case_id: str, *, actor: str = "system") -> PurgeRecord:
    """Forget a case with its photos, candidates and leads.

    Raises :class:`CaseNotFound`, :class:`LegalHold`.
    """
    with ws.catalog.write() as session:
        case = session.get(Case, case_id)
        if case is None:
            raise CaseNotFound(case_id)
        _refuse_hold(case.legal_hold, "case")
        photos = session.execute(
            select(Photo.photo_id, Photo.sha256).where(Photo.case_id == case_id)
        ).all()
        candidates = session.scalar(select(func.count()).where(Candidate.case_id == case_id)) or 0
        session.execute(delete(Case).where(Case.case_id == case_id))
        session.execute(delete(Job).where(Job.subject_id == case_id))
        # The record of searches stays, without the words that may name the person.
        session.execute(update(Search).where(Search.case_id == case_id).values(purpose_note=None))
        counts = {"photos": len(photos), "candidates": candidates}
        counts |= images.release(session, [sha256 for _, sha256 in photos])
        _forget_responses(session, [case_id, *(photo_id for photo_id, _ in photos)])
        record = record_purge(session, actor, "case", case_id, counts)
    removals.finish_if_possible(ws)
    return record


def forget_ad(ws: Workspace, ad_id: str, *, actor: str = "system") -> PurgeRecord:
    """Forget an ad with its captures. Bytes that a case or another ad has stay for them.

    Raises :class:`AdNotFound`, :class:`LegalHold`.
    """
    with ws.catalog.write() as session:
        ad = session.get(Ad, ad_id)
        if ad is None:
            raise AdNotFound(ad_id)
        _refuse_hold(ad.legal_hold, "ad")
        captures = select(Capture.capture_id).where(Capture.ad_id == ad_id)
        shas = session.scalars(
            select(CaptureImage.sha256)
            .where(CaptureImage.capture_id.in_(captures), CaptureImage.sha256.is_not(None))
            .distinct()
        ).all()
        pages = session.scalars(
            select(CapturePage.sha256).where(CapturePage.capture_id.in_(captures)).distinct()
        ).all()
        session.execute(delete(Ad).where(Ad.ad_id == ad_id))
        session.execute(delete(Job).where(Job.subject_id == ad_id))
        counts = images.release(session, [sha256 for sha256 in shas if sha256 is not None])
        counts["pages"] = _release_pages(session, list(pages))
        _forget_responses(session, [ad_id])
        record = record_purge(session, actor, "ad", ad_id, counts)
    removals.finish_if_possible(ws)
    return record


def _release_pages(session: Session, shas: list[str]) -> int:
    gone = []
    for sha256 in shas:
        kept = session.scalar(
            select(CapturePage.sha256).where(CapturePage.sha256 == sha256).limit(1)
        )
        if not kept and session.get(Image, sha256) is None:
            gone.append(sha256)
    removals.request(session, gone)
    return len(gone)


def _forget_unreviewed(session: Session, case_id: str) -> int:
    ids = session.scalars(
        select(Candidate.candidate_id).where(
            Candidate.case_id == case_id, Candidate.status == "unreviewed"
        )
    ).all()
    session.execute(
        delete(Candidate).where(Candidate.case_id == case_id, Candidate.status == "unreviewed")
    )
    images.drop_empty_leads(session)
    return len(ids)


def _forget_responses(session: Session, subjects: list[str]) -> None:
    session.execute(delete(IdempotentResponse).where(IdempotentResponse.subject_id.in_(subjects)))


def _refuse_hold(held: bool, what: str) -> None:
    if held:
        raise LegalHold(
            f"This {what} is evidence under legal hold; it may not be deleted.",
            remedy="Have the hold lifted by whoever set it.",
        )
