"""What the format readers share: limits, header, the loaded picture, rejections, orientation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from models.errors import ImageRejected
from models.types import RgbImage

ImageFormat = Literal["jpeg", "png", "webp", "avif", "heic", "gif", "bmp", "tiff"]

# Above this many pixels Pillow warns of a decompression bomb (its default MAX_IMAGE_PIXELS).
# Staying below keeps its global switch, and the warning, out of the matter.
PIXEL_CEILING = 89_478_485

MAX_PROFILE_BYTES = 4 * 1024 * 1024
"""Colour profiles above this size are not read. Large press profiles have about 3 MB."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What an image may cost.

    ``max_bytes``: size of the file. ``max_pixels``: width x height of its canvas, at most
    89,478,485. ``allow_truncated``: decode a JPEG that breaks off as far as it goes, marked as
    truncated, instead of refusing it.
    """

    max_bytes: int = 25_000_000
    max_pixels: int = 64_000_000
    allow_truncated: bool = False

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if not 1 <= self.max_pixels <= PIXEL_CEILING:
            raise ValueError(f"max_pixels must lie between 1 and {PIXEL_CEILING}")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image say.

    ``width`` and ``height`` are in pixels as stored, before the orientation is applied.
    ``frames`` is 1 for a still image; an animation or a file of several pages has more
    (counted no further than 1,000).
    """

    format: ImageFormat
    width: int
    height: int
    frames: int = 1


@dataclass(slots=True)
class Loaded:
    """The first frame as stored, with what is needed to make upright sRGB of it.

    ``image`` is either a Pillow image of any mode or a finished RGB array. ``orientation`` is
    the EXIF value, 1 to 8. ``sample_bits`` counts for 16-bit grey modes: how many of the bits
    are used. ``notes`` are the codes that end up in ``DecodedImage.notes``.
    """

    image: Image.Image | RgbImage
    icc: bytes | None = None
    orientation: int = 1
    sample_bits: int = 16
    inverted: bool = False
    truncated: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reader:
    """``header`` reads the header alone; ``load`` decodes the first frame as stored."""

    header: Callable[[bytes], ImageHeader]
    load: Callable[[bytes, DecodeLimits], Loaded]


def corrupt(detail: str) -> ImageRejected:
    return ImageRejected(
        "image_corrupt",
        f"The image is damaged: {detail}.",
        remedy="Fetch the image again from its source, or send another copy of it.",
    )


def truncated(detail: str) -> ImageRejected:
    return ImageRejected(
        "image_truncated",
        f"The image breaks off before its end: {detail}.",
        remedy="Fetch the image again; the transfer was probably cut short.",
    )


def unsupported(detail: str) -> ImageRejected:
    return ImageRejected(
        "unsupported_format",
        detail,
        remedy="Send a JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF image.",
    )


def too_many_pixels(width: int, height: int, limit: int) -> ImageRejected:
    return ImageRejected(
        "too_many_pixels",
        f"The image has {width} x {height} pixels; at most {limit:,} are accepted.",
        remedy="Send a smaller copy of the image, or raise the pixel limit.",
    )


def is_padding(data: bytes) -> bool:
    """Whether bytes behind an image are mere padding (zeros, line ends) and not worth a note."""
    return not data.strip(b"\0\r\n\t ")


def exif_orientation(exif: bytes) -> int:
    """Read the orientation from an EXIF block: 1 to 8, and 1 where there is none or nonsense.

    ``exif`` starts with the TIFF header, or with ``Exif\\0\\0`` and then the TIFF header.
    Only tag 0x0112 of the first directory is read (EXIF 2.32, section 4.6.4).
    """
    if exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHL", exif, at)
            if tag == 0x0112:
                value: int = struct.unpack_from(f"{order}H", exif, at + 8)[0]
                return value if kind == 3 and values == 1 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
