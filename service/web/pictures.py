"""Pictures for the pages: renditions made here, so that a browser never decodes a stranger's file.

Originals stay as they are; the interface serves them byte for byte.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from indexer import images
from indexer.blobs import sha256_hex
from indexer.errors import PictureWithheld
from indexer.faces import summaries
from indexer.records import FaceSummary
from indexer.withheld.checks import NO_DIGESTS, Digests
from indexer.withheld.shown import digests_of_upload, is_withheld_by
from indexer.workspace import Workspace
from models.decode import decode
from models.types import Box, RgbImage

CROP_SIZE: Final = 224
PREVIEW_SIDE: Final = 1200
_QUALITY: Final = 90
_LINE: Final = (255, 214, 10)
_INK: Final = (20, 20, 20)


@dataclass(frozen=True, slots=True)
class Examined:
    """A photo that is not stored, ready to be shown: JPEG files and what was found. ``digests``:
    what it may be withheld by later."""

    faces: tuple[FaceSummary, ...]
    preview: bytes
    crops: tuple[bytes, ...]
    digests: Digests = NO_DIGESTS


def face_crop(ws: Workspace, face_id: str) -> bytes:
    """The aligned crop of a stored face as JPEG. Raises FaceNotFound and the storage errors."""
    return _jpeg(images.crop(ws, face_id, CROP_SIZE))


def whole_picture(ws: Workspace, sha256: str, marked: Sequence[Box] = ()) -> bytes:
    """A stored picture, upright and at most ``PREVIEW_SIDE`` wide or high, with boxes drawn.

    Raises ImageNotFound and the storage errors.
    """
    data, _ = images.original(ws, sha256)
    return _preview(decode(data, ws.limits).pixels, marked, numbered=False)


def held_picture(ws: Workspace, sha256: str, digests: Digests, made: bytes) -> bytes:
    """A picture made of a photo that is not stored, unless that was withheld since; raises
    PictureWithheld then, and where nothing was made because it was withheld before."""
    if not made or is_withheld_by(ws, sha256, digests):
        raise PictureWithheld
    return made


def examine(ws: Workspace, data: bytes) -> Examined:
    """Find the faces of a photo and make the pictures to choose from; none are made of a photo
    that is withheld, which can be searched with all the same.

    Raises ImageRejected.
    """
    image, faces = images.examine(ws, data)
    digests = digests_of_upload(ws, data)
    if is_withheld_by(ws, sha256_hex(data), digests):
        return Examined(summaries(faces), b"", (b"",) * len(faces), digests)
    return Examined(
        faces=summaries(faces),
        preview=_preview(image.pixels, [face.box for face in faces], numbered=True),
        crops=tuple(
            _jpeg(ws.analyser.crop(image.pixels, face.landmarks, CROP_SIZE)) for face in faces
        ),
        digests=digests,
    )


def _preview(pixels: RgbImage, boxes: Sequence[Box], *, numbered: bool) -> bytes:
    picture = Image.fromarray(pixels)
    zoom = min(1.0, PREVIEW_SIDE / max(picture.size))
    if zoom < 1.0:
        size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for number, box in enumerate(boxes, start=1):
        corners = (box.x * zoom, box.y * zoom, box.right * zoom, box.bottom * zoom)
        # Dark below light: seen on any background.
        draw.rectangle(corners, outline=_INK, width=5)
        draw.rectangle(corners, outline=_LINE, width=3)
        if numbered:
            _number(draw, str(number), max(0.0, corners[0]), max(0.0, corners[1]), picture.height)
    return _jpeg(np.asarray(picture))


def _number(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, height: int) -> None:
    font = ImageFont.load_default(size=max(14, height // 36))
    left, top, right, bottom = draw.textbbox((x + 5, y + 2), text, font=font)
    draw.rectangle((left - 5, top - 4, right + 5, bottom + 4), fill=_LINE)
    draw.text((x + 5, y + 2), text, fill=_INK, font=font)


def _jpeg(pixels: RgbImage) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
