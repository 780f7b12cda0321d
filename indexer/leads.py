"""Leads: the candidates of one case that belong together, gathered for display.

A candidate joins the oldest lead that already holds its image, a near-duplicate of it, one of its
image's ads, or whose best face is of its cluster; else it starts a lead. Leads are never merged
afterwards, so a lead keeps its id and its history. Only the best face gathers by its cluster: the
others may be of people who happen to be in the same picture, and their sightings are not hers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import (
    Ad,
    Candidate,
    Capture,
    CaptureImage,
    Case,
    Face,
    FaceCluster,
    ImageHash,
    Lead,
)
from indexer.hashes import MIN_QUALITY, NearHashes
from indexer.ids import new_id
from indexer.records import LeadRecord


@dataclass(frozen=True, slots=True)
class FaceSource:
    """Where a face was seen: its image and the ads that show that image.

    ``pdq`` is the image's perceptual hash where it is good enough to compare; ``cluster_id`` the
    unknown person that the face is thought to show, if it was seen elsewhere.
    """

    sha256: str
    ad_ids: tuple[str, ...]
    pdq: bytes | None = None
    cluster_id: str | None = None


def sources(session: Session, face_ids: Iterable[str]) -> dict[str, FaceSource]:
    """Where faces were seen; a face that no ad shows (any more) is left out."""
    found: dict[str, FaceSource] = {}
    for some in chunks(face_ids):
        ads: dict[str, set[str]] = {}
        shown = session.execute(
            select(Face.face_id, Capture.ad_id)
            .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .where(Face.face_id.in_(some))
            .distinct()
        )
        for face_id, ad_id in shown:
            ads.setdefault(face_id, set()).add(ad_id)
        rows = session.execute(
            select(Face.face_id, Face.sha256, ImageHash.pdq, FaceCluster.cluster_id)
            .outerjoin(
                ImageHash,
                (ImageHash.sha256 == Face.sha256) & (ImageHash.quality >= MIN_QUALITY),
            )
            .outerjoin(FaceCluster, FaceCluster.face_id == Face.face_id)
            .where(Face.face_id.in_(list(ads)))
        )
        for face_id, sha256, pdq, cluster_id in rows:
            found[face_id] = FaceSource(sha256, tuple(sorted(ads[face_id])), pdq, cluster_id)
    return found


@dataclass(slots=True)
class LeadBook:
    """Which lead of one case holds which candidate, image, ad and kind of picture, and of which
    cluster its best face is."""

    candidates: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    ads: dict[str, str] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)
    pictures: NearHashes = field(default_factory=NearHashes)

    @classmethod
    def load(cls, session: Session, case_id: str, seen: Mapping[str, FaceSource]) -> LeadBook:
        """What the catalog has for a case about the faces, images, ads and clusters of ``seen``."""
        book = cls()
        for face_ids in chunks(seen):
            rows = session.execute(
                select(Candidate.face_id, Candidate.lead_id).where(
                    Candidate.case_id == case_id, Candidate.face_id.in_(face_ids)
                )
            )
            book.candidates.update((face_id, lead_id) for face_id, lead_id in rows)
        fresh = [source for face_id, source in seen.items() if face_id not in book.candidates]
        if fresh:
            book._load_places(session, case_id, fresh)
            book._load_clusters(session, case_id, fresh)
            if any(source.pdq is not None for source in fresh):
                book._load_pictures(session, case_id)
        return book

    def _load_places(self, session: Session, case_id: str, fresh: list[FaceSource]) -> None:
        images = {source.sha256 for source in fresh}
        held = (
            select(Candidate.lead_id, Face.sha256, Capture.ad_id)
            .join(Face, Face.face_id == Candidate.face_id)
            .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .where(Candidate.case_id == case_id)
            .distinct()
        )
        for some in chunks({ad_id for source in fresh for ad_id in source.ad_ids}):
            # An image of ``fresh`` is in one of these ads, so this finds its leads as well.
            for lead_id, sha256, ad_id in session.execute(held.where(Capture.ad_id.in_(some))):
                if sha256 in images:
                    _claim(self.images, sha256, lead_id)
                _claim(self.ads, ad_id, lead_id)

    def _load_clusters(self, session: Session, case_id: str, fresh: list[FaceSource]) -> None:
        best = (
            select(
                Candidate.lead_id,
                Candidate.contract_id,
                func.max(Candidate.score).label("score"),
            )
            .where(Candidate.case_id == case_id)
            .group_by(Candidate.lead_id, Candidate.contract_id)
            .subquery()
        )
        heads = (
            select(Candidate.lead_id, FaceCluster.cluster_id)
            .join(FaceCluster, FaceCluster.face_id == Candidate.face_id)
            .join(
                best,
                (best.c.lead_id == Candidate.lead_id)
                & (best.c.contract_id == Candidate.contract_id)
                & (best.c.score == Candidate.score),
            )
            .where(Candidate.case_id == case_id)
        )
        wanted = {source.cluster_id for source in fresh if source.cluster_id is not None}
        for some in chunks(wanted):
            for lead_id, cluster_id in session.execute(
                heads.where(FaceCluster.cluster_id.in_(some))
            ):
                _claim(self.clusters, cluster_id, lead_id)

    def _load_pictures(self, session: Session, case_id: str) -> None:
        # All pictures of the case's candidates: they are few, and nearness has no index.
        rows = session.execute(
            select(Candidate.lead_id, ImageHash.pdq)
            .join(Face, Face.face_id == Candidate.face_id)
            .join(ImageHash, ImageHash.sha256 == Face.sha256)
            .where(Candidate.case_id == case_id, ImageHash.quality >= MIN_QUALITY)
            .distinct()
        )
        for lead_id, pdq in rows:
            self.pictures.add(pdq, lead_id)

    def assign(self, face_id: str, source: FaceSource) -> str:
        """The lead of a face; the book remembers it. Faces come best first."""
        known = self.candidates.get(face_id)
        if known is not None:
            self._note(source, known)
            return known
        fitting = {self.images.get(source.sha256), *(self.ads.get(ad) for ad in source.ad_ids)}
        if source.cluster_id is not None:
            fitting.add(self.clusters.get(source.cluster_id))
        if source.pdq is not None:
            fitting |= self.pictures.near(source.pdq)
        lead_id = min((lead for lead in fitting if lead is not None), default=None)
        if lead_id is None:
            lead_id = new_id()
            if source.cluster_id is not None:
                _claim(self.clusters, source.cluster_id, lead_id)
        self.candidates[face_id] = lead_id
        self._note(source, lead_id)
        return lead_id

    def _note(self, source: FaceSource, lead_id: str) -> None:
        _claim(self.images, source.sha256, lead_id)
        for ad_id in source.ad_ids:
            _claim(self.ads, ad_id, lead_id)
        if source.pdq is not None:
            self.pictures.add(source.pdq, lead_id)


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


def drop_empty_leads(session: Session, case_ids: Collection[str]) -> None:
    """Take away leads of these cases that hold no candidate any more, in the caller's transaction.

    Candidates went; so what the cases knew of their lists holds no longer.
    """
    for some in chunks(case_ids):
        session.execute(update(Case).where(Case.case_id.in_(some)).values(listed_floor=None))
        held = select(Candidate.lead_id).where(Candidate.lead_id == Lead.lead_id)
        session.execute(delete(Lead).where(Lead.case_id.in_(some), ~held.exists()))
