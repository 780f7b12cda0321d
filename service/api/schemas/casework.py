"""Approvals of searches, and legal holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from indexer.approvals import LONGEST_DAYS, ApprovalState, Decision
from indexer.holds import HoldKind, HoldReason
from service.api.schemas.common import Id, In, Out, Purpose, TimeOut

Note = Annotated[str, StringConstraints(max_length=2_000)]


class ApprovalIn(In):
    """A request that a case may be searched."""

    purpose: Purpose
    note: Note | None = None
    emergency: bool = Field(
        False, strict=True, description="Begin at once; ends unless it is approved within 48 hours"
    )


class DecisionIn(In):
    """What a second person decides. `refuse` also ends an approval that is in force."""

    decision: Decision
    note: Note | None = None
    valid_days: Annotated[int, Field(ge=1, le=LONGEST_DAYS, strict=True)] | None = Field(
        None, description="How long the approval holds; by default as the setting says"
    )


class ApprovalOut(Out):
    approval_id: Id
    case_id: Id
    agency: str
    case_number: str
    purpose: Purpose
    note: str | None
    emergency: bool
    state: ApprovalState
    asked_by: str
    asked_at: TimeOut
    ratify_by: TimeOut | None = Field(description="When an emergency start ends by itself")
    decided_by: str | None
    decided_at: TimeOut | None
    valid_until: TimeOut | None


class ApprovalList(Out):
    items: list[ApprovalOut]
    next_cursor: str | None


ApprovalShown = Literal["all", "waiting"]


class HoldIn(In):
    """Why a record is held."""

    reason: HoldReason
    note: Note | None = None


class HoldOut(Out):
    hold_id: Id
    kind: HoldKind
    subject_id: Id
    agency: str | None
    reason: HoldReason
    note: str | None
    set_by: str
    set_at: TimeOut
    lifted_by: str | None
    lifted_at: TimeOut | None


class HoldList(Out):
    items: list[HoldOut]
    next_cursor: str | None
