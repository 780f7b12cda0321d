"""Ranked candidates for review: what they are worth, and where they were seen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from indexer.judgements import Component, Conclusion, Finding
from indexer.links import LinkKind, LinkState
from service.api.schemas.ads import AdBrief, FaceOut
from service.api.schemas.cases import FaceFound
from service.api.schemas.common import Id, In, Out, Purpose, Sha256, TimeOut, storable


class LeadOut(Out):
    """Gathers the candidates that share an ad or the very same image."""

    lead_id: Id
    ads: int
    images: int
    first_seen: TimeOut | None
    last_seen: TimeOut | None


class LinkOut(Out):
    """Another agency has something in common with this candidate; no more is told of its case."""

    link_id: Id
    kind: LinkKind
    agency: str
    since: TimeOut = Field(description="When both had it")
    request_id: Id | None = Field(description="The newest question to them, see link-requests")
    state: LinkState | None


class CandidateOut(Out):
    """One face in an ad that a trained person should compare with the missing person."""

    candidate_id: Id
    rank: int = Field(ge=1)
    score: float = Field(ge=-1, le=1, description="Cosine, fused over the photos of the person")
    false_match_rate: float | None = Field(
        description="How often two different people score at least this high, measured; where the "
        "sample is too small to tell, its upper bound; null where uncalibrated"
    )
    false_match_rate_upper: float | None = Field(description="Upper bound of the same rate")
    false_match_rate_resolved: bool | None = Field(
        description="false: below what the calibration sample can tell, so the bound is given"
    )
    expected_false_candidates: float | None = Field(
        description="Strangers to expect at this score or above: gallery_size x false_match_rate"
    )
    expected_false_candidates_upper: float | None = Field(
        description="gallery_size x false_match_rate_upper"
    )
    band: Literal["very_strong", "strong", "moderate", "weak"] | None = Field(
        description="By expected_false_candidates_upper, not by the score; weak where both "
        "pictures are such that the rate does not hold (rate_notes); null where uncalibrated"
    )
    calibrated: bool = Field(
        description="false: nothing is known of what the score is worth; rates and band are null"
    )
    rate_notes: list[str] = Field(
        description="Where the rate does not hold: it was measured on clear photos, and one of the "
        "two pictures, or both, are not"
    )
    status: str
    photos_fused: int = Field(ge=0, description="Photos of the person behind the score")
    person_face_id: Id | None
    face: FaceOut
    image_sha256: Sha256
    ad: AdBrief
    lead: LeadOut
    links: list[LinkOut] = Field(
        description="Other agencies that have this as a lead too, strongest first; only in the "
        "list of a case"
    )


class JudgementIn(In):
    """What a person concluded from comparing the two pictures."""

    conclusion: Conclusion = Field(description="Ordinal; inconclusive where in doubt")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
    components: dict[Component, Finding] = Field(
        default_factory=dict, description="Findings by component of the face"
    )

    @field_validator("reason")
    @classmethod
    def _storable(cls, value: str) -> str:
        return storable(value)


class JudgementOut(Out):
    """One judgement; it is never changed, a later one supersedes it."""

    judgement_id: Id
    candidate_id: Id
    case_id: Id
    conclusion: Conclusion
    reason: str
    components: dict[str, str]
    actor: str = Field(description="Id of the key that gave it")
    at: TimeOut
    contract_id: str
    supersedes: Id | None


class SearchStateOut(Out):
    """``up_to``: ads received until then are in the comparison."""

    state: Literal["not_searched", "searching", "searched"]
    up_to: TimeOut | None


class CandidatesOut(Out):
    case_id: Id
    contract_id: str
    gallery_size: int = Field(description="Faces of ads that were compared")
    k: int
    threshold: float | None = Field(
        description="Score at which alert_expected_false_candidates strangers are to be expected; "
        "null where uncalibrated or out of reach"
    )
    alert_expected_false_candidates: float = Field(
        description="An alert is raised for what so few strangers are to be expected at; the "
        "gallery counts as 1,000 faces at least"
    )
    alert_tightened: bool = Field(
        description="The case has spent its weekly budget of alerts, so less is told for now"
    )
    alerts_this_week: int
    alert_budget: int = Field(description="Alerts a week before the threshold is tightened")
    search_state: SearchStateOut
    items: list[CandidateOut]
    calibrated: bool = Field(
        description="false: how often strangers reach a score was never measured for this face "
        "pack; there are scores and ranks, no rates, no bands, and no alerts"
    )
    calibration: str = Field(description="Where the rates come from and what they leave out")
    notice: str


class SearchOut(CandidatesOut):
    """The answer to a search with a photo that is not enrolled."""

    search_id: Id
    purpose: Purpose
    faces: list[FaceFound]
    face_index: int
