"""Approvals of searches, and legal holds."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from indexer import approvals, holds
from service.accounts.access import require_case
from service.accounts.principal import Principal
from service.api.common import (
    AdId,
    ApprovalId,
    CaseId,
    Cursor,
    IdempotencyHeader,
    Limit,
    answer,
    problems,
    router,
)
from service.api.schemas.casework import (
    ApprovalIn,
    ApprovalList,
    ApprovalOut,
    ApprovalShown,
    DecisionIn,
    HoldIn,
    HoldList,
    HoldOut,
)
from service.deps import ServiceDep, requires
from service.idempotency import Answer, once

api = router("casework")

Asker = Annotated[Principal, Depends(requires("approvals:ask"))]
Decider = Annotated[Principal, Depends(requires("approvals:decide"))]
Holder = Annotated[Principal, Depends(requires("holds:write"))]


@api.post(
    "/cases/{case_id}/approvals",
    status_code=201,
    response_model=ApprovalOut,
    responses=problems(404, 409, 413, 415, 422),
)
async def ask_for_approval(
    request: Request,
    service: ServiceDep,
    principal: Asker,
    case_id: CaseId,
    approval: ApprovalIn,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Ask that a case may be searched; in an emergency the search begins at once."""

    def ask() -> approvals.ApprovalRecord:
        return approvals.ask(
            service.workspace,
            case_id,
            approval.purpose,
            note=approval.note,
            emergency=approval.emergency,
        )

    async def work() -> Answer:
        record = await run_in_threadpool(ask)
        service.runner.wake()
        return answer(201, ApprovalOut.model_validate(record), case_id)

    content = hashlib.sha256(f"{case_id} {approval.model_dump_json()}".encode()).hexdigest()
    return await once(
        service.workspace, service.idempotency, request, principal.actor_id, content, work
    )


@api.get("/cases/{case_id}/approvals", response_model=ApprovalList, responses=problems(404, 422))
def approvals_of_case(
    service: ServiceDep, principal: Asker, case_id: CaseId, limit: Limit = 50, cursor: Cursor = None
) -> ApprovalList:
    """What was asked and decided for a case, newest first."""
    require_case(service.workspace.catalog, principal, case_id)
    page = approvals.list_approvals(service.workspace, case_id=case_id, limit=limit, cursor=cursor)
    return ApprovalList.model_validate(page)


@api.get("/approvals", response_model=ApprovalList, responses=problems(422))
def list_approvals(
    service: ServiceDep,
    principal: Decider,
    show: Annotated[ApprovalShown, Query(description="Only what waits, or all")] = "waiting",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ApprovalList:
    """Requests of the caller's agency, newest first."""
    page = approvals.list_approvals(
        service.workspace,
        agency=principal.agency,
        waiting=show == "waiting",
        limit=limit,
        cursor=cursor,
    )
    return ApprovalList.model_validate(page)


@api.post(
    "/approvals/{approval_id}/decision",
    response_model=ApprovalOut,
    responses=problems(404, 409, 413, 415, 422),
)
def decide_approval(
    service: ServiceDep, principal: Decider, approval_id: ApprovalId, decision: DecisionIn
) -> ApprovalOut:
    """Approve or refuse. Whoever asked cannot: 403 `approver_is_requester`."""
    record = approvals.decide(
        service.workspace,
        approval_id,
        decision.decision,
        note=decision.note,
        valid_days=decision.valid_days,
    )
    service.runner.wake()
    return ApprovalOut.model_validate(record)


@api.put(
    "/cases/{case_id}/hold",
    response_model=HoldOut,
    responses=problems(404, 413, 415, 422),
)
def hold_case(service: ServiceDep, principal: Holder, case_id: CaseId, hold: HoldIn) -> HoldOut:
    """Put a case under legal hold: it and its photos cannot be deleted. One that is held stays."""
    record = holds.set_hold(service.workspace, "case", case_id, hold.reason, note=hold.note)
    return HoldOut.model_validate(record)


@api.delete("/cases/{case_id}/hold", response_model=HoldOut, responses=problems(404))
def lift_hold_of_case(service: ServiceDep, principal: Holder, case_id: CaseId) -> HoldOut:
    """Lift the hold of a case. Where approvals are required, not by whoever set it: 403
    `lifter_is_setter`."""
    return HoldOut.model_validate(holds.lift_hold(service.workspace, "case", case_id))


@api.put("/ads/{ad_id}/hold", response_model=HoldOut, responses=problems(404, 413, 415, 422))
def hold_ad(service: ServiceDep, principal: Holder, ad_id: AdId, hold: HoldIn) -> HoldOut:
    """Put an ad under legal hold: it cannot be deleted and does not age. Each agency has its own
    hold; the ad is held as long as one is in force."""
    record = holds.set_hold(service.workspace, "ad", ad_id, hold.reason, note=hold.note)
    return HoldOut.model_validate(record)


@api.delete("/ads/{ad_id}/hold", response_model=HoldOut, responses=problems(404))
def lift_hold_of_ad(service: ServiceDep, principal: Holder, ad_id: AdId) -> HoldOut:
    """Lift the hold that the caller's agency has on an ad."""
    return HoldOut.model_validate(holds.lift_hold(service.workspace, "ad", ad_id))


@api.get("/holds", response_model=HoldList, responses=problems(422))
def list_holds(
    service: ServiceDep,
    principal: Holder,
    lifted: Annotated[bool, Query(description="Also those that are over")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> HoldList:
    """Holds of the caller's agency, newest first."""
    page = holds.list_holds(
        service.workspace, agency=principal.agency, lifted=lifted, limit=limit, cursor=cursor
    )
    return HoldList.model_validate(page)
