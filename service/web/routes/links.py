"""Leads that another agency has too: asking its owner, and answering."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import links
from indexer.errors import LinkRequestNotFound
from models.errors import HomewardError
from service.deps import ServiceDep, canonical_id
from service.state import Service
from service.web import forms, texts, views
from service.web.forms import Typed
from service.web.routes.common import CandidateId, CaseId, beside, done_text, go, page_router
from service.web.sessions import Session
from service.web.state import Web, WebDep, requires

router = page_router()

Asker = Annotated[Session, Depends(requires("links:ask"))]
Answerer = Annotated[Session, Depends(requires("links:answer"))]
LinkRequestId = Annotated[str, Path(max_length=60)]
Cursor = Annotated[str | None, Query(max_length=200)]
Done = Annotated[str | None, Query(max_length=40)]

ASK_FIELDS: Final = ("link_id", "note")
ANSWER_FIELDS: Final = ("decision", "answer")
_LONGEST: Final = 2_000


@router.get("/links")
def question_list(
    web: WebDep, service: ServiceDep, session: Asker, cursor: Cursor = None, done: Done = None
) -> Response:
    """What was asked, both ways."""
    page = links.list_questions(service.workspace, agency=session.principal.agency, cursor=cursor)
    return web.pages.page(
        "links.html", session=session, page=page, first=cursor is None, done=done_text(done)
    )


@router.get("/cases/{case_id}/candidates/{candidate_id}/link")
def ask_page(
    web: WebDep,
    service: ServiceDep,
    session: Asker,
    case_id: CaseId,
    candidate_id: CandidateId,
) -> Response:
    """The form to ask."""
    return _ask(web, service, session, case_id, candidate_id)


@router.post("/cases/{case_id}/candidates/{candidate_id}/link")
async def ask(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Asker,
    case_id: CaseId,
    candidate_id: CandidateId,
) -> Response:
    """Put the question."""
    async with forms.page_form(request, service, session, ASK_FIELDS) as form:
        typed = forms.typed(form, ASK_FIELDS)

    def work() -> Response:
        views.candidate_of(service.workspace, case_id, candidate_id)
        try:
            links.ask(
                service.workspace,
                candidate_id,
                link_id=typed.value("link_id") or None,
                note=typed.value("note")[:_LONGEST],
            )
        except HomewardError as error:
            return _ask(web, service, session, case_id, candidate_id, typed=typed, error=error)
        return go("/links?done=link_asked")

    return await run_in_threadpool(work)


def _ask(
    web: Web,
    service: Service,
    session: Session,
    case_id: str,
    candidate_id: str,
    *,
    typed: Typed | None = None,
    error: HomewardError | None = None,
) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    views.candidate_of(service.workspace, case_id, candidate_id)
    found = links.links_of(service.workspace, [candidate_id]).get(candidate_id, ())
    return web.pages.page(
        "link_ask.html",
        session=session,
        status=status,
        case_id=case_id,
        candidate_id=candidate_id,
        links=[one for one in found if one.state in (None, "declined")],
        typed=typed or Typed(),
        problem=problem,
    )


@router.get("/links/{link_request_id}")
def question_page(
    web: WebDep, service: ServiceDep, session: Asker, link_request_id: LinkRequestId
) -> Response:
    """One question, and the form to answer it for who was asked."""
    return _question(web, service, session, link_request_id)


@router.post("/links/{link_request_id}")
async def answer(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Answerer,
    link_request_id: LinkRequestId,
) -> Response:
    """Answer the question."""
    async with forms.page_form(request, service, session, ANSWER_FIELDS) as form:
        typed = forms.typed(form, ANSWER_FIELDS)

    def work() -> Response:
        decision = typed.value("decision")
        if decision not in ("share", "decline"):
            typed.errors["decision"] = texts.text("field.choose")
            return _question(web, service, session, link_request_id, typed=typed, status=422)
        try:
            links.answer(
                service.workspace,
                _known(link_request_id),
                "share" if decision == "share" else "decline",
                text=typed.value("answer")[:_LONGEST],
                agency=session.principal.agency,
            )
        except HomewardError as error:
            return _question(web, service, session, link_request_id, typed=typed, error=error)
        return go("/links?done=link_answered")

    return await run_in_threadpool(work)


def _question(
    web: Web,
    service: Service,
    session: Session,
    link_request_id: str,
    *,
    typed: Typed | None = None,
    error: HomewardError | None = None,
    status: int = 200,
) -> Response:
    problem = None
    if error is not None:
        problem, status = beside(error)
    one = links.get_question(
        service.workspace, _known(link_request_id), agency=session.principal.agency
    )
    return web.pages.page(
        "link.html",
        session=session,
        status=status,
        one=one,
        may_answer=one.side == "received"
        and one.state == "asked"
        and session.principal.may("links:answer"),
        typed=typed or Typed(),
        problem=problem,
    )


def _known(link_request_id: str) -> str:
    """Raises :class:`LinkRequestNotFound` for what is no id."""
    found = canonical_id(link_request_id)
    if found is None:
        raise LinkRequestNotFound(link_request_id[:60])
    return found
