"""Ranked candidates: an exact search made now, collapsed into leads, kept under stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from indexer import images
from indexer.acting import acting
from indexer.ad_records import summary_of
from indexer.alerting import limit_in_force
from indexer.batches import chunks
from indexer.catalog.tables import (
    Ad,
    Candidate,
    Capture,
    CaptureImage,
    Case,
    Face,
    Lead,
)
from indexer.enrolled import enrolled
from indexer.errors import CandidateNotFound, SearchNeedsEnrolment
from indexer.faces import choose_face, face_record, summaries
from indexer.galleries.log import index_filter
from indexer.generations.rows import is_active
from indexer.judgements import decided
from indexer.kept_faces import compared_size, is_transient
from indexer.leads import FaceSource, LeadBook, lead_records, sources
from indexer.probe import FusedFace, ad_conditions, fused_search
from indexer.records import (
    UNREVIEWED,
    AdSummary,
    CandidateRecord,
    FaceSummary,
    RankedCandidate,
    RankedCandidates,
    SearchFilter,
    SearchState,
)
from indexer.searchable import require_searchable
from indexer.searched import compared_up_to, search_state
from indexer.searches import add_search, require_purpose
from indexer.sightings import candidate_ids, sightings_of
from indexer.times import utc_now
from indexer.workspace import Workspace
from models.calibration import Shares, shares
from models.types import FloatArray, Quality

NO_FILTER = SearchFilter()
LISTED = 50
"""Leads that are kept for a case when a photo of it is searched for."""

_FIRST_FACES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSearch:
    """A search with a photo that is not enrolled; the photo itself is not kept."""

    search_id: str
    faces: tuple[FaceSummary, ...]
    face_index: int
    candidates: RankedCandidates


@dataclass(frozen=True, slots=True)
class Ranking:
    """Faces in rank order down to the k-th lead, with their leads; the first of a lead leads it."""

    faces: list[FusedFace]
    leads: dict[str, str]
    sources: dict[str, FaceSource]

    def heads(self) -> list[FusedFace]:
        """The best face of each lead, best first."""
        seen: dict[str, FusedFace] = {}
        for face in self.faces:
            seen.setdefault(self.leads[face.face_id], face)
        return list(seen.values())


# --- the two searches ------------------------------------------------------------------------


def ranked(
    ws: Workspace, case_id: str, k: int = 20, filters: SearchFilter = NO_FILTER
) -> RankedCandidates:
    """The ``k`` best leads for all enrolled photos of an open case, whatever their scores.

    Every lead that was ever shown keeps its id. Raises :class:`CaseNotFound`,
    :class:`CaseClosed`, :class:`ApprovalRequired`.
    """
    with ws.catalog.read() as session:
        require_searchable(session, case_id)
        face_ids, vectors, joined = enrolled(session, ws.contract_id, case_id)
        state = search_state(session, ws.contract_id, case_id, len(face_ids))
    ranking = rank(ws, case_id, vectors, joined, k, filters)
    candidate_ids = _keep(ws, case_id, ranking, len(face_ids), "ranking")
    return _result(ws, case_id, k, ranking, candidate_ids, filters, state, face_ids, len(face_ids))


def search_photo(
    ws: Workspace,
    case_id: str,
    data: bytes,
    *,
    purpose: str,
    purpose_note: str | None = None,
    actor: str = "system",
    face_index: int | None = None,
    k: int = 20,
    filters: SearchFilter = NO_FILTER,
) -> PhotoSearch:
    """Probe the ads with a photo that is not enrolled, for an open case and a stated purpose.

    The search is recorded (who, when, why, over what, outcome); the photo is not kept. Raises
    :class:`PurposeRequired`, :class:`CaseNotFound`, :class:`CaseClosed`,
    :class:`ApprovalRequired`, ``ImageRejected``, :class:`NoFaceFound`,
    :class:`SeveralFacesFound`, :class:`FaceIndexInvalid`,
    :class:`FaceTooSmall`, :class:`SearchNeedsEnrolment` where faces of ads are not kept.
    """
    require_purpose(purpose)
    acting().purpose = purpose
    with ws.catalog.read() as session:
        require_searchable(session, case_id)
        state = SearchState(state="searched", up_to=compared_up_to(session))
    if is_transient(ws):
        raise SearchNeedsEnrolment
    _, faces = images.examine(ws, data)
    chosen = choose_face(faces, face_index, ws.options.min_face_px)
    vector = faces[chosen].embedding.vector[np.newaxis]
    joined = shares(vector, np.array([faces[chosen].quality.score]))
    ranking = rank(ws, case_id, vector, joined, k, filters)
    candidate_ids = _keep(ws, case_id, ranking, 1, "search")
    quality = faces[chosen].quality
    result = _result(ws, case_id, k, ranking, candidate_ids, filters, state, quality, 1)
    with ws.catalog.write() as session:
        search_id = add_search(
            session,
            actor=actor,
            case_id=case_id,
            purpose=purpose,
            purpose_note=purpose_note,
            result=result,
            filters=filters,
        )
    return PhotoSearch(
        search_id=search_id, faces=summaries(faces), face_index=chosen, candidates=result
    )


def get_candidate(ws: Workspace, candidate_id: str) -> CandidateRecord:
    """One stored candidate. Raises :class:`CandidateNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(Candidate, candidate_id)
        if row is None:
            raise CandidateNotFound(candidate_id)
        return CandidateRecord(
            candidate_id=row.candidate_id,
            case_id=row.case_id,
            lead_id=row.lead_id,
            face_id=row.face_id,
            contract_id=row.contract_id,
            score=row.score,
            photos_fused=row.photos_fused,
            status=row.status,
            created_at=row.created_at,
        )


# --- ranking ---------------------------------------------------------------------------------


def rank(
    ws: Workspace,
    case_id: str,
    vectors: FloatArray,
    joined: Shares,
    k: int,
    filters: SearchFilter = NO_FILTER,
) -> Ranking:
    """Search wider and wider until ``k`` leads are full or the gallery is exhausted."""
    if not len(vectors) or k <= 0:
        return Ranking([], {}, {})
    where = index_filter(filters)
    count = max(_FIRST_FACES, 4 * k)
    while True:
        found = fused_search(ws.ads, vectors, joined, count, where=where)
        with ws.catalog.read() as session:
            seen = sources(session, [face.face_id for face in found])
            book = LeadBook.load(session, case_id, seen)
        ranking = _collapse(found, seen, book, k)
        if len(found) < count or len(set(ranking.leads.values())) >= k:
            return ranking
        count *= 4


def _collapse(
    found: Sequence[FusedFace], seen: dict[str, FaceSource], book: LeadBook, k: int
) -> Ranking:
    faces: list[FusedFace] = []
    leads: dict[str, str] = {}
    full: set[str] = set()
    for face in found:
        source = seen.get(face.face_id)
        if source is None:
            continue
        lead_id = book.assign(face.face_id, source)
        if lead_id not in full and len(full) >= k:
            break
        full.add(lead_id)
        leads[face.face_id] = lead_id
        faces.append(face)
    return Ranking(faces, leads, {face.face_id: seen[face.face_id] for face in faces})


def _keep(
    ws: Workspace, case_id: str, ranking: Ranking, photos: int, origin: str
) -> dict[str, tuple[str, str]]:
    """Store what was ranked; returns candidate id and status by face.

    The lead of each face in ``ranking`` is replaced by the stored one.
    """
    with ws.catalog.read() as session:
        rows = _stored(session, case_id, ranking.leads)
    stale = origin == "ranking" and any(
        row.score != face.score or row.photos_fused != photos
        for face in ranking.faces
        if (row := rows.get(face.face_id)) is not None
    )
    if stale or len(rows) < len(ranking.leads):
        with ws.catalog.write() as session:
            require_searchable(session, case_id)
            store(session, ws, case_id, ranking.faces, photos, origin)
            rows = _stored(session, case_id, ranking.leads)
    for face in list(ranking.faces):
        row = rows.get(face.face_id)
        if row is None:
            # The ad was forgotten since the search.
            ranking.faces.remove(face)
            del ranking.leads[face.face_id]
        else:
            ranking.leads[face.face_id] = row.lead_id
    return {face_id: (row.candidate_id, row.status) for face_id, row in rows.items()}


def _stored(session: Session, case_id: str, face_ids: dict[str, str]) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {}
    for some in chunks(face_ids):
        rows = session.scalars(
            select(Candidate).where(Candidate.case_id == case_id, Candidate.face_id.in_(some))
        )
        found.update((row.face_id, row) for row in rows)
    return found


def store(
    session: Session,
    ws: Workspace,
    case_id: str,
    faces: Sequence[FusedFace],
    photos: int,
    origin: str,
) -> list[str]:
    """Make candidates of faces, in the caller's transaction; returns the faces that are new.

    The score of one that is there is brought up to date, unless the search was with a photo
    that is not enrolled. A pair that was judged before keeps its conclusion.
    """
    rows = _stored(session, case_id, {face.face_id: "" for face in faces})
    if origin != "search":
        for face in faces:
            if (row := rows.get(face.face_id)) is not None:
                row.score, row.photos_fused = face.score, photos
    seen = sources(session, [face.face_id for face in faces])
    book = LeadBook.load(session, case_id, seen)
    assigned = [
        (face, book.assign(face.face_id, seen[face.face_id]))
        for face in faces
        if face.face_id in seen
    ]
    fresh = [(face, lead_id) for face, lead_id in assigned if face.face_id not in rows]
    if fresh:
        now = utc_now()
        before = decided(session, case_id, [face.face_id for face, _ in fresh])
        ids = candidate_ids(session, case_id, [face.face_id for face, _ in fresh])
        sightings = sightings_of(session, case_id, ws.contract_id, ids, ws.calibration)
        _add_leads(session, case_id, {lead_id for _, lead_id in fresh}, now)
        session.execute(
            insert(Candidate),
            [
                {
                    "candidate_id": ids[face.face_id],
                    "sighting_id": sightings[face.face_id],
                    "case_id": case_id,
                    "lead_id": lead_id,
                    "face_id": face.face_id,
                    "contract_id": ws.contract_id,
                    "score": face.score,
                    "photos_fused": photos,
                    "origin": origin,
                    "status": before.get(face.face_id, UNREVIEWED),
                    "created_at": now,
                }
                for face, lead_id in fresh
            ],
        )
    session.flush()
    _note_floor(session, case_id, ws.contract_id)
    return [face.face_id for face, _ in fresh]


def _add_leads(session: Session, case_id: str, lead_ids: set[str], now: datetime) -> None:
    present: set[str] = set()
    for some in chunks(lead_ids):
        present.update(session.scalars(select(Lead.lead_id).where(Lead.lead_id.in_(some))))
    missing = sorted(lead_ids - present)
    if missing:
        session.execute(
            insert(Lead),
            [{"lead_id": lead_id, "case_id": case_id, "created_at": now} for lead_id in missing],
        )


def _note_floor(session: Session, case_id: str, contract_id: str) -> None:
    """Keep the best score of the case's ``LISTED``-th lead; null while it has fewer.

    What began before another generation came into use does not write down a score of its scale.
    """
    if not is_active(session, contract_id):
        return
    floor = session.scalar(
        select(func.max(Candidate.score))
        .where(Candidate.case_id == case_id, Candidate.contract_id == contract_id)
        .group_by(Candidate.lead_id)
        .order_by(func.max(Candidate.score).desc())
        .offset(LISTED - 1)
        .limit(1)
    )
    session.get_one(Case, case_id).listed_floor = floor


def _result(
    ws: Workspace,
    case_id: str,
    k: int,
    ranking: Ranking,
    candidate_ids: dict[str, tuple[str, str]],
    filters: SearchFilter,
    state: SearchState,
    person: Sequence[str] | Quality,
    photos: int,
) -> RankedCandidates:
    """``person``: the ids of the enrolled faces, or the quality of the one that is not enrolled."""
    heads = ranking.heads()[:k]
    ids = () if isinstance(person, Quality) else person
    with ws.catalog.read() as session:
        faces = _faces(session, [head.face_id for head in heads])
        own = {one: face_record(row).quality for one, row in _faces(session, ids).items()}
        records = lead_records(session, [ranking.leads[head.face_id] for head in heads])
        limit = limit_in_force(session, ws, require_searchable(session, case_id))
        shown = first_ads(session, [face.sha256 for face in faces.values()], filters)
    items: list[RankedCandidate] = []
    for head in heads:
        face = faces.get(head.face_id)
        lead = records.get(ranking.leads[head.face_id])
        ad = shown.get(face.sha256) if face is not None else None
        if face is None or lead is None or ad is None:
            continue  # forgotten since the search
        candidate_id, status = candidate_ids[head.face_id]
        nearest = ids[head.nearest_photo] if ids else None
        items.append(
            RankedCandidate(
                candidate_id=candidate_id,
                rank=len(items) + 1,
                score=head.score,
                photos_fused=photos,
                status=status,
                person_face_id=nearest,
                person_quality=person if isinstance(person, Quality) else own.get(nearest or ""),
                face=face_record(face),
                image_sha256=face.sha256,
                ad=ad,
                lead=lead,
            )
        )
    return RankedCandidates(
        case_id=case_id,
        contract_id=ws.contract_id,
        gallery_size=compared_size(ws),
        k=k,
        photos_fused=photos,
        alert_limit=limit,
        search_state=state,
        items=tuple(items),
    )


def _faces(session: Session, face_ids: Sequence[str]) -> dict[str, Face]:
    found: dict[str, Face] = {}
    for some in chunks(face_ids):
        rows = session.scalars(select(Face).where(Face.face_id.in_(some)))
        found.update((row.face_id, row) for row in rows)
    return found


def first_ads(session: Session, shas: Sequence[str], filters: SearchFilter) -> dict[str, AdSummary]:
    """For each image the ad that showed it first, among those that pass the filters."""
    first: dict[str, AdSummary] = {}
    for some in chunks(dict.fromkeys(shas)):
        rows = session.execute(
            select(CaptureImage.sha256, Ad)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .join(Ad, Ad.ad_id == Capture.ad_id)
            .where(CaptureImage.sha256.in_(some), *ad_conditions(filters))
            .order_by(Capture.capture_id)
        )
        for sha256, ad in rows:
            if sha256 is not None:
                first.setdefault(sha256, summary_of(ad))
    return first
