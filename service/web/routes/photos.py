"""Adding a photo: choose a file, choose the face where there are several, enrol."""

from __future__ import annotations

from datetime import date

from fastapi import Request
from starlette.responses import Response

from indexer import cases
from indexer.errors import SeveralFacesFound
from indexer.records import PhotoReceipt
from models.errors import HomewardError
from service.deps import ServiceDep
from service.errors import BadRequestBody, Forbidden
from service.state import Service
from service.web import forms, pictures, texts
from service.web.forms import Typed
from service.web.held import HeldPhoto, HeldPhotoGone
from service.web.routes.cases import show_case
from service.web.routes.common import CaseId, HeldId, beside, go, page_router
from service.web.sessions import Session
from service.web.state import CaseWriter, Viewer, Web, WebDep

router = page_router()


@router.post("/cases/{case_id}/photos")
async def add_photo(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: CaseWriter,
    _viewer: Viewer,
    case_id: CaseId,
) -> Response:
    """Enrol the face of a photo; where there are several, hold it and ask which."""
    typed = Typed()
    try:
        async with forms.page_form(request, service, session, ("taken_on",), file=True) as form:
            typed = forms.typed(form, ("taken_on",))
            part = forms.chosen_file(form, typed)
            wishes = forms.photo_wishes(typed)
            if part is None or typed.errors:
                return await show_case(web, service, session, case_id, typed=typed, status=422)
            data, filename = part.read(), part.filename
        receipt = await _enrol(service, case_id, data, filename, None, wishes.taken_on)
    except SeveralFacesFound:
        found = await service.pool.run(pictures.examine, service.workspace, data)
        held = HeldPhoto.of(found, session.session_id, case_id, "enrol", data, filename, wishes)
        web.held.put(held)
        return go(f"/cases/{case_id}/photos/choose/{held.held_id}")
    except Forbidden:
        raise
    except (HomewardError, BadRequestBody) as error:
        return await show_case(web, service, session, case_id, typed=typed, error=error)
    return go(f"/cases/{case_id}?done={'photo_added' if receipt.created else 'photo_known'}")


async def _enrol(
    service: Service,
    case_id: str,
    data: bytes,
    filename: str | None,
    face_index: int | None,
    taken_on: date | None,
) -> PhotoReceipt:
    receipt = await service.pool.run(
        cases.add_photo,
        service.workspace,
        case_id,
        data,
        filename=filename,
        face_index=face_index,
        taken_on=taken_on,
    )
    service.runner.wake()
    return receipt


@router.get("/cases/{case_id}/photos/choose/{held_id}")
async def choose_page(
    web: WebDep, session: CaseWriter, _viewer: Viewer, case_id: CaseId, held_id: HeldId
) -> Response:
    """The photo with its numbered faces."""
    return choose(web, session, _waiting(web, session, case_id, held_id))


def choose(
    web: Web,
    session: Session,
    held: HeldPhoto,
    *,
    error: HomewardError | None = None,
    missing: bool = False,
) -> Response:
    """The page on which one of several faces is chosen."""
    problem, status = beside(error) if error is not None else (None, 422 if missing else 200)
    return web.pages.page(
        "choose.html",
        session=session,
        status=status,
        held=held,
        problem=problem,
        missing=texts.text("choose.missing") if missing else "",
    )


@router.post("/cases/{case_id}/photos/choose/{held_id}")
async def enrol_chosen(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: CaseWriter,
    _viewer: Viewer,
    case_id: CaseId,
    held_id: HeldId,
) -> Response:
    """Enrol the face that was chosen."""
    held = _waiting(web, session, case_id, held_id)
    async with forms.page_form(request, service, session, ("face_index",)) as form:
        index = forms.face_index(form)
    if index is None:
        return choose(web, session, held, missing=True)
    try:
        receipt = await _enrol(
            service, case_id, held.data, held.filename, index, held.wishes.taken_on
        )
    except HomewardError as error:
        return choose(web, session, held, error=error)
    web.held.drop(held_id)
    return go(f"/cases/{case_id}?done={'photo_added' if receipt.created else 'photo_known'}")


def _waiting(web: Web, session: Session, case_id: str, held_id: str) -> HeldPhoto:
    held = web.held.get(held_id, session.session_id)
    if held.case_id != case_id or held.aim != "enrol":
        raise HeldPhotoGone("This photo waits for something else.")
    return held
