"""The audit log for auditors; reading it is recorded in it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from indexer.audit import reading
from indexer.audit.reading import Wanted
from service.accounts.principal import Principal
from service.api.common import Cursor, Limit, problems, router
from service.api.schemas.audit import AuditHeadOut, AuditList
from service.api.schemas.common import QueryText, TimeIn
from service.deps import ServiceDep, requires

api = router("audit")

Auditor = Annotated[Principal, Depends(requires("audit:read"))]


@api.get("/audit", response_model=AuditList, responses=problems(422))
def read_audit(
    service: ServiceDep,
    principal: Auditor,
    limit: Limit = 50,
    cursor: Cursor = None,
    case_id: Annotated[QueryText | None, Query(max_length=36, description="Of one case")] = None,
    actor: Annotated[QueryText | None, Query(max_length=100, description="Of one actor")] = None,
    action: Annotated[
        QueryText | None, Query(max_length=60, description="Such as `case.read`")
    ] = None,
    since: Annotated[TimeIn | None, Query(description="From this time on")] = None,
    until: Annotated[TimeIn | None, Query(description="Before this time")] = None,
) -> AuditList:
    """Records, newest first. Who belongs to an agency sees those of its cases and people."""
    wanted = Wanted(
        case_id=case_id,
        actor=actor,
        action=action,
        since=since,
        until=until,
        agency=principal.agency,
    )
    page = reading.list_records(service.opened.catalog, wanted, limit=limit, cursor=cursor)
    return AuditList.model_validate(page)


@api.get("/audit/head", response_model=AuditHeadOut)
def audit_head(service: ServiceDep, principal: Auditor) -> AuditHeadOut:
    """Number and hash of the last record."""
    seq, digest = reading.head(service.opened.catalog)
    return AuditHeadOut(seq=seq, hash=digest)
