"""Seeds of every format, and the one property that every input must fulfil."""

from __future__ import annotations

import struct
import traceback
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar, get_args

import cv2
import numpy as np
from PIL import Image

from models.decode import DecodeLimits, decode, inspect
from models.errors import ImageCode, ImageRejected
from models.types import DecodedImage
from tests.models import images as im

T = TypeVar("T")

LIMITS = DecodeLimits(max_bytes=1_000_000, max_pixels=1_000_000)

CODES = frozenset(get_args(ImageCode))


@cache
def seeds() -> dict[str, bytes]:
    """Small real files: every format in its usual variants."""
    picture, plain = im.textured(48, 40), im.quarters(48, 40)
    clear = plain.convert("RGBA")
    clear.putalpha(100)
    palette = picture.convert("P")
    exif, icc = im.exif(6), im.swapped_profile()
    grey16 = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    return {
        "jpeg": im.encode(picture, "jpeg", quality=70, exif=exif),
        "jpeg_progressive": im.encode(picture, "jpeg", quality=50, progressive=True),
        "jpeg_grey": im.encode(picture.convert("L"), "jpeg", quality=50),
        "jpeg_cmyk": im.encode(picture.convert("CMYK"), "jpeg", quality=50),
        "jpeg_restarts": im.encode(picture, "jpeg", restart_marker_blocks=2),
        "jpeg_profile": im.encode(plain, "jpeg", icc_profile=icc),
        "png": im.encode(picture, "png", exif=exif),
        "png_palette": im.encode(palette, "png", transparency=3),
        "png_clear": im.encode(clear, "png", icc_profile=icc),
        "png_animated": im.animation("png"),
        "png_grey16": im.encode(Image.fromarray(grey16), "png"),
        "webp": im.encode(picture, "webp"),
        "webp_lossless": im.encode(picture, "webp", lossless=True),
        "webp_clear": im.encode(clear, "webp", exif=exif, icc_profile=icc),
        "webp_animated": im.animation("webp"),
        "gif": im.encode(picture, "gif"),
        "gif_animated": im.animation("gif"),
        "gif_interlaced": im.encode(palette, "gif", interlace=1, transparency=2),
        "bmp": im.encode(plain, "bmp"),
        "bmp_palette": im.encode(palette, "bmp"),
        "tiff": im.encode(picture, "tiff"),
        "tiff_big": im.encode(plain, "tiff", big_tiff=True),
        "tiff_lzw": im.encode(picture, "tiff", compression="tiff_lzw"),
        "tiff_deflate": im.encode(clear, "tiff", compression="tiff_adobe_deflate"),
        "tiff_jpeg": im.encode(picture, "tiff", compression="jpeg"),
        "tiff_fax": im.encode(picture.convert("1"), "tiff", compression="group4"),
        "tiff_cmyk": im.encode(picture.convert("CMYK"), "tiff", compression="packbits"),
        "tiff_grey16": im.encode(Image.fromarray(grey16), "tiff"),
        "avif": im.encode(plain, "avif", exif=exif, speed=10),
        "avif_clear": im.encode(clear, "avif", speed=10),
        "avif_animated": im.animation("avif"),
        "heic": im.encode(plain, "heic", exif=exif),
        "heic_clear": im.encode(clear, "heic"),
        "heic_tiled": im.encode(im.quarters(128, 128), "heic", tile_size=64),
    }


def mend_png(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that damage reaches the decoder behind them."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, at)
        end = at + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def check(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    """Decode and assert: an image within the limits, or a refusal with a known code; no warning.

    Any other exception goes through. Returns the code, or ``"decoded"``.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        header = _outcome(inspect, data, limits)
        result = _outcome(decode, data, limits)
    assert not caught, caught[0].message
    if isinstance(header, ImageRejected):
        assert isinstance(result, ImageRejected) and result.code == header.code
    else:
        assert 0 < header.width * header.height <= limits.max_pixels
        assert 1 <= header.frames <= 1000
    if isinstance(result, ImageRejected):
        assert result.code in CODES
        assert result.detail and result.remedy
        _check_cause(result.__cause__)
        return result.code
    _check_image(result, limits)
    return "decoded"


def _outcome(
    step: Callable[[bytes, DecodeLimits], T], data: bytes, limits: DecodeLimits
) -> T | ImageRejected:
    try:
        return step(data, limits)
    except ImageRejected as error:
        return error


def _check_cause(cause: BaseException | None) -> None:
    """An unexpected error may come from a library, never from the reading code itself."""
    if cause is None or isinstance(cause, cv2.error):
        return
    assert not isinstance(cause, MemoryError)
    innermost = traceback.extract_tb(cause.__traceback__)[-1]
    if "decoding" in Path(innermost.filename).parts:
        raise AssertionError("the reading code failed") from cause


def _check_image(result: DecodedImage, limits: DecodeLimits) -> None:
    assert isinstance(result, DecodedImage)
    assert result.pixels.shape == (result.height, result.width, 3)
    assert result.pixels.dtype == np.uint8
    assert result.pixels.flags.c_contiguous
    assert result.width * result.height <= limits.max_pixels
    assert min(result.width, result.height) >= 1
    assert result.format in im.FORMATS
    assert result.truncated == ("truncated" in result.notes)
    assert not result.truncated or limits.allow_truncated
