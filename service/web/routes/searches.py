"""Searching the ads for a case with a photo that is not enrolled and not kept."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request
from starlette.responses import Response

from indexer import cases
from indexer.records import CaseRecord
from indexer.searchable import require_searchable_case
from indexer.searches import PURPOSES
from models.errors import HomewardError
from service.deps import ServiceDep
from service.errors import Forbidden
from service.search.rank import photo_candidates
from service.state import Service
from service.web import forms, pictures, views
from service.web.forms import Typed
from service.web.held import HeldPhoto, HeldPhotoGone
from service.web.routes.common import CaseId, HeldId, beside, go, page_router
from service.web.routes.photos import choose
from service.web.sessions import Session
from service.web.state import Searcher, Viewer, Web, WebDep

router = page_router()


def _form_page(
    web: Web,
    service: Service,
    session: Session,
    case: CaseRecord,
    typed: Typed,
    *,
    error: HomewardError | None = None,
    status: int = 200,
) -> Response:
    problem = None
    if error is not None:
        problem, status = beside(error)
    return web.pages.page(
        "search.html",
        session=session,
        status=status,
        case=case,
        typed=typed,
        problem=problem,
        purposes=PURPOSES,
        limit=service.settings.max_image_bytes,
    )


@router.get("/cases/{case_id}/search")
def search_page(
    web: WebDep, service: ServiceDep, session: Searcher, _viewer: Viewer, case_id: CaseId
) -> Response:
    """The form: a photo, a purpose, and which ads to look at."""
    case = cases.get_case(service.workspace, case_id)
    return _form_page(web, service, session, case, Typed({"purpose": case.default_purpose or ""}))


@router.post("/cases/{case_id}/search")
async def search(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Searcher,
    _viewer: Viewer,
    case_id: CaseId,
) -> Response:
    """Search with the face of the photo; where there are several, hold it and ask which."""
    case = await service.pool.run(cases.get_case, service.workspace, case_id)
    typed = Typed()
    try:
        async with forms.page_form(
            request, service, session, forms.SEARCH_FIELDS, file=True
        ) as form:
            typed = forms.typed(form, forms.SEARCH_FIELDS)
            part = forms.chosen_file(form, typed)
            wishes = forms.search_wishes(typed)
            if part is None or typed.errors:
                return _form_page(web, service, session, case, typed, status=422)
            data, filename = part.read(), part.filename
        # Before a face is chosen in vain.
        await service.pool.run(require_searchable_case, service.workspace, case_id)
        found = await service.pool.run(pictures.examine, service.workspace, data)
        held = HeldPhoto.of(found, session.session_id, case_id, "search", data, filename, wishes)
        if len(found.faces) > 1:
            web.held.put(held)
            return go(f"/cases/{case_id}/search/choose/{held.held_id}")
        return await _results(web, service, session, case, held, None)
    except Forbidden:
        raise
    except HomewardError as error:
        return _form_page(web, service, session, case, typed, error=error)


@router.get("/cases/{case_id}/search/choose/{held_id}")
async def choose_page(
    web: WebDep, session: Searcher, _viewer: Viewer, case_id: CaseId, held_id: HeldId
) -> Response:
    """The photo with its numbered faces."""
    return choose(web, session, _waiting(web, session, case_id, held_id))


@router.post("/cases/{case_id}/search/choose/{held_id}")
async def search_chosen(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Searcher,
    _viewer: Viewer,
    case_id: CaseId,
    held_id: HeldId,
) -> Response:
    """Search with the face that was chosen."""
    held = _waiting(web, session, case_id, held_id)
    case = await service.pool.run(cases.get_case, service.workspace, case_id)
    async with forms.page_form(request, service, session, ("face_index",)) as form:
        index = forms.face_index(form)
    if index is None:
        return choose(web, session, held, missing=True)
    try:
        return await _results(web, service, session, case, held, index)
    except HomewardError as error:
        return choose(web, session, held, error=error)


async def _results(
    web: Web,
    service: Service,
    session: Session,
    case: CaseRecord,
    held: HeldPhoto,
    face_index: int | None,
) -> Response:
    found = await service.pool.run(
        photo_candidates,
        service.workspace,
        case.case_id,
        held.data,
        purpose=held.wishes.purpose,
        purpose_note=held.wishes.purpose_note,
        actor=session.principal.actor_id,
        face_index=face_index,
        k=views.LIST_LENGTH,
        filters=held.wishes.filters,
    )
    service.metrics.searches.inc()
    # Only the pictures are still needed, for as long as the page is looked at; where the face
    # was chosen among several, the photo stays too, so that another one can be tried.
    web.held.put(held if len(held.faces) > 1 else replace(held, data=b""))
    crop = f"/held/{held.held_id}/faces/{found.face_index}"
    return web.pages.page(
        "results.html",
        session=session,
        case=case,
        listed=views.list_view(found, person_crop=crop),
        found=found,
        quality=found.faces[found.face_index].quality,
        crop=crop,
    )


def _waiting(web: Web, session: Session, case_id: str, held_id: str) -> HeldPhoto:
    held = web.held.get(held_id, session.session_id)
    if held.case_id != case_id or held.aim != "search" or not held.data:
        raise HeldPhotoGone("This photo waits for something else.")
    return held
