"""PNG and APNG (ISO/IEC 15948): chunk walk, a clean copy for the decoder, decoding.

Only the header, palette, transparency and image data reach the decoder. Text, profiles and
animation chunks stay out, so none of them can be inflated without bound.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field

from PIL.PngImagePlugin import PngImageFile

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

MAX_CHUNKS = 65_536
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")

# The highest ratio that deflate can reach (RFC 1951: 258 bytes from two bits).
_DEFLATE_RATIO = 1032


@dataclass(slots=True)
class _Walk:
    frames: int = 1
    palette: bytes | None = None
    transparency: bytes | None = None
    idat: list[memoryview] = field(default_factory=list)
    icc: bytes | None = None
    icc_dropped: bool = False
    orientation: int = 1
    end: int | None = None
    short: bool = False


def header(data: bytes) -> ImageHeader:
    """Read IHDR, and acTL where it stands in front of the image data."""
    width, height, _, _ = _ihdr(data)
    return ImageHeader("png", width, height, _walk(data, header_only=True).frames)


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    width, height, depth, channels = _ihdr(data)
    walk = _walk(data, header_only=False)
    present = sum(len(piece) for piece in walk.idat)
    if present * _DEFLATE_RATIO < width * height * depth * channels // 8:
        raise truncated(f"{present:,} bytes cannot hold {width} x {height} pixels")
    pieces = [_SIGNATURE, data[8:33]]
    if walk.palette is not None:
        pieces.append(_chunk(b"PLTE", walk.palette))
    if walk.transparency is not None and depth < 16:  # Pillow has no 16-bit colour key
        pieces.append(_chunk(b"tRNS", walk.transparency))
    pieces.append(_chunk(b"IDAT", b"".join(walk.idat)))
    pieces.append(_chunk(b"IEND", b""))
    image = PngImageFile(io.BytesIO(b"".join(pieces)))
    loaded = Loaded(image, icc=walk.icc, orientation=walk.orientation)
    try:
        image.load()
    except OSError as error:
        if walk.short or "truncated" in str(error):
            raise truncated("image data is missing") from error
        raise
    if walk.frames > 1:
        loaded.notes.append("animated")
    if walk.icc_dropped:
        loaded.notes.append("colour_profile_ignored")
    if walk.end is None:
        loaded.notes.append("no_end_marker")
    elif not is_padding(data[walk.end :]):
        loaded.notes.append("trailing_data")
    return loaded


def _ihdr(data: bytes) -> tuple[int, int, int, int]:
    """Return width, height, bits per sample and samples per pixel."""
    if len(data) < 33:
        raise truncated("the PNG header is not complete")
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise corrupt("the PNG header is not where it must be")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise corrupt("the checksum of the PNG header is wrong")
    if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise corrupt("the PNG header names an unknown kind of pixel")
    return width, height, depth, _CHANNELS[colour]


def _walk(data: bytes, *, header_only: bool) -> _Walk:
    walk = _Walk()
    view = memoryview(data)
    at = 33
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            walk.short = True
            return walk
        length, kind = struct.unpack_from(">I4s", data, at)
        body = view[at + 8 : at + 8 + length]
        if not kind.isalpha():
            if walk.idat and not header_only:  # rubbish behind whole image data
                return walk
            raise corrupt("a PNG chunk has no proper name")
        if header_only and kind in (b"IDAT", b"IEND"):
            return walk
        if at + 12 + length > len(data):
            walk.short = True
            if kind == b"IDAT":
                walk.idat.append(body)
            return walk
        checksum = int.from_bytes(view[at + 8 + length : at + 12 + length], "big")
        sound = header_only or zlib.crc32(body, zlib.crc32(kind)) == checksum
        if not sound and kind in _CRITICAL:
            raise corrupt(f"the checksum of a PNG chunk {kind.decode()} is wrong")
        at += 12 + length
        if kind == b"IEND":
            walk.end = at
            return walk
        if sound:
            _take(walk, kind, body, header_only)
    raise corrupt(f"it has more than {MAX_CHUNKS:,} PNG chunks")


def _take(walk: _Walk, kind: bytes, body: memoryview, header_only: bool) -> None:
    if kind == b"acTL" and len(body) == 8 and not walk.idat:
        walk.frames = max(1, min(1000, int.from_bytes(body[:4], "big")))
    elif header_only:
        return
    elif kind == b"IDAT":
        walk.idat.append(body)
    elif kind == b"PLTE" and walk.palette is None:
        walk.palette = bytes(body[:768])
    elif kind == b"tRNS" and walk.transparency is None and not walk.idat:
        walk.transparency = bytes(body[:256])
    elif kind == b"eXIf":
        walk.orientation = exif_orientation(bytes(body))
    elif kind == b"iCCP" and walk.icc is None:
        walk.icc = _inflate_profile(bytes(body))
        walk.icc_dropped = walk.icc is None


def _inflate_profile(body: bytes) -> bytes | None:
    _, _, packed = body[:80].partition(b"\0")
    start = len(body[:80]) - len(packed)
    try:
        inflate = zlib.decompressobj()
        profile = inflate.decompress(body[start + 1 :], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if profile and not inflate.unconsumed_tail else None


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
