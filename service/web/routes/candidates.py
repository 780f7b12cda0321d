"""The whole picture of a candidate: masked until it is asked for, with a reason, on record."""

from __future__ import annotations

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import images, reveals
from service.deps import ServiceDep
from service.errors import Forbidden
from service.web import forms, pictures, views
from service.web.routes.common import CandidateId, CaseId, page_router
from service.web.routes.pictures import picture_answer
from service.web.state import Viewer, WebDep

router = page_router()


@router.get("/cases/{case_id}/candidates/{candidate_id}/picture")
def ask(
    web: WebDep,
    service: ServiceDep,
    session: Viewer,
    case_id: CaseId,
    candidate_id: CandidateId,
) -> Response:
    """Why is the whole picture needed?"""
    _, face = views.candidate_of(service.workspace, case_id, candidate_id)
    return web.pages.page(
        "reveal.html",
        session=session,
        case_id=case_id,
        candidate_id=candidate_id,
        face=face,
        reasons=reveals.REASONS,
        missing=False,
    )


@router.post("/cases/{case_id}/candidates/{candidate_id}/picture")
async def reveal(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Viewer,
    case_id: CaseId,
    candidate_id: CandidateId,
) -> Response:
    """Show the whole picture, and write down who looked and why."""
    async with forms.page_form(request, service, session, ("reason",)) as form:
        reason = forms.typed(form, ("reason",)).value("reason")
    _, face = await run_in_threadpool(views.candidate_of, service.workspace, case_id, candidate_id)
    if reason not in reveals.REASONS:
        return web.pages.page(
            "reveal.html",
            session=session,
            status=422,
            case_id=case_id,
            candidate_id=candidate_id,
            face=face,
            reasons=reveals.REASONS,
            missing=True,
        )
    await run_in_threadpool(reveals.reveal, service.workspace, case_id, candidate_id, reason)
    _, record = await service.pool.run(images.original, service.workspace, face.sha256)
    return web.pages.page(
        "revealed.html",
        session=session,
        case_id=case_id,
        candidate_id=candidate_id,
        face=face,
        record=record,
        seal=session.seal(candidate_id),
    )


@router.get("/cases/{case_id}/candidates/{candidate_id}/picture.jpg")
async def picture(
    service: ServiceDep,
    session: Viewer,
    case_id: CaseId,
    candidate_id: CandidateId,
    seal: str = Query(max_length=100),
) -> Response:
    """The picture itself, for a session that gave its reason."""
    if not session.sealed(candidate_id, seal):
        raise Forbidden(
            "The whole picture is shown only after a reason was given.",
            remedy="Ask for it from the list of candidates.",
        )
    await run_in_threadpool(reveals.still_allowed, service.workspace, case_id)
    _, face = await run_in_threadpool(views.candidate_of, service.workspace, case_id, candidate_id)
    return await picture_answer(service, pictures.whole_picture, face.sha256, (face.box,))
