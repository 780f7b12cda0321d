"""JPEG (ITU-T T.81): marker walk, a clean copy for the decoder, decoding.

The decoder never sees the file itself but a copy that holds only what it needs: tables,
frame, scans and the JFIF and Adobe markers. Metadata, previews and whatever lies behind the
end of the image stay out.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from models.decoding.common import (
    MAX_PROFILE_BYTES,
    DecodeLimits,
    ImageHeader,
    Loaded,
    corrupt,
    exif_orientation,
    is_padding,
    truncated,
    unsupported,
)

MAX_SCANS = 100
"""Each scan of a progressive file costs a walk over the whole image, however few bytes it
holds; encoders write about 10, the most elaborate script of mozjpeg about 60."""

MAX_SEGMENTS = 20_000

# A marker that is neither a stuffed byte, a fill byte nor a restart marker.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_SOF_READ = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_SOF_OTHER = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE, 0xF7))
_TABLES = frozenset((0xDB, 0xC4, 0xDD, 0xCC))
_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD

# Appended to a file without end marker in two ways; see _ends_whole.
_END = b"\xff\xd9"
_FILLER = bytes(range(0x55, 0x95)) + _END


@dataclass(slots=True)
class _Frame:
    marker: int
    width: int
    height: int
    sampling: list[tuple[int, int]]

    @property
    def sequential(self) -> bool:
        """Huffman-coded and not progressive."""
        return self.marker in (0xC0, 0xC1)

    def least_bytes(self) -> int:
        """The least entropy-coded bytes of a sequential frame: two bits for each block.

        A block has at least one code for its DC and one for its AC coefficients, and no
        Huffman code is shorter than one bit (T.81, F.1.2).
        """
        across = max(h for h, _ in self.sampling)
        down = max(v for _, v in self.sampling)
        blocks = sum(
            -(-self.width * h // (8 * across)) * -(-self.height * v // (8 * down))
            for h, v in self.sampling
        )
        return blocks // 4


@dataclass(slots=True)
class _Walk:
    frame: _Frame | None = None
    pieces: list[memoryview] = field(default_factory=list)
    scans: int = 0
    scan_bytes: int = 0
    restarts: bool = False
    end: int | None = None
    orientation: int | None = None
    profile: dict[int, bytes] = field(default_factory=dict)


def header(data: bytes) -> ImageHeader:
    """Read the frame header; nothing behind it is looked at."""
    frame = _walk(data, header_only=True).frame
    if frame is None:
        raise truncated("there is no frame header")
    return ImageHeader("jpeg", frame.width, frame.height)


def load(data: bytes, limits: DecodeLimits) -> Loaded:
    walk = _walk(data, header_only=False)
    frame = walk.frame
    if frame is None or walk.scans == 0:
        raise truncated("there is no image data")
    loaded = Loaded(
        np.empty((0, 0, 3), np.uint8),
        icc=_profile(walk.profile),
        orientation=walk.orientation or 1,
    )
    if walk.end is not None and not is_padding(data[walk.end :]):
        loaded.notes.append("trailing_data")
    if frame.sequential and walk.scan_bytes < frame.least_bytes():
        loaded.truncated = True
    # A file cut inside a marker ends with FF, which must not join with what is appended.
    clean = b"".join([b"\xff\xd8", *walk.pieces]).rstrip(b"\xff")
    if walk.end is None and not loaded.truncated:
        plain = frame.sequential and walk.scans == 1 and not walk.restarts
        if plain and _ends_whole(clean, frame):
            loaded.notes.append("no_end_marker")
        else:
            loaded.truncated = True
    if loaded.truncated:
        if not limits.allow_truncated:
            raise truncated(f"only a part of the {frame.width} x {frame.height} pixels is there")
        loaded.notes.append("truncated")
    if len(frame.sampling) == 4:
        # Adobe's four-component files hold inverted ink, and every common viewer takes those
        # without its marker for inverted as well; Pillow does the same.
        loaded.image = JpegImageFile(io.BytesIO(clean + _END))
    elif len(frame.sampling) == 1 and loaded.icc is not None:  # its profile speaks of one channel
        loaded.image = Image.fromarray(_decode(clean + _END, frame, cv2.IMREAD_GRAYSCALE))
    else:
        loaded.image = _decode(clean + _END, frame)
    return loaded


def _decode(clean: bytes, frame: _Frame, flags: int = cv2.IMREAD_COLOR_RGB) -> NDArray[np.uint8]:
    """Return (height, width, 3) RGB, or (height, width) if ``flags`` ask for grey."""
    # The same libjpeg-turbo arithmetic as Pillow's, in half the time and without a detour
    # through four bytes per pixel.
    encoded = np.frombuffer(clean, np.uint8)
    pixels = cv2.imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[:2] != (frame.height, frame.width):
        raise corrupt("the JPEG decoder could not read it")
    return np.asarray(pixels, dtype=np.uint8)


def _ends_whole(clean: bytes, frame: _Frame) -> bool:
    """Whether a file without end marker has all its image data.

    Whatever follows the last block changes no pixel. So the file is decoded with two different
    endings: where they make a difference, blocks are missing. (Not so with restart markers: at
    the end of an interval the decoder skips anything that is no marker.)
    """
    if len(frame.sampling) == 4:
        images = [np.asarray(JpegImageFile(io.BytesIO(clean + end))) for end in (_END, _FILLER)]
    else:
        images = [_decode(clean + end, frame) for end in (_END, _FILLER)]
    return bool(np.array_equal(images[0], images[1]))


def _walk(data: bytes, *, header_only: bool) -> _Walk:
    view = memoryview(data)
    walk = _Walk()
    match = _MARKER.search(data, 2)
    for _ in range(MAX_SEGMENTS):
        if match is None:
            return walk
        start, marker = match.start(), data[match.start() + 1]
        if marker == _EOI:
            walk.end = match.end()
            return walk
        if marker == _SOI or marker < 0xC0:
            raise corrupt(f"marker FF{marker:02X} stands where none may be")
        if start + 4 > len(data):
            return walk
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if end < start + 4:
            raise corrupt("a JPEG segment has no length")
        if end > len(data):
            return walk
        if _segment(walk, marker, data[start:end]):
            walk.pieces.append(view[start:end])
        if header_only and walk.frame is not None:
            return walk
        match = _MARKER.search(data, end)
        if marker == _SOS:
            stop = match.start() if match is not None else len(data)
            walk.pieces.append(view[end:stop])
            walk.scan_bytes += stop - end
    raise corrupt(f"it has more than {MAX_SEGMENTS:,} JPEG segments")


def _segment(walk: _Walk, marker: int, piece: bytes) -> bool:
    """Take in one whole segment and say whether the decoder needs it.

    ``piece`` starts with the marker and its length.
    """
    if marker in _SOF_OTHER:
        raise unsupported("The bytes are a lossless or hierarchical JPEG, which is not read here.")
    if marker in _SOF_READ:
        if walk.frame is not None:
            raise corrupt("it has two JPEG frame headers")
        walk.frame = _frame(marker, piece[4:])
    elif marker == _SOS:
        if walk.frame is None:
            raise corrupt("image data comes before the JPEG frame header")
        walk.scans += 1
        if walk.scans > MAX_SCANS:
            raise corrupt(f"it has more than {MAX_SCANS} JPEG scans, a sign of a decoder trap")
    elif marker == 0xE1:
        if walk.orientation is None and piece[4:10] == b"Exif\0\0":
            walk.orientation = exif_orientation(piece[10:])
        return False
    elif marker == 0xE2:
        if piece[4:16] == b"ICC_PROFILE\0" and len(piece) > 18:
            walk.profile.setdefault(piece[16], piece[18:])
        return False
    elif marker in (0xE0, 0xEE):
        return piece[4:9] in (b"JFIF\0", b"Adobe")
    elif marker == _DRI:
        walk.restarts = walk.restarts or any(piece[4:])
    elif marker not in _TABLES:
        return False
    return True


def _frame(marker: int, body: bytes) -> _Frame:
    """Read a frame header (T.81, B.2.2) from behind its length."""
    try:
        precision, height, width, components = struct.unpack_from(">BHHB", body)
        factors = [body[7 + 3 * i] for i in range(components)]
    except (struct.error, IndexError):
        raise corrupt("its JPEG frame header is too short") from None
    if precision != 8:
        raise unsupported(f"The bytes are a JPEG of {precision} bits, which is not read here.")
    if components not in (1, 3, 4):
        raise unsupported(f"The bytes are a JPEG of {components} components, not read here.")
    sampling = [(factor >> 4, factor & 15) for factor in factors]
    if not all(1 <= h <= 4 and 1 <= v <= 4 for h, v in sampling):
        raise corrupt("its JPEG sampling factors are out of range")
    return _Frame(marker, width, height, sampling)


def _profile(parts: dict[int, bytes]) -> bytes | None:
    """Join the numbered parts of an ICC profile (ICC.1:2022, B.4)."""
    profile = b"".join(parts[number] for number in sorted(parts))
    return profile if 0 < len(profile) <= MAX_PROFILE_BYTES else None
