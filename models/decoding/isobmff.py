"""AVIF and HEIC (ISO/IEC 23008-12): box walk for the header; libavif and libheif decode.

Orientation comes from the container's own ``irot`` and ``imir`` boxes and never from EXIF, whose
value is for information only in these formats. Pillow's AVIF reader leaves the pixels as stored
and reports the boxes, translated, in place of the EXIF orientation; libheif turns the pixels
itself.

Of an image sequence the primary image is used, which stands beside the track; the track is
hidden from the decoder.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pillow_heif
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile

from models.decoding.bitstreams import check_hevc, largest_av1_frame
from models.decoding.common import (
    MAX_PROFILE_BYTES,
    DecodeLimits,
    ImageFormat,
    ImageHeader,
    Loaded,
    corrupt,
    exif_orientation,
    too_many_pixels,
    truncated,
    unsupported,
)

MAX_BOXES = 20_000

_PROPERTIES_READ = (b"ispe", b"colr", b"hvcC")

_CODECS: dict[bytes, ImageFormat] = {b"av01": "avif", b"hvc1": "heic", b"hev1": "heic"}
_TRACK_PATH = (b"trak", b"mdia", b"minf", b"stbl")

# Transfer characteristics of high dynamic range (ITU-T H.273): PQ and HLG.
_HDR_TRANSFERS = (16, 18)


@dataclass(slots=True)
class _Walk:
    primary: int | None = None
    items: dict[int, bytes] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: dict[int, list[int]] = field(default_factory=dict)
    assigned: dict[int, list[int]] = field(default_factory=dict)
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    inline: int = 0
    tracks: list[int] = field(default_factory=list)
    samples: int = 0
    short: bool = False
    trailing: bool = False
    boxes: int = MAX_BOXES


def header(data: bytes) -> ImageHeader:
    """Read codec and size of the primary image, and the frames of a track beside it."""
    return _header(_walk(data))


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    walk = _walk(data)
    stated = _header(walk)
    for kind, body in walk.properties:  # tiles and hidden images are decoded as well
        if kind == b"ispe" and len(body) >= 12:
            width, height = struct.unpack_from(">II", body, 4)
            if width * height > limits.max_pixels:
                raise too_many_pixels(width, height, limits.max_pixels)
    _check_grids(walk, limits)
    _check_bitstreams(walk, data, limits)
    data = _without_tracks(walk, data)
    try:
        loaded = _load_avif(data, limits) if stated.format == "avif" else _load_heic(data, limits)
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError) as error:
        if walk.short:
            raise truncated("image data is missing") from error
        raise
    if stated.frames > 1:
        loaded.notes.append("animated")
    if walk.trailing:
        loaded.notes.append("trailing_data")
    for kind, body in walk.properties:
        if kind == b"colr" and body[:4] == b"nclx" and len(body) >= 8:
            transfer = int.from_bytes(body[6:8], "big")
            if transfer in _HDR_TRANSFERS and "hdr" not in loaded.notes:
                loaded.notes.append("hdr")
    return loaded


def _without_tracks(walk: _Walk, data: bytes) -> bytes:
    """Turn tracks into free space, and the brand that announces them into that of a still."""
    if not walk.tracks:
        return data
    brands = int.from_bytes(data[:4], "big")
    clean = bytearray(data)
    clean[8:brands] = clean[8:brands].replace(b"avis", b"avif")
    for at in walk.tracks:
        clean[at : at + 4] = b"free"
    return bytes(clean)


def _load_avif(data: bytes, limits: DecodeLimits) -> Loaded:
    image = AvifImageFile(io.BytesIO(data))
    _check_size(image.size, limits)
    orientation = exif_orientation(image.info.get("exif", b""))
    icc = image.info.get("icc_profile")
    image.load()
    return Loaded(image, icc=_bounded(icc), orientation=orientation)


def _load_heic(data: bytes, limits: DecodeLimits) -> Loaded:
    container = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
    item = container[container.primary_index]
    _check_size(item.size, limits)
    icc = item.info.get("icc_profile")
    item.load()
    mode = item.mode.split(";")[0]
    image = Image.frombuffer(mode, item.size, item.data, "raw", mode, item.stride, 1)
    return Loaded(image, icc=_bounded(icc))


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """The library may see another image than the walk did; its size must be allowed too."""
    if size[0] * size[1] > limits.max_pixels:
        raise too_many_pixels(*size, limits.max_pixels)


def _bounded(icc: object) -> bytes | None:
    return icc if isinstance(icc, bytes) and 0 < len(icc) <= MAX_PROFILE_BYTES else None


def _header(walk: _Walk) -> ImageHeader:
    frames = max(1, min(1000, walk.samples))
    if walk.primary is not None:
        codec = _CODECS.get(_codec_of(walk))
        size = _property(walk, walk.primary, b"ispe")
        if codec is not None and len(size) >= 12:
            width, height = struct.unpack_from(">II", size, 4)
            return ImageHeader(codec, width, height, frames)
        if codec is not None and not walk.short:
            raise corrupt("its primary image has no size")
    if walk.short:
        raise truncated("the description of the image is missing")
    raise unsupported("The bytes are a HEIF container without an AV1 or HEVC still image.")


def _codec_of(walk: _Walk) -> bytes:
    kind = walk.items.get(walk.primary or 0, b"")
    if kind == b"grid":  # made up of other items
        return next((k for k in walk.items.values() if k in _CODECS), b"")
    return kind


def _walk(data: bytes) -> _Walk:
    walk = _Walk()
    position = 0
    for kind, start, stop in _boxes(walk, data, 0, len(data)):
        position = stop
        if kind == b"meta" and walk.primary is None:
            _meta(walk, data, start + 4, stop)
        elif kind == b"moov":
            walk.tracks.append(data.rindex(b"moov", 0, start))
            _count_samples(walk, data, start, stop, _TRACK_PATH)
        elif kind == b"mpvd":  # a motion photo
            walk.trailing = True
        elif not kind.isascii() or not kind.isalnum():
            walk.trailing = True
            break
    walk.short = walk.short or position > len(data)
    return walk


def _boxes(walk: _Walk, data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the contents of each box; the last may reach beyond ``end``."""
    while at + 8 <= end:
        walk.boxes -= 1
        if walk.boxes < 0:
            raise corrupt(f"it has more than {MAX_BOXES:,} boxes")
        size, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        elif size == 0:
            size = end - at
        if size < start - at:
            walk.trailing = True
            return
        yield kind, start, at + size
        at += size


