"""Pictures in the pages, and the files of our own that pages refer to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import cases
from indexer.errors import PictureWithheld
from models.errors import HomewardError
from service.deps import ServiceDep
from service.errors import ProblemHTTPException
from service.state import Service
from service.web import pictures, texts
from service.web.held import HeldPhotoGone
from service.web.routes.common import CaseId, FaceId, HeldId, PhotoId, page_router
from service.web.state import CaseReader, Viewer, WebDep

router = page_router()

Work = Callable[..., bytes]

_PICTURE_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store, private",
    "content-disposition": "inline",
}
_ASSET_HEADERS: Final = {"cache-control": "public, max-age=31536000, immutable"}


def jpeg_answer(data: bytes) -> Response:
    """A picture that no cache keeps."""
    return Response(data, media_type="image/jpeg", headers=_PICTURE_HEADERS)


async def picture_answer(service: Service, work: Work, *arguments: object) -> Response:
    """The picture that ``work`` makes of the workspace and the arguments; where it is withheld, a
    neutral one that says so, with the status that says so to programs."""
    try:
        return jpeg_answer(await service.pool.run(work, service.workspace, *arguments))
    except PictureWithheld:
        return Response(
            _PLACEHOLDER, status_code=403, media_type="image/svg+xml", headers=_PICTURE_HEADERS
        )


_PLACEHOLDER: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="224" height="224" viewBox="0 0 224 224">'
    '<rect width="224" height="224" fill="#8a8f98"/><text x="112" y="118" text-anchor="middle" '
    f'font-family="sans-serif" font-size="20" fill="#fff">{texts.text("picture.withheld")}</text>'
    "</svg>"
)


@router.get("/static/{name}")
async def asset(web: WebDep, name: str) -> Response:
    """The stylesheet or the icon; their addresses carry their version."""
    found = web.pages.assets.get(name)
    if found is None:
        raise ProblemHTTPException(
            HomewardError("There is nothing at this address.", code="not_found")
        )
    return Response(found.data, media_type=found.media_type, headers=_ASSET_HEADERS)


@router.get("/faces/{face_id}")
async def face(service: ServiceDep, _session: Viewer, face_id: FaceId) -> Response:
    """The aligned crop of a stored face."""
    return await picture_answer(service, pictures.face_crop, face_id)


@router.get("/cases/{case_id}/photos/{photo_id}/whole")
async def whole_photo_page(
    web: WebDep,
    service: ServiceDep,
    session: CaseReader,
    _viewer: Viewer,
    case_id: CaseId,
    photo_id: PhotoId,
) -> Response:
    """A photo of a case as a page."""
    case = await run_in_threadpool(cases.get_case, service.workspace, case_id)
    photo = await run_in_threadpool(cases.get_photo, service.workspace, case_id, photo_id)
    return web.pages.page("photo.html", session=session, case=case, photo=photo)


@router.get("/cases/{case_id}/photos/{photo_id}/whole.jpg")
async def whole_photo(
    service: ServiceDep, _session: CaseReader, _viewer: Viewer, case_id: CaseId, photo_id: PhotoId
) -> Response:
    """The photo with its enrolled face framed."""
    photo = await run_in_threadpool(cases.get_photo, service.workspace, case_id, photo_id)
    return await picture_answer(service, pictures.whole_picture, photo.sha256, (photo.box,))


@router.get("/held/{held_id}/preview")
async def held_preview(
    web: WebDep, service: ServiceDep, session: Viewer, held_id: HeldId
) -> Response:
    """A photo that waits for a choice, with its numbered faces."""
    held = web.held.get(held_id, session.session_id)
    return await picture_answer(
        service, pictures.held_picture, held.sha256, held.digests, held.preview
    )


@router.get("/held/{held_id}/faces/{index}")
async def held_face(
    web: WebDep, service: ServiceDep, session: Viewer, held_id: HeldId, index: int
) -> Response:
    """One face of a photo that waits."""
    held = web.held.get(held_id, session.session_id)
    if not 0 <= index < len(held.crops):
        raise HeldPhotoGone("There is no such face in this photo.")
    return await picture_answer(
        service, pictures.held_picture, held.sha256, held.digests, held.crops[index]
    )
