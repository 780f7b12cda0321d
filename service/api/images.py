"""Original bytes of images, and crops of faces."""

from __future__ import annotations

import io
from typing import Annotated

from fastapi import Depends, Request, Response
from PIL import Image

from indexer import images, staging
from indexer.blobs import Received
from indexer.errors import DigestMismatch, ImageNotFound
from indexer.workspace import Workspace
from service.accounts.principal import Principal
from service.api.common import FaceId, ImageSha, problems, router
from service.api.schemas.ads import StagedOut
from service.api.schemas.common import SHA256_PATTERN
from service.deps import ServiceDep, requires
from service.rawbody import receive_image

api = router("images")

Reader = Annotated[Principal, Depends(requires("images:read"))]
Writer = Annotated[Principal, Depends(requires("ads:write"))]

MEDIA_TYPES = {
    "jpeg": ("image/jpeg", "jpg"),
    "png": ("image/png", "png"),
    "webp": ("image/webp", "webp"),
    "avif": ("image/avif", "avif"),
    "heic": ("image/heic", "heic"),
    "gif": ("image/gif", "gif"),
    "bmp": ("image/bmp", "bmp"),
    "tiff": ("image/tiff", "tif"),
}
CROP_SIZE = 224
CROP_QUALITY = 92

SOURCE_HEADER = "x-source-sha256"
"""Which original a picture was made from."""

PICTURE_HEADERS = {
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store, private",
}
"""Bytes from strangers: shown as a picture or not at all, and kept in no cache."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@api.get(
    "/images/{sha256}",
    response_class=Response,
    responses={
        200: {
            "description": "The bytes as they were received",
            "content": dict.fromkeys(
                [*sorted({m for m, _ in MEDIA_TYPES.values()}), "application/octet-stream"], _BINARY
            ),
        },
        **problems(404),
    },
)
async def original(service: ServiceDep, principal: Reader, sha256: ImageSha) -> Response:
    """An original, unchanged; its digest is checked as it is read."""
    data, record = await service.pool.run(images.original, service.workspace, sha256)
    media_type, extension = MEDIA_TYPES.get(record.format, ("application/octet-stream", "bin"))
    disposition = f'inline; filename="{sha256[:16]}.{extension}"'
    return Response(
        data,
        media_type=media_type,
        headers={**PICTURE_HEADERS, "content-disposition": disposition},
    )


@api.put(
    "/images/{sha256}",
    status_code=201,
    response_model=StagedOut,
    responses={
        200: {"description": "The bytes are known", "model": StagedOut},
        **problems(404, 408, 413, 415, 422, 507),
    },
    openapi_extra={
        "requestBody": {
            "description": "The file as it is; nothing to ask whether it has to be sent",
            "content": {"application/octet-stream": _BINARY},
        }
    },
)
async def stage(
    request: Request, response: Response, service: ServiceDep, principal: Writer, sha256: ImageSha
) -> StagedOut:
    """Send an image ahead of the ads that name it, once; an empty body asks whether it is known.

    Known are images of ads and those that wait for one. Photos of cases are never spoken of.
    """
    limit = service.settings.max_image_bytes
    workspace = service.workspace
    async with (
        service.upload_slot(),
        receive_image(request, workspace.blobs, limit) as file,
    ):
        stored = await service.pool.run(_stage, workspace, sha256, file, principal.actor_id)
    response.status_code = 201 if stored else 200
    return StagedOut(sha256=sha256, status="stored" if stored else "known")


def _stage(workspace: Workspace, sha256: str, file: Received, actor: str) -> bool:
    if file.size == 0:
        if not staging.is_known(workspace, sha256):
            raise ImageNotFound(sha256)
        return False
    if file.sha256 != sha256:
        raise DigestMismatch(file.sha256)
    return staging.stage(workspace, file, actor)


@api.get(
    "/faces/{face_id}/crop",
    response_class=Response,
    responses={
        200: {
            "description": "The aligned face",
            "content": {"image/jpeg": _BINARY},
            "headers": {
                "X-Source-Sha256": {
                    "description": "The original that it was made from",
                    "schema": {"type": "string", "pattern": SHA256_PATTERN},
                }
            },
        },
        **problems(404),
    },
)
async def crop(service: ServiceDep, principal: Reader, face_id: FaceId) -> Response:
    """The aligned crop of one face, 224 pixels square, as JPEG."""
    source, data = await service.pool.run(crop_jpeg, service.workspace, face_id)
    disposition = f'inline; filename="{face_id}.jpg"'
    return Response(
        data,
        media_type="image/jpeg",
        headers={
            **PICTURE_HEADERS,
            "content-disposition": disposition,
            SOURCE_HEADER: source,
        },
    )


def crop_jpeg(workspace: Workspace, face_id: str) -> tuple[str, bytes]:
    """SHA-256 of the original, and the aligned crop of it as JPEG bytes. Raises FaceNotFound,
    PictureWithheld."""
    source = images.get_face(workspace, face_id).sha256
    pixels = images.crop(workspace, face_id, CROP_SIZE)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "JPEG", quality=CROP_QUALITY)
    return source, buffer.getvalue()