def _meta(walk: _Walk, data: bytes, at: int, end: int) -> None:
    for kind, start, stop in _boxes(walk, data, at, min(end, len(data))):
        body = data[start : min(stop, end)]
        try:
            if kind == b"pitm":
                walk.primary = _uint(body, 4, 4 if body[0] else 2)
            elif kind == b"iinf":
                _item_infos(walk, body)
            elif kind == b"iprp":
                _item_properties(walk, body)
            elif kind == b"iref":
                _item_references(walk, body)
            elif kind == b"iloc":
                _item_places(walk, body)
            elif kind == b"idat":
                walk.inline = start
        except (struct.error, IndexError):
            if end > len(data):
                walk.short = True
                return
            raise corrupt(f"the box {kind.decode('latin-1')} is too short") from None


def _uint(body: bytes, at: int, size: int) -> int:
    if at + size > len(body):
        raise IndexError
    return int.from_bytes(body[at : at + size], "big")


def _item_infos(walk: _Walk, body: bytes) -> None:
    at = 8 if body[0] else 6
    for kind, start, _ in _boxes(walk, body, at, len(body)):
        if kind == b"infe" and body[start] >= 2:
            wide = 4 if body[start] >= 3 else 2
            item = _uint(body, start + 4, wide)
            walk.items.setdefault(item, body[start + 6 + wide : start + 10 + wide])


def _item_properties(walk: _Walk, body: bytes) -> None:
    for kind, start, stop in _boxes(walk, body, 0, len(body)):
        if kind == b"ipco":
            walk.properties.extend(
                (name, body[first:last] if name in _PROPERTIES_READ else b"")
                for name, first, last in _boxes(walk, body, start, min(stop, len(body)))
            )
        elif kind == b"ipma":
            _associations(walk, body, start)


def _associations(walk: _Walk, body: bytes, at: int) -> None:
    version, wide = body[at], 2 if _uint(body, at + 1, 3) & 1 else 1
    count, at = _uint(body, at + 4, 4), at + 8
    for _ in range(min(count, MAX_BOXES)):
        id_size = 4 if version else 2
        item, number, at = _uint(body, at, id_size), body[at + id_size], at + id_size + 1
        mask = 0x7FFF if wide == 2 else 0x7F
        indices = [_uint(body, at + i * wide, wide) & mask for i in range(number)]
        walk.assigned.setdefault(item, indices)
        at += number * wide


