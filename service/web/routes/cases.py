"""The list of cases, a case, and the form in which one is created or edited."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import cases
from indexer.errors import DuplicateCaseNumber
from indexer.records import CaseRecord, CaseStatus
from models.errors import HomewardError
from service.accounts.access import own_agency
from service.deps import ServiceDep
from service.state import Service
from service.web import alert_views, forms, texts, views
from service.web.forms import Typed
from service.web.routes.common import CaseId, beside, done_text, go, page_router
from service.web.sessions import Session
from service.web.state import CaseReader, CaseWriter, Web, WebDep

router = page_router()

Cursor = Annotated[str | None, Query(max_length=200)]
Text = Annotated[str | None, Query(max_length=100)]
Done = Annotated[str | None, Query(max_length=40)]


def _status(text: str | None) -> CaseStatus | None:
    return text if text in ("open", "found", "closed") else None  # type: ignore[return-value]


@router.get("/cases")
def case_list(
    web: WebDep,
    service: ServiceDep,
    session: CaseReader,
    status: Text = None,
    text: Text = None,
    cursor: Cursor = None,
    done: Done = None,
) -> Response:
    """Cases, newest first."""
    wanted = (text or "").replace("\0", "").strip()
    page = views.case_rows(
        service.workspace,
        status=_status(status),
        text=wanted or None,
        cursor=cursor,
        agency=session.principal.agency,
    )
    return web.pages.page(
        "cases.html",
        session=session,
        page=page,
        status_filter=_status(status) or "",
        text_filter=wanted,
        first=cursor is None,
        done=done_text(done),
    )


@router.get("/cases/new")
def new_case_page(web: WebDep, session: CaseWriter) -> Response:
    """An empty form."""
    return _case_form(web, session, Typed())


@router.post("/cases/new")
async def create_case(
    request: Request, web: WebDep, service: ServiceDep, session: CaseWriter
) -> Response:
    """Create a case, or show the form again with what is wrong beside each field."""
    async with forms.page_form(request, service, session, forms.CASE_FIELDS) as form:
        typed = forms.typed(form, forms.CASE_FIELDS)
    case = forms.case_input(typed)
    if case is None:
        return _case_form(web, session, typed, status=422)
    case = replace(case, agency=own_agency(session.principal, case.agency or None))
    try:
        record = await run_in_threadpool(cases.create_case, service.workspace, case)
    except DuplicateCaseNumber as error:
        return _duplicate(web, session, typed, error)
    return go(f"/cases/{record.case_id}?done=case_created")


@router.get("/cases/{case_id}/edit")
def edit_case_page(
    web: WebDep, service: ServiceDep, session: CaseWriter, case_id: CaseId
) -> Response:
    """The form with what is known."""
    record = cases.get_case(service.workspace, case_id)
    return _case_form(web, session, Typed(forms.case_values(record)), record)


@router.post("/cases/{case_id}/edit")
async def edit_case(
    request: Request, web: WebDep, service: ServiceDep, session: CaseWriter, case_id: CaseId
) -> Response:
    """Save the changed facts."""
    before = await run_in_threadpool(cases.get_case, service.workspace, case_id)
    async with forms.page_form(request, service, session, forms.CASE_FIELDS) as form:
        typed = forms.typed(form, forms.CASE_FIELDS)
    case = forms.case_input(typed)
    if case is None:
        return _case_form(web, session, typed, before, status=422)
    case = replace(case, agency=own_agency(session.principal, case.agency or None))
    changes = forms.case_changes(before, case, typed)
    actor = session.principal.actor_id

    def save() -> None:
        cases.update_case(service.workspace, case_id, changes, actor=actor)

    try:
        await run_in_threadpool(save)
    except DuplicateCaseNumber as error:
        return _duplicate(web, session, typed, error, before)
    return go(f"/cases/{case_id}?done=case_saved")


def _duplicate(
    web: Web,
    session: Session,
    typed: Typed,
    error: DuplicateCaseNumber,
    record: CaseRecord | None = None,
) -> Response:
    typed.errors["case_number"] = texts.text("field.duplicate")
    return _case_form(web, session, typed, record, status=409, existing=error.case_id)


def _case_form(
    web: Web,
    session: Session,
    typed: Typed,
    record: CaseRecord | None = None,
    *,
    status: int = 200,
    existing: str = "",
) -> Response:
    return web.pages.page(
        "case_form.html",
        session=session,
        status=status,
        typed=typed,
        record=record,
        existing=existing,
    )


@router.get("/cases/{case_id}")
async def case_page(
    web: WebDep,
    service: ServiceDep,
    session: CaseReader,
    case_id: CaseId,
    done: Done = None,
) -> Response:
    """A case: the person, the photos, and the candidates of a search made now."""
    return await show_case(web, service, session, case_id, done=done_text(done))


async def show_case(
    web: Web,
    service: Service,
    session: Session,
    case_id: str,
    *,
    done: str = "",
    typed: Typed | None = None,
    error: HomewardError | None = None,
    status: int = 200,
) -> Response:
    """The page of a case, with a problem beside the photo form where there is one."""
    problem: Any = None
    if error is not None:
        problem, status = beside(error)
    view = await service.pool.run(
        views.case_view,
        service.workspace,
        case_id,
        with_candidates=session.principal.may("scores:read"),
    )
    standing = None
    if view.case.status == "open" and session.principal.may("alerts:read"):
        standing = await run_in_threadpool(alert_views.standing_view, service.workspace, case_id)
    return web.pages.page(
        "case.html",
        session=session,
        status=status,
        view=view,
        case=view.case,
        standing=standing,
        typed=typed or Typed(),
        problem=problem,
        done=done,
        limit=service.settings.max_image_bytes,
    )
