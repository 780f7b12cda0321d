"""Leads: the candidates of one case that share an ad or the very same image, gathered for display.

A candidate joins the oldest lead that already holds its image or one of its image's ads; else it
starts a lead. Leads are never merged afterwards, so a lead keeps its id and its history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import Ad, Candidate, Capture, CaptureImage, Face
from indexer.ids import new_id
from indexer.records import LeadRecord


@dataclass(frozen=True, slots=True)
class FaceSource:
    """Where a face was seen: its image and the ads that show that image."""

    sha256: str
    ad_ids: tuple[str, ...]


def sources(session: Session, face_ids: Iterable[str]) -> dict[str, FaceSource]:
    """The image and ads of faces; a face that no ad shows (any more) is left out."""
    shas: dict[str, str] = {}
    ads: dict[str, set[str]] = {}
    for some in chunks(face_ids):
        rows = session.execute(
            select(Face.face_id, Face.sha256, Capture.ad_id)
            .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .where(Face.face_id.in_(some))
            .distinct()
        )
        for face_id, sha256, ad_id in rows:
            shas[face_id] = sha256
            ads.setdefault(face_id, set()).add(ad_id)
    return {face_id: FaceSource(shas[face_id], tuple(sorted(ads[face_id]))) for face_id in shas}


@dataclass(slots=True)
class LeadBook:
    """Which lead of one case holds which candidate, image and ad."""

    candidates: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    ads: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, session: Session, case_id: str, seen: Mapping[str, FaceSource]) -> LeadBook:
        """What the catalog has for a case about the faces, images and ads of ``seen``."""
        book = cls()
        for face_ids in chunks(seen):
            rows = session.execute(
                select(Candidate.face_id, Candidate.lead_id).where(
                    Candidate.case_id == case_id, Candidate.face_id.in_(face_ids)
                )
            )
            book.candidates.update((face_id, lead_id) for face_id, lead_id in rows)
        if len(book.candidates) == len(seen):
            return book
        images = {source.sha256 for source in seen.values()}
        ads = {ad_id for source in seen.values() for ad_id in source.ad_ids}
        held = (
            select(Candidate.lead_id, Face.sha256, Capture.ad_id)
            .join(Face, Face.face_id == Candidate.face_id)
            .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .where(Candidate.case_id == case_id)
        )
        for some in chunks(ads):
            # An image of ``seen`` is in one of these ads, so this finds its leads as well.
            for lead_id, sha256, ad_id in session.execute(held.where(Capture.ad_id.in_(some))):
                if sha256 in images:
                    _claim(book.images, sha256, lead_id)
                _claim(book.ads, ad_id, lead_id)
        return book

    def assign(self, face_id: str, source: FaceSource) -> str:
        """The lead of a face; the book remembers it."""
        known = self.candidates.get(face_id)
        if known is not None:
            self._note(source, known)
            return known
        fitting = {self.images.get(source.sha256), *(self.ads.get(ad) for ad in source.ad_ids)}
        lead_id = min((lead for lead in fitting if lead is not None), default=None) or new_id()
        self.candidates[face_id] = lead_id
        self._note(source, lead_id)
        return lead_id

    def _note(self, source: FaceSource, lead_id: str) -> None:
        _claim(self.images, source.sha256, lead_id)
        for ad_id in source.ad_ids:
            _claim(self.ads, ad_id, lead_id)


def _claim(table: dict[str, str], key: str, lead_id: str) -> None:
    # Ids sort by age: the older lead keeps what two of them claim.
    table[key] = min(table.get(key, lead_id), lead_id)


def lead_records(session: Session, lead_ids: Collection[str]) -> dict[str, LeadRecord]:
    """Size and time span of leads. Times that are not known count for nothing."""
    records: dict[str, LeadRecord] = {}
    for some in chunks(dict.fromkeys(lead_ids)):
        rows = session.execute(
            select(
                Candidate.lead_id,
                func.count(Capture.ad_id.distinct()),
                func.count(Face.sha256.distinct()),
                func.min(Ad.posted_at),
                func.max(Ad.posted_at),
                func.min(Capture.captured_at),
                func.max(Capture.last_captured_at),
            )
            .join(Face, Face.face_id == Candidate.face_id)
            .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .join(Ad, Ad.ad_id == Capture.ad_id)
            .where(Candidate.lead_id.in_(some))
            .group_by(Candidate.lead_id)
        )
        for lead_id, ads, images, first_posted, last_posted, first_captured, last_captured in rows:
            records[lead_id] = LeadRecord(
                lead_id=lead_id,
                ads=ads,
                images=images,
                first_seen=_extreme(min, first_posted, first_captured),
                last_seen=_extreme(max, last_posted, last_captured),
            )
    return records


def _extreme(
    choose: Callable[[list[datetime]], datetime], *moments: datetime | None
) -> datetime | None:
    known = [moment for moment in moments if moment is not None]
    return choose(known) if known else None
