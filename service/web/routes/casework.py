"""Approvals of searches, and legal holds."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from fastapi import Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import actors, ads, approval_ends, approvals, cases, holds
from indexer.errors import AdNotFound, ApprovalNotFound
from indexer.searches import PURPOSES
from models.errors import HomewardError
from service.deps import ServiceDep, canonical_id
from service.state import Service
from service.web import forms, texts
from service.web.forms import Typed
from service.web.routes.common import CaseId, beside, done_text, go, page_router
from service.web.sessions import Session
from service.web.state import Web, WebDep, requires

router = page_router()

Asker = Annotated[Session, Depends(requires("approvals:ask"))]
Decider = Annotated[Session, Depends(requires("approvals:decide"))]
Holder = Annotated[Session, Depends(requires("holds:write"))]
Cursor = Annotated[str | None, Query(max_length=200)]
Done = Annotated[str | None, Query(max_length=40)]
RecordId = Annotated[str, Path(max_length=60)]

ASK_FIELDS: Final = ("purpose", "note", "emergency")
DECIDE_FIELDS: Final = ("decision", "note", "valid_days")
HOLD_FIELDS: Final = ("action", "reason", "note")
HOLD_REASONS: Final = get_args(holds.HoldReason)


# --- approvals -------------------------------------------------------------------------------


@router.get("/cases/{case_id}/approvals")
def approvals_page(
    web: WebDep, service: ServiceDep, session: Asker, case_id: CaseId, done: Done = None
) -> Response:
    """What was asked and decided for a case, and the form to ask."""
    return _approvals(web, service, session, case_id, done=done_text(done))


@router.post("/cases/{case_id}/approvals")
async def ask(
    request: Request, web: WebDep, service: ServiceDep, session: Asker, case_id: CaseId
) -> Response:
    """Ask that the case may be searched."""
    async with forms.page_form(request, service, session, ASK_FIELDS) as form:
        typed = forms.typed(form, ASK_FIELDS)

    def work() -> Response:
        try:
            approvals.ask(
                service.workspace,
                case_id,
                typed.value("purpose"),
                note=typed.value("note")[:2_000],
                emergency=typed.value("emergency") == "yes",
            )
        except HomewardError as error:
            return _approvals(web, service, session, case_id, typed=typed, error=error)
        service.runner.wake()
        return go(f"/cases/{case_id}/approvals?done=approval_asked")

    return await run_in_threadpool(work)


def _approvals(
    web: Web,
    service: Service,
    session: Session,
    case_id: str,
    *,
    done: str = "",
    typed: Typed | None = None,
    error: HomewardError | None = None,
) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    case = cases.get_case(service.workspace, case_id)
    page = approvals.list_approvals(service.workspace, case_id=case_id, limit=100)
    asked = any(one.state == "asked" for one in page.items)
    return web.pages.page(
        "approvals_case.html",
        session=session,
        status=status,
        case=case,
        items=page.items,
        names=_names(service, page.items),
        may_ask=case.status == "open" and not asked,
        needed=case.suspended
        or case.search_until is not None
        or service.settings.approval == "required",
        typed=typed or Typed({"purpose": case.default_purpose or PURPOSES[0]}),
        problem=problem,
        done=done,
    )


@router.get("/approvals")
def waiting_page(
    web: WebDep, service: ServiceDep, session: Decider, cursor: Cursor = None, done: Done = None
) -> Response:
    """What waits for a decision."""
    page = approvals.list_approvals(
        service.workspace, agency=session.principal.agency, waiting=True, cursor=cursor
    )
    return web.pages.page(
        "approvals.html",
        session=session,
        page=page,
        ending=approval_ends.ending(service.workspace, agency=session.principal.agency),
        names=_names(service, page.items),
        first=cursor is None,
        done=done_text(done),
    )


@router.get("/approvals/{approval_id}")
def decide_page(
    web: WebDep, service: ServiceDep, session: Decider, approval_id: RecordId
) -> Response:
    """Approve, or refuse?"""
    return _decide(web, service, session, approval_id)


@router.post("/approvals/{approval_id}")
async def decide(
    request: Request, web: WebDep, service: ServiceDep, session: Decider, approval_id: RecordId
) -> Response:
    """Write the decision down."""
    async with forms.page_form(request, service, session, DECIDE_FIELDS) as form:
        typed = forms.typed(form, DECIDE_FIELDS)

    def work() -> Response:
        record = _approval(service, approval_id)
        decision, days = typed.value("decision"), typed.value("valid_days")
        if decision not in ("approve", "refuse"):
            typed.errors["decision"] = texts.text("field.choose")
        if days and not (days.isdecimal() and 1 <= int(days[:6]) <= approvals.LONGEST_DAYS):
            typed.errors["valid_days"] = texts.text("approval.days_wrong")
        if typed.errors:
            return _decide(web, service, session, approval_id, typed=typed, status=422)
        try:
            approvals.decide(
                service.workspace,
                record.approval_id,
                "approve" if decision == "approve" else "refuse",
                note=typed.value("note")[:2_000],
                valid_days=int(days) if days else None,
            )
        except HomewardError as error:
            return _decide(web, service, session, approval_id, typed=typed, error=error)
        service.runner.wake()
        return go("/approvals?done=approval_decided")

    return await run_in_threadpool(work)


def _decide(
    web: Web,
    service: Service,
    session: Session,
    approval_id: str,
    *,
    typed: Typed | None = None,
    error: HomewardError | None = None,
    status: int = 200,
) -> Response:
    problem = None
    if error is not None:
        problem, status = beside(error)
    record = _approval(service, approval_id)
    return web.pages.page(
        "approval.html",
        session=session,
        status=status,
        one=record,
        names=_names(service, (record,)),
        days=service.settings.approval_days,
        typed=typed or Typed(),
        problem=problem,
    )


def _approval(service: Service, approval_id: str) -> approvals.ApprovalRecord:
    """Raises :class:`ApprovalNotFound`."""
    known = canonical_id(approval_id)
    if known is None:
        raise ApprovalNotFound(approval_id)
    return approvals.get_approval(service.workspace, known)


def _names(service: Service, items: tuple[approvals.ApprovalRecord, ...]) -> dict[str, str]:
    who = [actor for one in items for actor in (one.asked_by, one.decided_by)]
    return actors.names_of(service.workspace.catalog, who)


# --- holds -----------------------------------------------------------------------------------


@router.get("/holds")
def holds_page(
    web: WebDep, service: ServiceDep, session: Holder, cursor: Cursor = None
) -> Response:
    """The holds in force."""
    page = holds.list_holds(service.workspace, agency=session.principal.agency, cursor=cursor)
    return web.pages.page(
        "holds.html",
        session=session,
        page=page,
        names=actors.names_of(service.workspace.catalog, [one.set_by for one in page.items]),
        first=cursor is None,
    )


@router.get("/cases/{case_id}/hold")
def case_hold_page(
    web: WebDep, service: ServiceDep, session: Holder, case_id: CaseId, done: Done = None
) -> Response:
    """Hold a case, or lift its hold."""
    return _hold(web, service, session, "case", case_id, done=done_text(done))


@router.post("/cases/{case_id}/hold")
async def hold_case(
    request: Request, web: WebDep, service: ServiceDep, session: Holder, case_id: CaseId
) -> Response:
    """Set or lift the hold of a case."""
    return await _change(request, web, service, session, "case", case_id)


@router.get("/ads/{ad_id}/hold")
def ad_hold_page(
    web: WebDep, service: ServiceDep, session: Holder, ad_id: RecordId, done: Done = None
) -> Response:
    """Hold an ad, or lift the hold on it."""
    return _hold(web, service, session, "ad", _ad_id(ad_id), done=done_text(done))


@router.post("/ads/{ad_id}/hold")
async def hold_ad(
    request: Request, web: WebDep, service: ServiceDep, session: Holder, ad_id: RecordId
) -> Response:
    """Set or lift the hold on an ad."""
    return await _change(request, web, service, session, "ad", _ad_id(ad_id))


def _ad_id(text: str) -> str:
    known = canonical_id(text)
    if known is None:
        raise AdNotFound(text)
    return known


async def _change(
    request: Request,
    web: Web,
    service: Service,
    session: Session,
    kind: Literal["case", "ad"],
    subject_id: str,
) -> Response:
    async with forms.page_form(request, service, session, HOLD_FIELDS) as form:
        typed = forms.typed(form, HOLD_FIELDS)

    def work() -> Response:
        address = f"/{kind}s/{subject_id}/hold"
        reason = next((one for one in HOLD_REASONS if one == typed.value("reason")), None)
        try:
            if typed.value("action") == "lift":
                holds.lift_hold(service.workspace, kind, subject_id)
                return go(f"{address}?done=hold_lifted")
            if reason is None:
                typed.errors["reason"] = texts.text("field.choose")
                return _hold(web, service, session, kind, subject_id, typed=typed, status=422)
            note = typed.value("note")[:2_000]
            holds.set_hold(service.workspace, kind, subject_id, reason, note=note)
        except HomewardError as error:
            return _hold(web, service, session, kind, subject_id, typed=typed, error=error)
        return go(f"{address}?done=hold_set")

    return await run_in_threadpool(work)


def _hold(
    web: Web,
    service: Service,
    session: Session,
    kind: Literal["case", "ad"],
    subject_id: str,
    *,
    typed: Typed | None = None,
    error: HomewardError | None = None,
    status: int = 200,
    done: str = "",
) -> Response:
    if kind == "case":
        name = cases.get_case(service.workspace, subject_id).case_number
    else:
        name = ads.get_ad(service.workspace, subject_id).external_id
    problem = None
    if error is not None:
        problem, status = beside(error)
    page = holds.list_holds(
        service.workspace,
        agency=session.principal.agency,
        subject=(kind, subject_id),
        lifted=True,
        limit=100,
    )
    who = [actor for one in page.items for actor in (one.set_by, one.lifted_by)]
    return web.pages.page(
        "hold.html",
        session=session,
        status=status,
        kind=kind,
        subject_id=subject_id,
        name=name,
        items=page.items,
        held=any(one.lifted_at is None for one in page.items),
        names=actors.names_of(service.workspace.catalog, who),
        reasons=HOLD_REASONS,
        typed=typed or Typed(),
        problem=problem,
        done=done,
    )
