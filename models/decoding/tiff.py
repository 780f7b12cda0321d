"""TIFF 6.0 and BigTIFF: directory walk, a clean directory for the decoder, decoding.

The decoder gets the file with a directory of our own behind it, which holds nothing but the
tags that lay out the first page's pixels. Other pages, EXIF, XMP and the rest stay unread.
"""

from __future__ import annotations

import contextlib
import io
import struct
from dataclasses import dataclass, field

from PIL.TiffImagePlugin import TiffImageFile

from models.decoding.common import (
    MAX_PROFILE_BYTES,
    DecodeLimits,
    ImageHeader,
    Loaded,
    corrupt,
    too_many_pixels,
    truncated,
    unsupported,
)

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT, _PROFILE = 274, 322, 323, 34675
_SUBFILE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
_DATA_TAGS = ((273, 279), (324, 325))

# Tags that lay out the pixels, of one number and of several; the decoder sees no others.
_SCALARS = frozenset((256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323))
_JPEG_TABLES = 347
_KEPT = _SCALARS | {258, 273, 279, 320, 324, 325, 338, 339, _JPEG_TABLES, 530, 532}

# None, the fax codes, LZW, JPEG, deflate (both numbers), PackBits. Old-style JPEG (6) is
# notorious, and LZMA may ask for gigabytes by its header; photographs come in neither.
_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 7, 8, 32773, 32946))

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BIG_SIZES = {16: 8, 17: 8, 18: 8}
_MAX_PAGES = 1000

# Values in one tag: the strips or tiles of 64 megapixels, or a colour map of 16 bits.
_MAX_VALUES = 200_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """``raw`` is the entry as it stands in the directory, ``at`` where its values start."""

    kind: int
    count: int
    at: int
    size: int
    raw: bytes


@dataclass(slots=True)
class _Directory:
    order: str
    big: bool
    entries: dict[int, _Entry] = field(default_factory=dict)
    next_offset: int = 0


def header(data: bytes) -> ImageHeader:
    """Read the first directory, and count the others."""
    directory = _first(data)
    width, height = _size(data, directory)
    pages, seen, offset = 1, set[int](), directory.next_offset
    while offset and offset not in seen and pages < _MAX_PAGES:
        seen.add(offset)
        try:
            offset = _next_offset(data, directory, offset)
        except struct.error:
            break
        pages += 1
    return ImageHeader("tiff", width, height, pages)


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    directory = _first(data)
    width, height = _size(data, directory)
    _check_layout(data, directory, limits)
    orientation = _number(data, directory, _ORIENTATION, 1)
    bits = _number(data, directory, _BITS, 1)
    image = TiffImageFile(io.BytesIO(_clean(data, directory)))
    if image.size != (width, height):
        raise corrupt("the TIFF directory contradicts itself")
    loaded = Loaded(
        image,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        sample_bits=12 if bits == 12 else 16,
        # Pillow turns "white is zero" round for 8 bits, not for 16.
        inverted=bits == 16 and _number(data, directory, _PHOTOMETRIC, 1) == 0,
    )
    entry = directory.entries.get(_PROFILE)
    if entry is not None and entry.count <= MAX_PROFILE_BYTES:
        loaded.icc = data[entry.at : entry.at + entry.count]
    image.load()
    if directory.next_offset:
        loaded.notes.append("several_pages")
    return loaded


def _first(data: bytes) -> _Directory:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in (data[2], data[3])
    directory = _Directory(order, big)
    try:
        offset = _unpack(order + ("Q" if big else "I"), data, 8 if big else 4)
        if data[8:10] == b"CR" and not big:
            raise unsupported("The bytes are a camera raw file, which is not read here.")
        count = _unpack(order + ("Q" if big else "H"), data, offset)
        start, step = (offset + 8, 20) if big else (offset + 2, 12)
        if count > 4096:
            raise corrupt("the TIFF directory has thousands of entries")
        for at in range(start, start + count * step, step):
            _read_entry(data, directory, at)
    except struct.error:
        raise truncated("the TIFF directory is not in the file") from None
    with contextlib.suppress(struct.error):  # some writers leave the last offset out
        directory.next_offset = _unpack(order + ("Q" if big else "I"), data, start + count * step)
    if _DNG_VERSION in directory.entries or (
        _SUB_IFDS in directory.entries and _number(data, directory, _SUBFILE, 0) & 1
    ):
        raise unsupported("The bytes are a camera raw file, which is not read here.")
    return directory


