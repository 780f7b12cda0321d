"""GIF (GIF89a): block walk, a clean copy of the first frame for the decoder, decoding."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

from PIL.GifImagePlugin import GifImageFile

from models.decoding.common import (
    DecodeLimits,
    ImageHeader,
    Loaded,
    corrupt,
    is_padding,
    truncated,
)

MAX_BLOCKS = 1_000_000
"""Data blocks read in all: encoders write 255 bytes into each, a trap one byte."""

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9


@dataclass(slots=True)
class _Walk:
    """``width`` and ``height`` are the screen, grown to hold the first frame."""

    width: int
    height: int
    control: bytes = b""
    frame: bytes | None = None
    frames: int = 0
    end: int | None = None
    blocks: int = field(default=MAX_BLOCKS)
    short: bool = False


def header(data: bytes) -> ImageHeader:
    """Read the screen and the first frame's place; later frames are only counted."""
    walk = _walk(data)
    return ImageHeader("gif", walk.width, walk.height, max(1, walk.frames))


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    walk = _walk(data)
    if walk.frame is None:
        raise truncated("there is no frame") if walk.short else corrupt("it holds no frame")
    screen = data[: 13 + _table_size(data[10])]
    clean = screen + walk.control + walk.frame + b"\0" * walk.short + bytes([_TRAILER])
    image = GifImageFile(io.BytesIO(clean))
    if image.size != (walk.width, walk.height):
        raise corrupt("the GIF frame and its screen disagree")
    loaded = Loaded(image)
    try:
        image.load()
    except OSError as error:
        if walk.short:
            raise truncated("image data is missing") from error
        raise
    if walk.frames > 1:
        loaded.notes.append("animated")
    if walk.short:
        loaded.notes.append("no_end_marker")
    elif walk.end is not None and not is_padding(data[walk.end :]):
        loaded.notes.append("trailing_data")
    return loaded


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _walk(data: bytes) -> _Walk:
    if len(data) < 13:
        raise truncated("the GIF header is not complete")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    walk = _Walk(width, height)
    at = 13 + _table_size(flags)
    try:
        while True:
            introducer = data[at]
            if introducer == _TRAILER:
                walk.end = at + 1
                return walk
            if introducer == _EXTENSION:
                start, kind = at, data[at + 1]
                at = _skip_blocks(walk, data, at + 2)
                if kind == _GRAPHIC_CONTROL and not walk.frames and at - start == 8:
                    walk.control = data[start:at]
            elif introducer == _IMAGE:
                at = _image(walk, data, at)
            elif walk.frames:  # rubbish behind a whole frame
                walk.end = at
                return walk
            elif introducer == 0:  # a stray block terminator
                walk.blocks -= 1
                at += 1
            else:
                raise corrupt("an unknown block stands in the GIF file")
            if walk.frames >= 1000 or walk.blocks < 0:
                return walk
    except IndexError:
        walk.short = walk.frames < 2
        return walk


def _image(walk: _Walk, data: bytes, start: int) -> int:
    """Take in one image, from its descriptor to the end of its data; return where it ends."""
    if start + 10 > len(data):
        raise IndexError
    left, top, width, height, flags = struct.unpack_from("<HHHHB", data, start + 1)
    if not walk.frames:
        walk.width, walk.height = max(walk.width, left + width), max(walk.height, top + height)
        walk.frame = data[start:]
    walk.frames += 1
    end = _skip_blocks(walk, data, start + 10 + _table_size(flags) + 1)
    if walk.frames == 1:
        if walk.blocks < 0:
            raise corrupt(f"it has more than {MAX_BLOCKS:,} GIF data blocks, a decoder trap")
        walk.frame = data[start:end]
    return end


def _skip_blocks(walk: _Walk, data: bytes, at: int) -> int:
    left = walk.blocks
    while (size := data[at]) and left >= 0:
        at += size + 1
        left -= 1
    walk.blocks = left
    return at + 1
