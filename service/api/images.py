"""Original bytes of images, and crops of faces."""

from __future__ import annotations

import io
from typing import Annotated

from fastapi import Depends, Response
from PIL import Image

from indexer import images
from indexer.workspace import Workspace
from service.accounts.keys import Principal
from service.api.common import FaceId, ImageSha, problems, router
from service.deps import ServiceDep, requires

api = router("images")

Reader = Annotated[Principal, Depends(requires("images:read"))]

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


@api.get(
    "/faces/{face_id}/crop",
    response_class=Response,
    responses={
        200: {"description": "The aligned face", "content": {"image/jpeg": _BINARY}},
        **problems(404),
    },
)
async def crop(service: ServiceDep, principal: Reader, face_id: FaceId) -> Response:
    """The aligned crop of one face, 224 pixels square, as JPEG."""
    data = await service.pool.run(crop_jpeg, service.workspace, face_id)
    disposition = f'inline; filename="{face_id}.jpg"'
    return Response(
        data,
        media_type="image/jpeg",
        headers={**PICTURE_HEADERS, "content-disposition": disposition},
    )


def crop_jpeg(workspace: Workspace, face_id: str) -> bytes:
    """The aligned crop as JPEG bytes. Raises FaceNotFound."""
    pixels = images.crop(workspace, face_id, CROP_SIZE)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "JPEG", quality=CROP_QUALITY)
    return buffer.getvalue()
