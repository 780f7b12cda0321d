"""Alerts and the webhooks that they are sent to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from service.api.schemas.ads import AdBrief, FaceOut
from service.api.schemas.candidates import LeadOut
from service.api.schemas.cases import CaseStatus
from service.api.schemas.common import Id, In, Out, Sha256, TimeOut


class BudgetOut(Out):
    this_week: int = Field(description="Alerts of the case in the last seven days")
    budget: int = Field(description="After so many in seven days the limit is lowered")


class AlertItemOut(Out):
    """One alert: figures of the moment it was raised, and what is known of the candidate now.

    Where the candidate has been forgotten since, status, face, image, ad and lead are null.
    """

    alert_id: Id
    created_at: TimeOut
    case_id: Id
    case_number: str
    case_status: CaseStatus
    candidate_id: Id
    lead_id: Id
    score: float | None = Field(
        ge=-1, le=1, description="Cosine, fused over the photos; null without the scope scores:read"
    )
    false_match_rate_upper: float | None = Field(
        description="Upper bound of how often two different people score at least this high; null "
        "without the scope scores:read or where it was measured under another contract"
    )
    expected_false_candidates_upper: float | None = Field(
        description="Strangers to expect at this score or above, upper bound; null without the "
        "scope scores:read"
    )
    expected_false_limit: float = Field(description="How many were allowed for an alert then")
    tightened: bool = Field(description="Whether the weekly budget had lowered that")
    band: Literal["very_strong", "strong", "moderate", "weak"] = Field(
        description="By the upper bound of strangers to expect, weak where both pictures are such "
        "that the rate does not hold (rate_notes); told without scores:read too"
    )
    rate_notes: list[str] = Field(
        description="Where the rate does not hold: it was measured on clear photos, and one of the "
        "two pictures, or both, are not"
    )
    gallery_size: int
    photos_fused: int = Field(ge=0, description="Photos of the person behind the score")
    contract_id: str
    status: str | None
    face: FaceOut | None
    image_sha256: Sha256 | None
    ad: AdBrief | None
    lead: LeadOut | None
    budget: BudgetOut


class AlertOut(AlertItemOut):
    notice: str


class AlertList(Out):
    """``resume_cursor`` is always there: give it as ``cursor`` later for what is new then."""

    items: list[AlertItemOut]
    next_cursor: str | None
    resume_cursor: str
    notice: str


class WebhookIn(In):
    """Where alerts are to be sent."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2_000)] = Field(
        description="Begins with https and leads to the public internet, unless a setting allows "
        "private networks"
    )
    description: Annotated[str, StringConstraints(max_length=200)] = ""


class WebhookOut(Out):
    webhook_id: Id
    url: str = Field(
        description="Scheme, host and port only, since the rest may hold a secret; whole in the "
        "answer to the request that set it"
    )
    description: str
    created_by: str
    created_at: TimeOut


class NewWebhookOut(WebhookOut):
    secret: str = Field(description="Signs what is sent; shown once")


class WebhookList(Out):
    items: list[WebhookOut]
    next_cursor: str | None
