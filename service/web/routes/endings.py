"""What ends something: found or closed, opened again, and deletions; each asks first."""

from __future__ import annotations

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import cases, forget
from indexer.records import CaseRecord, PhotoRecord
from models.errors import HomewardError
from service.deps import ServiceDep
from service.web import forms, texts
from service.web.routes.common import CaseId, PhotoId, beside, go, page_router
from service.web.sessions import Session
from service.web.state import CaseDeleter, CaseWriter, Web, WebDep

router = page_router()


def _page(
    web: Web,
    session: Session,
    template: str,
    case: CaseRecord,
    *,
    missing: str = "",
    error: HomewardError | None = None,
    photo: PhotoRecord | None = None,
    chosen: str = "",
) -> Response:
    problem, status = beside(error) if error is not None else (None, 422 if missing else 200)
    return web.pages.page(
        template,
        session=session,
        status=status,
        case=case,
        photo=photo,
        number=_number(case, photo),
        missing=missing,
        problem=problem,
        chosen=chosen,
    )


def _number(case: CaseRecord, photo: PhotoRecord | None) -> int:
    ids = [one.photo_id for one in case.photos]
    return ids.index(photo.photo_id) + 1 if photo is not None and photo.photo_id in ids else 0


@router.get("/cases/{case_id}/end")
def end_page(web: WebDep, service: ServiceDep, session: CaseWriter, case_id: CaseId) -> Response:
    """Found, or closed?"""
    return _page(web, session, "end.html", cases.get_case(service.workspace, case_id))


@router.post("/cases/{case_id}/end")
async def end(
    request: Request, web: WebDep, service: ServiceDep, session: CaseWriter, case_id: CaseId
) -> Response:
    """Take the case out of every search."""
    async with forms.page_form(request, service, session, ("status", "confirm")) as form:
        typed = forms.typed(form, ("status", "confirm"))
    status = typed.value("status")
    if status not in ("found", "closed") or typed.value("confirm") != "yes":
        case = await run_in_threadpool(cases.get_case, service.workspace, case_id)
        missing = texts.text("end.needed")
        return _page(web, session, "end.html", case, missing=missing, chosen=status)
    await run_in_threadpool(
        cases.update_case,
        service.workspace,
        case_id,
        {"status": status},
        actor=session.principal.actor_id,
    )
    web.held.drop_where(case_id=case_id)
    return go(f"/cases/{case_id}?done=case_ended")


@router.get("/cases/{case_id}/reopen")
def reopen_page(web: WebDep, service: ServiceDep, session: CaseWriter, case_id: CaseId) -> Response:
    """Really open it again?"""
    return _page(web, session, "reopen.html", cases.get_case(service.workspace, case_id))


@router.post("/cases/{case_id}/reopen")
async def reopen(
    request: Request, web: WebDep, service: ServiceDep, session: CaseWriter, case_id: CaseId
) -> Response:
    """Enrol and search again."""
    async with forms.page_form(request, service, session):
        pass
    await run_in_threadpool(
        cases.update_case,
        service.workspace,
        case_id,
        {"status": "open"},
        actor=session.principal.actor_id,
    )
    service.runner.wake()
    return go(f"/cases/{case_id}?done=case_reopened")


@router.get("/cases/{case_id}/delete")
def delete_page(
    web: WebDep, service: ServiceDep, session: CaseDeleter, case_id: CaseId
) -> Response:
    """Really forget the case?"""
    return _page(web, session, "delete_case.html", cases.get_case(service.workspace, case_id))


@router.post("/cases/{case_id}/delete")
async def delete(
    request: Request, web: WebDep, service: ServiceDep, session: CaseDeleter, case_id: CaseId
) -> Response:
    """Forget the case."""
    async with forms.page_form(request, service, session, ("confirm",)) as form:
        confirmed = forms.typed(form, ("confirm",)).value("confirm") == "yes"
    case = await run_in_threadpool(cases.get_case, service.workspace, case_id)
    if not confirmed:
        missing = texts.text("delete.needed")
        return _page(web, session, "delete_case.html", case, missing=missing)
    try:
        await run_in_threadpool(
            forget.forget_case, service.workspace, case_id, actor=session.principal.actor_id
        )
    except HomewardError as error:
        return _page(web, session, "delete_case.html", case, error=error)
    web.held.drop_where(case_id=case_id)
    return go("/cases?done=case_deleted")


@router.get("/cases/{case_id}/photos/{photo_id}/delete")
def delete_photo_page(
    web: WebDep, service: ServiceDep, session: CaseDeleter, case_id: CaseId, photo_id: PhotoId
) -> Response:
    """Really forget the photo?"""
    photo = cases.get_photo(service.workspace, case_id, photo_id)
    case = cases.get_case(service.workspace, case_id)
    return _page(web, session, "delete_photo.html", case, photo=photo)


@router.post("/cases/{case_id}/photos/{photo_id}/delete")
async def delete_photo(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: CaseDeleter,
    case_id: CaseId,
    photo_id: PhotoId,
) -> Response:
    """Forget the photo."""
    async with forms.page_form(request, service, session, ("confirm",)) as form:
        confirmed = forms.typed(form, ("confirm",)).value("confirm") == "yes"
    photo = await run_in_threadpool(cases.get_photo, service.workspace, case_id, photo_id)
    case = await run_in_threadpool(cases.get_case, service.workspace, case_id)
    if not confirmed:
        missing = texts.text("delete.needed")
        return _page(web, session, "delete_photo.html", case, missing=missing, photo=photo)
    try:
        await run_in_threadpool(
            forget.forget_photo,
            service.workspace,
            case_id,
            photo_id,
            actor=session.principal.actor_id,
        )
    except HomewardError as error:
        return _page(web, session, "delete_photo.html", case, error=error, photo=photo)
    return go(f"/cases/{case_id}?done=photo_deleted")
