"""BMP (Windows bitmap, headers of 12 to 124 bytes): header check, decoding."""

from __future__ import annotations

import io
import struct

from PIL.BmpImagePlugin import BmpImageFile

from models.decoding.common import (
    DecodeLimits,
    ImageHeader,
    Loaded,
    corrupt,
    is_padding,
    truncated,
    unsupported,
)

_RAW, _RLE8, _RLE4, _BITFIELDS = 0, 1, 2, 3


def header(data: bytes) -> ImageHeader:
    width, height, _, _ = _info(data)
    return ImageHeader("bmp", width, height)


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    width, height, bits, compression = _info(data)
    offset = int.from_bytes(data[10:14], "little")
    end = int.from_bytes(data[2:6], "little")
    if compression in (_RAW, _BITFIELDS):
        end = offset + height * ((width * bits + 31) // 32 * 4)
        # The padding of the last row may be left out.
        if offset + (height - 1) * ((width * bits + 31) // 32 * 4) + width * bits // 8 > len(data):
            raise truncated(f"only a part of the {width} x {height} pixels is there")
    image = BmpImageFile(io.BytesIO(data + b"\0\0\0"))
    if image.size != (width, height):
        raise corrupt("the BMP header contradicts itself")
    loaded = Loaded(image)
    image.load()
    if 0 < end < len(data) and not is_padding(data[end:]):
        loaded.notes.append("trailing_data")
    return loaded


def _info(data: bytes) -> tuple[int, int, int, int]:
    """Return width, height, bits per pixel and the kind of compression."""
    try:
        (size,) = struct.unpack_from("<I", data, 14)
        if size == 12:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            compression = _RAW
        else:
            width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    except struct.error:
        raise truncated("the BMP header is not complete") from None
    if compression not in (_RAW, _RLE8, _RLE4, _BITFIELDS):
        raise unsupported("The bytes are a BMP image with a compression that is not read here.")
    if bits not in (1, 4, 8, 16, 24, 32):
        raise unsupported(f"The bytes are a BMP image of {bits} bits, which is not read here.")
    return max(0, width), abs(height), bits, compression
