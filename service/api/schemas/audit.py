"""Records of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from service.api.schemas.common import Out, TimeOut


class AuditRecordOut(Out):
    """One record: ids, names of fields, figures and words of fixed lists."""

    seq: int = Field(description="Number in the chain, from 1 without gaps")
    at: TimeOut
    action: str
    outcome: str = Field(description="`done`, or the code of the error")
    channel: str
    actor_kind: str
    actor: str
    agency: str | None
    request_id: str | None
    subject_kind: str | None
    subject_id: str | None
    case_id: str | None
    purpose: str | None
    details: Mapping[str, Any]
    hash: str = Field(description="SHA-256 over the record and the hash of the one before it")


class AuditList(Out):
    """Newest first."""

    items: list[AuditRecordOut]
    next_cursor: str | None


class AuditHeadOut(Out):
    """The last record: keep this where nobody of this machine can change it."""

    seq: int
    hash: str