def _unpack(layout: str, data: bytes, at: int) -> int:
    if at > len(data):
        raise struct.error("beyond the end")
    value: int = struct.unpack_from(layout, data, at)[0]
    return value


def _read_entry(data: bytes, directory: _Directory, at: int) -> None:
    step, inline = (20, 8) if directory.big else (12, 4)
    layout = directory.order + ("HHQ" if directory.big else "HHI")
    tag, kind, count = struct.unpack_from(layout, data, at)
    place = at + step - inline
    size = (_SIZES | _BIG_SIZES if directory.big else _SIZES).get(kind)
    if size is None:
        return
    if size * count > inline:
        place = _unpack(directory.order + ("Q" if directory.big else "I"), data, place)
    if place + size * count > len(data):
        if tag in _KEPT:
            raise truncated("values of the TIFF directory are not in the file")
        return
    entry = _Entry(kind, count, place, size * count, data[at : at + step])
    directory.entries.setdefault(tag, entry)


def _numbers(
    data: bytes, directory: _Directory, tag: int, most: int = _MAX_VALUES
) -> tuple[int, ...]:
    entry = directory.entries.get(tag)
    if entry is None:
        return ()
    letter = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}.get(entry.kind)
    if letter is None:
        return ()
    return struct.unpack_from(f"{directory.order}{min(entry.count, most)}{letter}", data, entry.at)


def _number(data: bytes, directory: _Directory, tag: int, default: int) -> int:
    return next(iter(_numbers(data, directory, tag, 1)), default)


def _size(data: bytes, directory: _Directory) -> tuple[int, int]:
    return _number(data, directory, _WIDTH, 0), _number(data, directory, _HEIGHT, 0)


def _next_offset(data: bytes, directory: _Directory, offset: int) -> int:
    order, big = directory.order, directory.big
    count = _unpack(order + ("Q" if big else "H"), data, offset)
    return _unpack(
        order + ("Q" if big else "I"), data, offset + (8 + 20 * count if big else 2 + 12 * count)
    )


def _check_layout(data: bytes, directory: _Directory, limits: DecodeLimits) -> None:
    compression = _number(data, directory, _COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported(f"The bytes are a TIFF with compression {compression}, not read here.")
    tile = (_number(data, directory, _TILE_WIDTH, 0), _number(data, directory, _TILE_HEIGHT, 0))
    if tile[0] * tile[1] > limits.max_pixels:
        raise too_many_pixels(*tile, limits.max_pixels)
    for offsets_tag, counts_tag in _DATA_TAGS:
        offsets = _numbers(data, directory, offsets_tag)
        counts = _numbers(data, directory, counts_tag)
        for offset, count in zip(offsets, counts, strict=False):
            if offset + count > len(data):
                raise truncated("a strip or tile of the TIFF is not in the file")
        # Strips that overlap let a small file be unpacked many times over.
        if sum(counts) > 2 * len(data):
            raise corrupt("the strips or tiles of the TIFF overlap")


def _clean(data: bytes, directory: _Directory) -> bytes:
    """Return the file with its first directory replaced by one of the kept tags alone."""
    order, big = directory.order, directory.big
    kept = {tag: entry for tag, entry in directory.entries.items() if tag in _KEPT}
    if any(entry.count > _MAX_VALUES for entry in kept.values()):
        raise corrupt("a tag of the TIFF directory has hundreds of thousands of values")
    if sum(entry.size for entry in kept.values()) > len(data):
        raise corrupt("the values of the TIFF directory overlap")
    if _JPEG_TABLES in kept and kept[_JPEG_TABLES].kind != 7:
        raise corrupt("the JPEG tables of the TIFF are of the wrong kind")
    raws = []
    for tag, entry in sorted(kept.items()):
        if tag in _SCALARS:  # whatever the kind and count were
            value = min(_number(data, directory, tag, 0), 2**32 - 1)
            raws.append(struct.pack(order + ("HHQI4x" if big else "HHII"), tag, 4, 1, value))
        else:
            raws.append(entry.raw)
    pad = b"\0" * (-len(data) % 8)
    offset = len(data) + len(pad)
    lead = (
        data[:8] + struct.pack(order + "Q", offset)
        if big
        else (data[:4] + struct.pack(order + "I", offset))
    )
    count = struct.pack(order + ("Q" if big else "H"), len(raws))
    return b"".join([lead, data[len(lead) :], pad, count, *raws, b"\0" * (8 if big else 4)])
