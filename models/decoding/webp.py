"""WebP (RFC 9649): chunk walk, a clean copy of the first frame for the decoder, decoding."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL.WebPImagePlugin import WebPImageFile

from models.decoding.common import (
    MAX_PROFILE_BYTES,
    DecodeLimits,
    ImageHeader,
    Loaded,
    corrupt,
    exif_orientation,
    is_padding,
    truncated,
)

MAX_CHUNKS = 20_000
_HAS_PROFILE, _HAS_EXIF, _HAS_XMP, _ANIMATED = 0x20, 0x08, 0x04, 0x02


@dataclass(slots=True)
class _Walk:
    """``pieces`` are the chunks of the first frame, whole, in file order."""

    width: int = 0
    height: int = 0
    flags: int = 0
    pieces: list[bytes] | None = None
    frames: int = 0
    icc: bytes | None = None
    orientation: int = 1
    short: bool = False


def header(data: bytes) -> ImageHeader:
    """Read the canvas from the first chunk, and count the frames."""
    walk = _walk(data)
    return ImageHeader("webp", walk.width, walk.height, max(1, min(1000, walk.frames)))


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    walk = _walk(data)
    if not walk.pieces:
        raise truncated("there is no image data") if walk.short else corrupt("it holds no frame")
    body = b"WEBP" + b"".join(walk.pieces)
    image = WebPImageFile(io.BytesIO(b"RIFF" + struct.pack("<I", len(body)) + body))
    if image.size != (walk.width, walk.height):
        raise corrupt("the WebP frame and its canvas disagree")
    loaded = Loaded(image, icc=walk.icc, orientation=walk.orientation)
    image.load()
    if walk.frames > 1:
        loaded.notes.append("animated")
    end = 8 + int.from_bytes(data[4:8], "little")
    if not is_padding(data[end + end % 2 :]):
        loaded.notes.append("trailing_data")
    return loaded


def _walk(data: bytes) -> _Walk:
    walk = _Walk()
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            walk.short = walk.short or end == len(data)
            if walk.width == 0:
                raise truncated("the WebP header is not complete")
            return walk
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        start, stop = at + 8, at + 8 + size
        if walk.width == 0:
            walk.width, walk.height, walk.flags = _canvas(kind, data[start : start + 10])
            walk.pieces = []
        if stop > len(data):
            walk.short = True
            if not walk.frames:
                return walk
            return walk
        _take(walk, kind, data, start, stop)
        at = stop + size % 2
    raise corrupt(f"it has more than {MAX_CHUNKS:,} WebP chunks")


def _take(walk: _Walk, kind: bytes, data: bytes, start: int, stop: int) -> None:
    assert walk.pieces is not None
    chunk = data[start - 8 : stop] + b"\0" * ((stop - start) % 2)
    animated = bool(walk.flags & _ANIMATED)
    if kind == b"VP8X":
        if not walk.pieces:
            keep = walk.flags & ~(_HAS_PROFILE | _HAS_EXIF | _HAS_XMP)
            walk.pieces.append(chunk[:8] + bytes([keep]) + chunk[9:])
    elif kind == b"ANIM":
        if animated and not walk.frames:
            walk.pieces.append(chunk)
    elif kind == b"ANMF":
        walk.frames += 1
        if animated and walk.frames == 1:
            walk.pieces.append(chunk)
    elif kind in (b"VP8 ", b"VP8L"):
        if not animated and not walk.frames:
            walk.frames += 1
            walk.pieces.append(chunk)
    elif kind == b"ALPH":
        if not animated and not walk.frames:
            walk.pieces.append(chunk)
    elif kind == b"ICCP":
        if stop - start <= MAX_PROFILE_BYTES:
            walk.icc = data[start:stop]
    elif kind == b"EXIF":
        walk.orientation = exif_orientation(data[start:stop])


def _canvas(kind: bytes, body: bytes) -> tuple[int, int, int]:
    """Return width, height and flags from the first chunk (RFC 9649, 2.5 to 2.7)."""
    try:
        if kind == b"VP8X":
            flags, wide, high = struct.unpack("<B3x3s3s", body)
            return 1 + int.from_bytes(wide, "little"), 1 + int.from_bytes(high, "little"), flags
        if kind == b"VP8L":
            mark, bits = struct.unpack_from("<BI", body)
            if mark == 0x2F:
                return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), 0
        if kind == b"VP8 ":
            mark, width, height = struct.unpack_from("<3x3sHH", body)
            if mark == b"\x9d\x01\x2a":
                return width & 0x3FFF, height & 0x3FFF, 0
    except struct.error:
        raise truncated("the WebP header is not complete") from None
    raise corrupt("it starts with no WebP frame")
