"""Withheld pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from indexer.withheld.rows import FlagReason, Outcome
from service.api.schemas.ads import AdBrief
from service.api.schemas.common import Id, In, Out, Sha256, TimeOut


class FlagIn(In):
    case_id: Id = Field(description="The case in whose work the picture was seen")
    reason: FlagReason


class SettleIn(In):
    outcome: Outcome


class WithheldOut(Out):
    """A picture that is shown to nobody, and what it belongs to. Never its pixels."""

    withheld_id: Id
    sha256: Sha256
    reason: Literal["listed", "flagged", "copy"]
    flag_reason: str | None
    list_name: str | None
    hash_kind: str | None = Field(description="Kind of the listed hash: sha256, sha1, md5 or pdq")
    copy_of: Sha256 | None = Field(description="The flagged picture that this is a copy of")
    case_id: Id | None = Field(description="Where it was flagged; null if of another agency")
    actor: str
    at: TimeOut
    due_at: TimeOut = Field(description="By when it has to be settled")
    overdue: bool
    settled_at: TimeOut | None
    settled_by: str | None
    outcome: Outcome | None
    ad_ids: list[Id]
    case_ids: list[Id] = Field(description="Cases of the caller's agency that have it as a photo")
    ads: list[AdBrief]


class WithheldList(Out):
    items: list[WithheldOut]
    next_cursor: str | None
