"""Generations for administrators: which is in use, what another would change, the switch."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer.generations.switching import KEEP_DAYS
from models.errors import HomewardError
from service import generations
from service.deps import ServiceDep, canonical_id
from service.generations import Listed
from service.state import Service
from service.web import forms, generation_views, texts
from service.web.routes.common import CaseId, beside, done_text, go, page_router
from service.web.sessions import Session
from service.web.state import Administrator, CaseReader, ScoreReader, Viewer, Web, WebDep

router = page_router()

ContractId = Annotated[str, Path(max_length=120)]
Short = Annotated[str | None, Query(max_length=200)]


@router.get("/generations")
def generation_list(
    web: WebDep, service: ServiceDep, session: Administrator, done: Short = None
) -> Response:
    """All generations and their history."""
    found = generations.overview(service.opened)
    return web.pages.page("generations.html", session=session, found=found, done=done_text(done))


@router.get("/generations/{contract_id}/comparison")
def comparison(
    web: WebDep,
    service: ServiceDep,
    session: Administrator,
    _cases: CaseReader,
    _scores: ScoreReader,
    contract_id: ContractId,
    after: Short = None,
) -> Response:
    """What another model would change for the open cases."""
    start = canonical_id(after) if after else None
    view = generation_views.comparison_view(
        service.opened, contract_id, after=start, agency=session.principal.agency
    )
    return web.pages.page(
        "comparison.html", session=session, view=view, contract_id=contract_id, first=start is None
    )


@router.get("/generations/{contract_id}/comparison/{case_id}")
def compared_case(
    web: WebDep,
    service: ServiceDep,
    session: Administrator,
    _cases: CaseReader,
    _scores: ScoreReader,
    _viewer: Viewer,
    contract_id: ContractId,
    case_id: CaseId,
) -> Response:
    """One case: what is gained and lost, and where judged pairs are."""
    view = generation_views.compared_case(service.opened, contract_id, case_id)
    return web.pages.page("compared_case.html", session=session, view=view, contract_id=contract_id)


# --- switching -------------------------------------------------------------------------------


def _switch_page(
    web: Web,
    service: Service,
    session: Session,
    listed: Listed,
    *,
    back: bool,
    missing: str = "",
    error: HomewardError | None = None,
) -> Response:
    view = generation_views.switch_view(service.opened, listed, KEEP_DAYS)
    error = error or view.problem
    problem, status = beside(error) if error is not None else (None, 422 if missing else 200)
    return web.pages.page(
        "switch.html",
        session=session,
        status=status,
        view=view,
        back=back,
        missing=missing,
        problem=problem,
    )


@router.get("/generations/rollback")
def roll_back_page(web: WebDep, service: ServiceDep, session: Administrator) -> Response:
    """Really go back?"""
    listed = generations.previous(service.opened)
    return _switch_page(web, service, session, listed, back=True)


@router.post("/generations/rollback")
async def roll_back(
    request: Request, web: WebDep, service: ServiceDep, session: Administrator
) -> Response:
    """Go back to the generation before."""
    confirmed = await _confirmed(request, service, session)
    return await run_in_threadpool(_roll_back, web, service, session, confirmed)


def _roll_back(web: Web, service: Service, session: Session, confirmed: bool) -> Response:
    listed = generations.previous(service.opened)
    if not confirmed:
        missing = texts.text("switch.needed")
        return _switch_page(web, service, session, listed, back=True, missing=missing)
    try:
        generations.roll_back(service, actor=session.principal.actor_id)
    except HomewardError as error:
        return _switch_page(web, service, session, listed, back=True, error=error)
    return go("/generations?done=generation_switched")


@router.get("/generations/{contract_id}/switch")
def switch_page(
    web: WebDep, service: ServiceDep, session: Administrator, contract_id: ContractId
) -> Response:
    """Really bring it into use?"""
    listed = generations.listed(service.opened, contract_id)
    return _switch_page(web, service, session, listed, back=False)


@router.post("/generations/{contract_id}/switch")
async def switch(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Administrator,
    contract_id: ContractId,
) -> Response:
    """Bring a generation into use."""
    confirmed = await _confirmed(request, service, session)
    return await run_in_threadpool(_switch, web, service, session, contract_id, confirmed)


def _switch(
    web: Web, service: Service, session: Session, contract_id: str, confirmed: bool
) -> Response:
    listed = generations.listed(service.opened, contract_id)
    if not confirmed:
        missing = texts.text("switch.needed")
        return _switch_page(web, service, session, listed, back=False, missing=missing)
    try:
        generations.activate(service, contract_id, actor=session.principal.actor_id)
    except HomewardError as error:
        return _switch_page(web, service, session, listed, back=False, error=error)
    return go("/generations?done=generation_switched")


async def _confirmed(request: Request, service: Service, session: Session) -> bool:
    async with forms.page_form(request, service, session, ("confirm",)) as form:
        return forms.typed(form, ("confirm",)).value("confirm") == "yes"
