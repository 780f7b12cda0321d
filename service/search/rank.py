"""Candidate lists: what the gallery returned, together with what each score is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

from indexer import candidates, listing
from indexer.acting import note
from indexer.alerting import LEAST_GALLERY
from indexer.links import Link, links_of
from indexer.records import (
    AdSummary,
    FaceRecord,
    FaceSummary,
    LeadRecord,
    RankedCandidate,
    RankedCandidates,
    SearchFilter,
    SearchState,
)
from indexer.searches import require_purpose as require_purpose
from indexer.workspace import Workspace
from models.calibration import Band
from models.quality import limited_of
from service.search.explain import (
    NOTICE,
    calibration_text,
    rate_notes,
    shown_band,
    threshold,
    worth,
)

MAX_CANDIDATES = 50
"""A list is only as good as its reviewer's patience; longer lists are not offered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One ranked candidate with the worth of its score; rates and band are None together, where
    the face pack is uncalibrated. ``limited_pictures``: of the two that were compared, those that
    the rate does not hold for; ``rate_notes`` say so. ``links``: other agencies that have it too;
    only in the list of a case."""

    candidate_id: str
    rank: int
    score: float
    false_match_rate: float | None
    false_match_rate_upper: float | None
    false_match_rate_resolved: bool | None
    expected_false_candidates: float | None
    expected_false_candidates_upper: float | None
    band: Band | None
    limited_pictures: int
    rate_notes: tuple[str, ...]
    status: str
    photos_fused: int
    person_face_id: str | None
    face: FaceRecord
    image_sha256: str
    ad: AdSummary
    lead: LeadRecord
    links: tuple[Link, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether anything is known of what the score is worth."""
        return self.band is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateList:
    """The k best leads of a case, best first."""

    case_id: str
    contract_id: str
    gallery_size: int
    k: int
    threshold: float | None
    alert_expected_false_candidates: float
    alert_tightened: bool
    alerts_this_week: int
    alert_budget: int
    search_state: SearchState
    items: tuple[Candidate, ...]
    calibrated: bool
    calibration: str
    notice: str = NOTICE


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSearchList(CandidateList):
    """The answer to a search with a photo that is not enrolled."""

    search_id: str
    purpose: str
    faces: tuple[FaceSummary, ...]
    face_index: int


def case_candidates(
    workspace: Workspace,
    case_id: str,
    k: int = 20,
    filters: SearchFilter | None = None,
    *,
    purpose: str | None = None,
    purpose_note: str | None = None,
) -> CandidateList:
    """The ``k`` best candidates for the enrolled photos of a case; the search is recorded.

    Without a ``purpose`` that of the case holds. Raises PurposeRequired, CaseNotFound, CaseClosed
    and ApprovalRequired.
    """
    ranked = listing.listed(
        workspace,
        case_id,
        k,
        filters or SearchFilter(),
        purpose=purpose,
        purpose_note=purpose_note,
    )
    found = _explained(workspace, ranked)
    linked = links_of(workspace, [item.candidate_id for item in found.items])
    items = (replace(item, links=linked.get(item.candidate_id, ())) for item in found.items)
    return replace(found, items=tuple(items))


def photo_candidates(
    workspace: Workspace,
    case_id: str,
    data: bytes,
    *,
    purpose: str,
    purpose_note: str | None = None,
    actor: str,
    face_index: int | None = None,
    k: int = 20,
    filters: SearchFilter | None = None,
) -> PhotoSearchList:
    """Probe the ads with a photo that is not enrolled; the search is recorded, the photo is not.

    Raises CaseNotFound, CaseClosed, ApprovalRequired, PurposeRequired, ImageRejected, NoFaceFound,
    SeveralFacesFound, FaceIndexInvalid and FaceTooSmall.
    """
    found = candidates.search_photo(
        workspace,
        case_id,
        data,
        purpose=purpose,
        purpose_note=purpose_note,
        actor=actor,
        face_index=face_index,
        k=k,
        filters=filters or SearchFilter(),
    )
    listed = _explained(workspace, found.candidates)
    return PhotoSearchList(
        case_id=listed.case_id,
        contract_id=listed.contract_id,
        gallery_size=listed.gallery_size,
        k=listed.k,
        threshold=listed.threshold,
        alert_expected_false_candidates=listed.alert_expected_false_candidates,
        alert_tightened=listed.alert_tightened,
        alerts_this_week=listed.alerts_this_week,
        alert_budget=listed.alert_budget,
        search_state=listed.search_state,
        items=listed.items,
        calibrated=listed.calibrated,
        calibration=listed.calibration,
        search_id=found.search_id,
        purpose=purpose,
        faces=tuple(found.faces),
        face_index=found.face_index,
    )


def _explained(workspace: Workspace, ranked: RankedCandidates) -> CandidateList:
    calibration = workspace.calibration
    note(
        case_id=ranked.case_id,
        contract_id=ranked.contract_id,
        gallery_size=ranked.gallery_size,
        k=ranked.k,
        candidates=len(ranked.items),
    )
    return CandidateList(
        case_id=ranked.case_id,
        contract_id=ranked.contract_id,
        gallery_size=ranked.gallery_size,
        k=ranked.k,
        threshold=threshold(
            calibration,
            max(ranked.gallery_size, LEAST_GALLERY) if ranked.gallery_size else 0,
            ranked.photos_fused,
            ranked.alert_limit.expected_false,
        ),
        alert_expected_false_candidates=ranked.alert_limit.expected_false,
        alert_tightened=ranked.alert_limit.tightened,
        alerts_this_week=ranked.alert_limit.raised,
        alert_budget=ranked.alert_limit.budget,
        search_state=ranked.search_state,
        items=tuple(_candidate(workspace, item, ranked.gallery_size) for item in ranked.items),
        calibrated=calibration is not None,
        calibration=calibration_text(calibration),
    )


def _candidate(workspace: Workspace, item: RankedCandidate, gallery_size: int) -> Candidate:
    value = worth(workspace.calibration, item.score, gallery_size, item.photos_fused)
    limited = limited_of(item.person_quality, item.face.quality)
    return Candidate(
        candidate_id=item.candidate_id,
        rank=item.rank,
        score=item.score,
        false_match_rate=value.false_match_rate,
        false_match_rate_upper=value.false_match_rate_upper,
        false_match_rate_resolved=value.false_match_rate_resolved,
        expected_false_candidates=value.expected_false_candidates,
        expected_false_candidates_upper=value.expected_false_candidates_upper,
        band=None if value.band is None else shown_band(value.band, limited),
        limited_pictures=limited,
        rate_notes=() if value.band is None else rate_notes(limited),
        status=item.status,
        photos_fused=item.photos_fused,
        person_face_id=item.person_face_id,
        face=item.face,
        image_sha256=item.image_sha256,
        ad=item.ad,
        lead=item.lead,
    )
