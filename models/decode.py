"""Hostile bytes to upright RGB: the one door for images from outside.

What the bytes are is decided by the bytes, never by a name. Size, pixels and frames are read
from the header by code of our own and checked before a decoder runs; the decoders (OpenCV's and
Pillow's libjpeg-turbo, zlib, libwebp, libavif, libheif, libtiff, LittleCMS) then get a clean copy
of the first frame alone wherever the format allows it. No global switch of any library is touched,
so any number of threads may decode at once. (libjpeg writes a line of its own to the standard
error stream when it meets damaged image data.)

Notes that a decoded image may carry:

- ``animated``, ``several_pages``: only the first frame or page was used.
- ``trailing_data``: other bytes follow the image, such as the video of a motion photo.
- ``no_end_marker``: the pixels are whole, but the file lacks its proper end.
- ``truncated``: pixels are missing (only where the limits allow it).
- ``oriented``: the pixels were turned or mirrored as the file demands.
- ``transparency``: some pixels were not opaque and lie on middle grey.
- ``colour_converted``, ``colour_profile_ignored``: an embedded colour profile was converted to
  sRGB, or could not be used.
- ``cmyk_without_profile``: ink values were turned into colours by the plain formula.
- ``hdr``: the picture is of high dynamic range and was not tone-mapped.
"""

from __future__ import annotations

from models.decoding import bmp, gif, isobmff, jpeg, png, tiff, webp
from models.decoding.common import (
    DecodeLimits,
    ImageHeader,
    Reader,
    corrupt,
    too_many_pixels,
    truncated,
)
from models.decoding.pixels import to_upright_rgb
from models.decoding.sniff import Container, sniff
from models.errors import ImageRejected
from models.types import DecodedImage

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_ASPECT",
    "MIN_SIDE",
    "DecodeLimits",
    "ImageHeader",
    "decode",
    "inspect",
]

DEFAULT_LIMITS = DecodeLimits()

MIN_SIDE = 8
"""Pixels. A smaller picture holds no face and is mostly a tracking pixel."""

MAX_ASPECT = 100
"""Longer side by shorter side; a stitched screen capture stays below 50."""

_READERS: dict[Container, Reader] = {
    "jpeg": Reader(jpeg.header, jpeg.load),
    "png": Reader(png.header, png.load),
    "webp": Reader(webp.header, webp.load),
    "isobmff": Reader(isobmff.header, isobmff.load),
    "gif": Reader(gif.header, gif.load),
    "bmp": Reader(bmp.header, bmp.load),
    "tiff": Reader(tiff.header, tiff.load),
}


def inspect(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Check an image by its header alone, without decoding a pixel.

    Raises ``ImageRejected`` with the code ``image_empty``, ``image_too_large``,
    ``unsupported_format``, ``image_dimensions``, ``too_many_pixels``, or, where the header
    itself shows it, ``image_corrupt`` or ``image_truncated``. An image that passes may still
    be refused by ``decode``.
    """
    return _inspect(data, limits)[1]


def decode(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> DecodedImage:
    """Decode the first frame to upright sRGB: a contiguous uint8 array (height, width, 3), RGB.

    Raises ``ImageRejected`` and nothing else, whatever the bytes are; an unexpected error of a
    library becomes ``image_corrupt`` and is kept as the cause. Memory stays below a constant
    times the pixels of the canvas (measured: 4 to 16 bytes per pixel, by format) and a few
    times the file.
    """
    container, header = _inspect(data, limits)
    try:
        loaded = _READERS[container].load(data, limits)
        pixels = to_upright_rgb(loaded)
    except ImageRejected:
        raise
    except MemoryError as error:
        raise ImageRejected(
            "too_many_pixels",
            f"There was not enough memory to decode {header.width} x {header.height} pixels.",
            remedy="Try again when the machine has more free memory, or send a smaller copy.",
        ) from error
    except Exception as error:
        raise _as_rejection(error) from error
    height, width = pixels.shape[:2]
    if sorted((width, height)) != sorted((header.width, header.height)):
        _check_size(width, height, limits)
    return DecodedImage(
        pixels=pixels,
        format=header.format,
        width=width,
        height=height,
        truncated=loaded.truncated,
        notes=tuple(dict.fromkeys(loaded.notes)),
    )


def _inspect(data: bytes, limits: DecodeLimits) -> tuple[Container, ImageHeader]:
    if not data:
        raise ImageRejected(
            "image_empty", "The image has no bytes.", remedy="Fetch the image again."
        )
    if len(data) > limits.max_bytes:
        raise ImageRejected(
            "image_too_large",
            f"The image has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted.",
            remedy="Send a smaller copy of the image, or raise the size limit.",
        )
    container = sniff(data)
    try:
        header = _READERS[container].header(data)
    except ImageRejected:
        raise
    except Exception as error:
        raise _as_rejection(error) from error
    _check_size(header.width, header.height, limits)
    return container, header


def _as_rejection(error: Exception) -> ImageRejected:
    text = str(error)
    make = truncated if "truncated" in text.lower() else corrupt
    return make(f"the decoder reports {text!r}" if text else "the decoder could not read it")


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    if width * height > limits.max_pixels:
        raise too_many_pixels(width, height, limits.max_pixels)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageRejected(
            "image_dimensions",
            f"The image has {width} x {height} pixels, which is no usable picture.",
            remedy=f"Each side needs {MIN_SIDE} pixels or more, and the longer side "
            f"{MAX_ASPECT} times the shorter at most.",
        )