def _item_places(walk: _Walk, body: bytes) -> None:
    """Read where the data of each item lies (ISO/IEC 14496-12, 8.11.3)."""
    version, sizes = body[0], _uint(body, 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version >= 2 else 2
    count, at = _uint(body, 6, wide), 6 + wide
    for _ in range(min(count, MAX_BOXES)):
        item, at = _uint(body, at, wide), at + wide
        method = _uint(body, at, 2) & 15 if version else 0
        at += 4 if version else 2
        base, extents = _uint(body, at, base_size), _uint(body, at + base_size, 2)
        at += base_size + 2
        walk.boxes -= extents
        if walk.boxes < 0:
            raise corrupt("its items are scattered over thousands of places")
        places = walk.places.setdefault(item, [])
        for _ in range(extents):
            at += index_size
            start, length = _uint(body, at, offset_size), _uint(body, at + offset_size, length_size)
            at += offset_size + length_size
            # Places within the idat box are kept as negative offsets until its place is known.
            places.append((-1 - base - start if method == 1 else base + start, length))


def _check_grids(walk: _Walk, limits: DecodeLimits) -> None:
    """Refuse grids whose tiles come to far more than a whole image, as by repeating a tile."""
    for item, kind in walk.items.items():
        if kind in (b"iovl", b"iden"):
            raise unsupported("The bytes are an overlay of HEIF images, which is not read here.")
        if kind == b"grid":
            tiles = walk.references.get(item, ())
            if any(walk.items.get(tile) not in _CODECS for tile in tiles):
                raise corrupt("a HEIF grid is made of something other than coded tiles")
            if sum(_area(walk, tile) for tile in tiles) > 2 * limits.max_pixels:
                raise corrupt("the tiles of a HEIF grid are far larger than the image")


def _area(walk: _Walk, item: int) -> int:
    size = _property(walk, item, b"ispe")
    return _uint(size, 4, 4) * _uint(size, 8, 4) if len(size) >= 12 else 0


def _property(walk: _Walk, item: int, wanted: bytes) -> bytes:
    """The first property of a kind that is assigned to an item, or nothing."""
    for index in walk.assigned.get(item, ()):
        if 0 < index <= len(walk.properties) and walk.properties[index - 1][0] == wanted:
            return walk.properties[index - 1][1]
    return b""


def _item_references(walk: _Walk, body: bytes) -> None:
    """Read of which items each derived item is made (ISO/IEC 14496-12, 8.11.12)."""
    wide = 4 if body[0] else 2
    for kind, start, _ in _boxes(walk, body, 4, len(body)):
        if kind == b"dimg":
            count, at = _uint(body, start + wide, 2), start + wide + 2
            to = [_uint(body, at + i * wide, wide) for i in range(count)]
            walk.references.setdefault(_uint(body, start, wide), to)


def _check_bitstreams(walk: _Walk, data: bytes, limits: DecodeLimits) -> None:
    budget = 2 * len(data)
    for item, kind in walk.items.items():
        if kind not in _CODECS:
            continue
        parts: list[bytes] = []
        for start, length in walk.places.get(item, ()):
            if start < 0:
                start = walk.inline - 1 - start
            parts.append(data[start : start + length] if length or parts else data[start:])
            budget -= len(parts[-1])
            if budget < 0:
                raise corrupt("the items of the HEIF container overlap")
        coded = b"".join(parts)
        if kind == b"av01":
            _check_size(largest_av1_frame(coded), limits)
        else:
            settings = _property(walk, item, b"hvcC")
            check_hevc(coded, (settings[21] & 3) + 1 if len(settings) > 21 else 4)


def _count_samples(walk: _Walk, data: bytes, at: int, end: int, path: tuple[bytes, ...]) -> None:
    """Read the number of samples of the first track."""
    for kind, start, stop in _boxes(walk, data, at, min(end, len(data))):
        if path and kind == path[0]:
            _count_samples(walk, data, start, stop, path[1:])
        elif not path and kind in (b"stsz", b"stz2") and not walk.samples and stop - start >= 12:
            walk.samples = int.from_bytes(data[start + 8 : start + 12], "big")
