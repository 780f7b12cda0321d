"""Forgetting: a photo, a case or an ad leaves every search, every file and the catalog.

When one of these functions returns, the vectors are in no search of any process any more. Bytes,
index files and the database's own log are cleared right after, and by ``Workspace.maintain``
where something held them back. What stays is an entry of the purge ledger without content.

A deletion is done even where the disk is full (see ``room``). ``held`` says that a legal hold does
not count: for what was forgotten already, and came back with a restored back-up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from indexer import holds, images, quarantine, queue, removals
from indexer.batches import chunks
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
from indexer.kept_faces import ADS, ask_tidy
from indexer.leads import drop_empty_leads
from indexer.purges import list_purges, record_purge
from indexer.records import PurgeRecord
from indexer.room import deletes
from indexer.withheld.rows import refuse_unsettled
from indexer.workspace import Workspace

__all__ = [
    "forget_ad",
    "forget_ad_in",
    "forget_case",
    "forget_photo",
    "lines_of_ads",
    "list_purges",
]


@deletes
def forget_photo(
    ws: Workspace, case_id: str, photo_id: str, *, actor: str = "system", held: bool = True
) -> PurgeRecord:
    """Forget one photo of a case.

    What it found goes with it: every candidate that was not judged; the photos that are left
    search again. Alerts that were raised stay, as a record. Raises :class:`CaseNotFound`,
    :class:`PhotoNotFound`, :class:`LegalHold`.
    """
    with ws.catalog.write() as session:
        case = session.get(Case, case_id)
        if case is None:
            raise CaseNotFound(case_id)
        photo = session.get(Photo, photo_id)
        if photo is None or photo.case_id != case_id:
            raise PhotoNotFound(photo_id)
        _refuse_hold(held and case.legal_hold, "case")
        sha256 = photo.sha256
        if held:
            refuse_unsettled(session, [sha256])
        session.execute(delete(Photo).where(Photo.photo_id == photo_id))
        counts = {"photos": 1, **images.release(session, [sha256])}
        counts["candidates"] = _forget_unreviewed(session, case_id)
        if case.status == "open" and session.scalar(
            select(Photo.photo_id).where(Photo.case_id == case_id).limit(1)
        ):
            queue.enqueue(session, "probe_case", case_id)
        _forget_responses(session, [case_id, photo_id])
        ask_tidy(session, ws, case_id)
        record = record_purge(session, actor, "photo", photo_id, counts, case_id=case_id)
    removals.finish_if_possible(ws)
    return record


@deletes
def forget_case(
    ws: Workspace, case_id: str, *, actor: str = "system", held: bool = True
) -> PurgeRecord:
    """Forget a case with its photos, candidates, leads, judgements and alerts.

    Raises :class:`CaseNotFound`, :class:`LegalHold`.
    """
    with ws.catalog.read() as session:
        case = session.get(Case, case_id)
        number = case.case_number if case is not None else ""
        lines = _lines_of_case(number)
        if case is not None:
            lines.look(session)
    with ws.catalog.write() as session:
        case = session.get(Case, case_id)
        if case is None:
            raise CaseNotFound(case_id)
        _refuse_hold(held and case.legal_hold, "case")
        if case.case_number != number:  # changed since
            lines = _lines_of_case(case.case_number)
        photos = session.execute(
            select(Photo.photo_id, Photo.sha256).where(Photo.case_id == case_id)
        ).all()
        if held:
            refuse_unsettled(session, [sha256 for _, sha256 in photos])
        candidates = session.scalar(select(func.count()).where(Candidate.case_id == case_id)) or 0
        session.execute(delete(Case).where(Case.case_id == case_id))
        session.execute(delete(Job).where(Job.subject_id == case_id))
        holds.forget_notes(session, "case", case_id)
        # The record of searches stays, without the words that may name the person.
        session.execute(update(Search).where(Search.case_id == case_id).values(purpose_note=None))
        counts = {"photos": len(photos), "candidates": candidates}
        counts |= images.release(session, [sha256 for _, sha256 in photos])
        _forget_responses(session, [case_id, *(photo_id for photo_id, _ in photos)])
        lines.drop(session)
        ask_tidy(session, ws, ADS)
        record = record_purge(session, actor, "case", case_id, counts)
    removals.finish_if_possible(ws)
    return record


@deletes
def forget_ad(
    ws: Workspace, ad_id: str, *, actor: str = "system", held: bool = True
) -> PurgeRecord:
    """Forget an ad with its captures. Bytes that a case or another ad has stay for them, and so
    does what people concluded about its faces: it belongs to their cases.

    Raises :class:`AdNotFound`, :class:`LegalHold`.
    """
    with ws.catalog.read() as session:
        ad = session.get(Ad, ad_id)
        if ad is None:
            raise AdNotFound(ad_id)
        lines = lines_of_ads([(ad.site, ad.external_id)])
        lines.look(session)
    with ws.catalog.write() as session:
        ad = session.get(Ad, ad_id)
        if ad is None:
            raise AdNotFound(ad_id)
        _refuse_hold(held and ad.legal_hold, "ad")
        if held:
            refuse_unsettled(session, pictures_of(session, ad_id))
        record = forget_ad_in(session, ad, actor)
        lines.drop(session)
    removals.finish_if_possible(ws)
    return record


def forget_ad_in(session: Session, ad: Ad, actor: str) -> PurgeRecord:
    """As :func:`forget_ad`, in the caller's transaction, whatever hold there is; the caller drops
    :func:`lines_of_ads` in it, and calls ``removals.finish_if_possible`` after it."""
    ad_id = ad.ad_id
    captures = select(Capture.capture_id).where(Capture.ad_id == ad_id)
    shas = pictures_of(session, ad_id)
    pages = session.scalars(
        select(CapturePage.sha256).where(CapturePage.capture_id.in_(captures)).distinct()
    ).all()
    holds.forget_notes(session, "ad", ad_id)
    session.execute(delete(Ad).where(Ad.ad_id == ad_id))
    session.execute(delete(Job).where(Job.subject_id == ad_id))
    counts = images.release(session, shas)
    counts["pages"] = _release_pages(session, list(pages))
    _forget_responses(session, [ad_id])
    return record_purge(session, actor, "ad", ad_id, counts)


def pictures_of(session: Session, ad_id: str) -> list[str]:
    """The pictures of an ad, by SHA-256."""
    rows = session.scalars(
        select(CaptureImage.sha256)
        .join(Capture, Capture.capture_id == CaptureImage.capture_id)
        .where(Capture.ad_id == ad_id, CaptureImage.sha256.is_not(None))
        .distinct()
    )
    return [sha256 for sha256 in rows if sha256 is not None]


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
    drop_empty_leads(session, [case_id])
    return len(ids)


def _forget_responses(session: Session, subjects: list[str]) -> None:
    for some in chunks(subjects):
        session.execute(delete(IdempotentResponse).where(IdempotentResponse.subject_id.in_(some)))


# --- lines that could not be taken, which name what is forgotten -----------------------------

_TEXT_FIELD = rb'"%s"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+)'


def lines_of_ads(ads: Collection[tuple[str, str]]) -> quarantine.Naming:
    """Lines that name one of these ads, each its site and its id there, go with it: they hold its
    text as it was sent."""
    wanted = set(ads)

    def names_it(content: bytes) -> bool:
        ids = _named(content, b"external_id") & {external_id for _, external_id in wanted}
        sites = _named(content, b"site") if ids else set()
        return any((site, external_id) in wanted for external_id in ids for site in sites)

    return quarantine.Naming(names_it)


def _lines_of_case(case_number: str) -> quarantine.Naming:
    """Lines whose field ``case_number`` has this value."""
    return quarantine.Naming(lambda content: case_number in _named(content, b"case_number"))


def _named(content: bytes, name: bytes) -> set[str]:
    """The values that a line gives to a field, even where the line as a whole is no JSON."""
    found = set()
    for text in re.findall(_TEXT_FIELD % name, content):
        try:
            found.add(str(json.loads(text)).strip())
        except ValueError:
            continue
    return found


def _refuse_hold(held: bool, what: str) -> None:
    if held:
        raise LegalHold(
            f"This {what} is evidence under legal hold; it may not be deleted.",
            remedy="Have the hold lifted by whoever set it.",
        )
