"""The two files of a segment: where its data lies, and the head that vouches for every byte of it.

``NAME.data`` holds sections that begin at pages: ids, the columns of the tags, codes, vectors.
Numbers are little-endian. ``NAME.head`` holds the 8 bytes of the version, the SHA-256 of all that
follows, the length of a JSON text (4 bytes), the text, the centre (float32), the digests (32
bytes for each piece of each section, in order), and the dead rows (int64). ``NAME.head.next`` is
the head that a change of the data ends with, while the change is being made.

The head of an encrypted segment holds the 8 bytes of its version, and sealed all that follows the
digest in a plain one, with marks in the place of digests (``segment_seal``). ``NAME.redo`` holds
the pieces that a change puts into its data, while the change is being made.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexDamaged, SealBroken, SealKeyMissing
from indexer.sealing.keyring import OVERHEAD, Keyring
from indexer.vectors.quantise import ZERO
from indexer.vectors.segment_ids import ID_BYTES
from models.types import FloatArray

_MAGIC = b"HMWDSG01"
_SEALED_MAGIC = b"HMWDSE01"
_DIGEST = 32
MARK_BYTES = _DIGEST
"""Of the mark that an encrypted piece has in the place of a digest."""
_START = len(_MAGIC) + _DIGEST
_PAGE = 4096
_CODES_AT_ONCE = 1 << 20
"""Bytes that one digest vouches for where all is checked at opening: a deletion hashes so much."""
_VECTORS_AT_ONCE = 1 << 16
"""The same for vectors, which are checked as they are read: a search reads a few of them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")

_BLANK: Mapping[str, int] = {"codes": ZERO, "vectors": 0}
"""What the bytes of a dead row are, in the sections that hold anything of a face."""


@dataclass(frozen=True, slots=True)
class History:
    """How far a segment knows the log of its gallery.

    ``seq`` is the last entry that its dead rows follow; ``seq_face_id`` the face it names, by
    which a log with another history (a restored catalog) is told apart.
    """

    seq: int
    seq_face_id: str


@dataclass(frozen=True, slots=True)
class Section:
    """``rows`` rows of ``width`` numbers from ``offset`` on; one digest for ``piece`` rows.

    The last piece reaches to the end of its page.
    """

    name: str
    dtype: str
    rows: int
    width: int
    offset: int
    piece: int

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * self.width

    @property
    def end(self) -> int:
        """Where the next section begins."""
        return self.offset + -(-self.rows * self.row_bytes // _PAGE) * _PAGE

    @property
    def pieces(self) -> int:
        return -(-self.rows // self.piece)

    def span(self, piece: int) -> tuple[int, int]:
        """First byte of a piece in the file, and the first after it."""
        start = self.offset + piece * self.piece * self.row_bytes
        last = piece == self.pieces - 1
        return start, self.end if last else start + self.piece * self.row_bytes

    def view(self, data: NDArray[np.uint8]) -> NDArray[np.generic]:
        """The section in the bytes of the whole file: (rows, width), or (rows,) for width 1."""
        raw = data[self.offset : self.offset + self.rows * self.row_bytes].view(self.dtype)
        return raw if self.width == 1 else raw.reshape(self.rows, self.width)

    def blank(self, data: NDArray[np.uint8], piece: int, dead: NDArray[np.int64]) -> None:
        """Make ``data``, the bytes of a piece, what they are once the rows ``dead`` are."""
        if self.name not in _BLANK:
            return
        first = piece * self.piece
        rows = min(self.piece, self.rows - first)
        here = dead[np.searchsorted(dead, first) : np.searchsorted(dead, first + rows)] - first
        table = data[: rows * self.row_bytes].reshape(rows, self.row_bytes)
        table[here] = _BLANK[self.name]

    def blank_rows(self, data: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Blank ``rows`` of the section in the bytes of the whole file."""
        table = data[self.offset : self.offset + self.rows * self.row_bytes]
        table.reshape(self.rows, self.row_bytes)[rows] = _BLANK[self.name]

    def blank_bytes(self, rows: int) -> bytes:
        """What as many dead rows are in the file."""
        return bytes([_BLANK[self.name]]) * (rows * self.row_bytes)


def layout(
    count: int, dimension: int, columns: Mapping[str, NDArray[np.generic]]
) -> tuple[Section, ...]:
    """The sections of a segment of ``count`` rows with these columns, in the order of the file."""
    wanted: list[tuple[str, str, int, int, int]] = [
        ("ids", "|u1", count, ID_BYTES, _CODES_AT_ONCE),
        *(
            (name, column.dtype.newbyteorder("<").str, len(column), 1, _CODES_AT_ONCE)
            for name, column in columns.items()
        ),
        ("codes", "|u1", count, dimension, _CODES_AT_ONCE),
        ("vectors", "<f4", count, dimension, _VECTORS_AT_ONCE),
    ]
    sections: list[Section] = []
    offset = 0
    for name, dtype, rows, width, at_once in wanted:
        piece = max(1, at_once // (np.dtype(dtype).itemsize * width))
        sections.append(Section(name, dtype, rows, width, offset, piece))
        offset = sections[-1].end
    return tuple(sections)


def slot(sections: Sequence[Section], section: Section, piece: int) -> tuple[int, int]:
    """First byte of a sealed piece in the file, and how many they are."""
    before = sum(one.pieces for one in sections if one.offset < section.offset)
    start, end = section.span(piece)
    return start + (before + piece) * OVERHEAD, end - start + OVERHEAD


def file_bytes(sections: Sequence[Section], *, sealed: bool) -> int:
    """How long the file of the data is."""
    more = sum(section.pieces for section in sections) * OVERHEAD if sealed else 0
    return sections[-1].end + more


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """What a head says. ``dead``: int64, ascending. ``digests``: 32 bytes a piece, by section;
    marks where it is encrypted. ``keys``: the ids of the data keys that the pieces are sealed
    with, ascending; none where it is not encrypted.
    """

    name: str
    gallery: str
    contract_id: str
    dimension: int
    count: int
    scale: float
    residual: float
    reach: float
    words: Mapping[str, Sequence[str]]
    sections: tuple[Section, ...]
    history: History
    centre: FloatArray
    digests: Mapping[str, bytes]
    dead: NDArray[np.int64]
    keys: tuple[str, ...] = ()

    @property
    def sealed(self) -> bool:
        """Whether the segment is encrypted."""
        return bool(self.keys)

    @property
    def data_bytes(self) -> int:
        """How long the file of the data is."""
        return file_bytes(self.sections, sealed=self.sealed)

    @property
    def plain_bytes(self) -> int:
        """How long it is, or would be, where it is not encrypted."""
        return file_bytes(self.sections, sealed=False)

    @property
    def blanked(self) -> tuple[Section, ...]:
        """The sections in which a dead row leaves nothing."""
        return tuple(section for section in self.sections if section.name in _BLANK)

    def section(self, name: str) -> Section:
        """The section of this name, or ``KeyError``."""
        return {section.name: section for section in self.sections}[name]

    def digest(self, section: Section, piece: int) -> bytes:
        """What the SHA-256 of a piece has to be."""
        return self.digests[section.name][piece * _DIGEST : (piece + 1) * _DIGEST]

    @property
    def head_bytes(self) -> int:
        """How long the file of this head is."""
        start = len(_SEALED_MAGIC) + OVERHEAD if self.sealed else _START
        return start + sum(len(part) for part in self._parts())

    def packed(self, keys: Keyring | None = None) -> list[bytes]:
        """The bytes of the file, in parts; ``keys`` seal it where the segment is encrypted."""
        parts = self._parts()
        if self.sealed:
            assert keys is not None
            return [_SEALED_MAGIC, keys.seal(_context(self.name), b"".join(parts))]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        return [_MAGIC, digest.digest(), *parts]

    def _parts(self) -> list[bytes]:
        said = {
            "name": self.name,
            "gallery": self.gallery,
            "contract_id": self.contract_id,
            "dimension": self.dimension,
            "count": self.count,
            "scale": self.scale,
            "residual": self.residual,
            "reach": self.reach,
            "words": {name: list(words) for name, words in self.words.items()},
            "sections": [asdict(section) for section in self.sections],
            "history": asdict(self.history),
            "dead": len(self.dead),
        }
        if self.sealed:
            said["keys"] = list(self.keys)
        text = json.dumps(said, sort_keys=True).encode()
        return [
            struct.pack("<I", len(text)),
            text,
            self.centre.astype("<f4").tobytes(),
            *(self.digests[section.name] for section in self.sections),
            self.dead.astype("<i8").tobytes(),
        ]


def data_path(folder: Path, name: str) -> Path:
    return folder / f"{_checked(name)}.data"


def head_path(folder: Path, name: str) -> Path:
    return folder / f"{_checked(name)}.head"


def next_path(folder: Path, name: str) -> Path:
    return folder / f"{_checked(name)}.head.next"


def redo_path(folder: Path, name: str) -> Path:
    return folder / f"{_checked(name)}.redo"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a segment")
    return name


def read_head(path: Path, name: str, keys: Keyring | None = None) -> Head:
    """The head of segment ``name`` at ``path``; ``keys`` open it where it is encrypted.

    Raises ``FileNotFoundError``, and :class:`IndexDamaged` for a file that is cut short, changed,
    of another version or of another segment, for one whose key is gone, and for one that is not
    encrypted where all has to be. Where it is encrypted and no keys are given,
    :class:`SealKeyMissing`: that is no damage, and nothing is made anew in plain.
    """
    raw = path.read_bytes()
    if raw.startswith(_SEALED_MAGIC):
        body = _opened(raw, path, name, keys)
    else:
        body = _vouched(raw, path)
        if keys is not None and not keys.accepts_plain:
            raise IndexDamaged(f"{path.name} is not encrypted, and everything has to be.")
    try:
        head = _parsed(body)
        if head.sealed != raw.startswith(_SEALED_MAGIC):
            raise ValueError("keys of a plain segment, or none of an encrypted one")
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise IndexDamaged(f"{path.name} cannot be read.") from error
    if head.name != name:
        raise IndexDamaged(f"{path.name} is the head of {head.name}.")
    return head


def _vouched(raw: bytes, path: Path) -> bytes:
    """What the digest of a plain head vouches for."""
    if len(raw) < _START + 4:
        raise IndexDamaged(f"{path.name} is cut short ({len(raw)} bytes).")
    if not raw.startswith(_MAGIC):
        raise IndexDamaged(f"{path.name} is no segment of this version.")
    body = raw[_START:]
    if hashlib.sha256(body).digest() != raw[len(_MAGIC) : _START]:
        raise IndexDamaged(f"{path.name} fails its checksum.")
    return body


def _opened(raw: bytes, path: Path, name: str, keys: Keyring | None) -> bytes:
    """What is sealed in the head of an encrypted segment."""
    if keys is None:
        raise SealKeyMissing(
            f"Segment {name} of the vector index is encrypted, and no key is set.",
            remedy="Set the encryption keys of this data folder.",
        )
    try:
        return keys.open(_context(name), memoryview(raw)[len(_SEALED_MAGIC) :])
    except SealBroken as error:
        raise IndexDamaged(f"{path.name} fails its checksum.") from error
    except SealKeyMissing as error:
        raise IndexDamaged(f"{path.name} cannot be opened: {error.detail}") from error


def _context(name: str) -> bytes:
    return f"segment {name} head".encode()


def _parsed(raw: bytes) -> Head:
    (length,) = struct.unpack_from("<I", raw)
    at = 4 + length
    said = json.loads(raw[4:at])
    sections = tuple(Section(**section) for section in said.pop("sections"))
    dead_count, history = said.pop("dead"), History(**said.pop("history"))
    keys = tuple(said.pop("keys", ()))

    def taken(size: int) -> bytes:
        nonlocal at
        at += size
        if at > len(raw):
            raise ValueError("cut short")
        return raw[at - size : at]

    centre = np.frombuffer(taken(4 * said["dimension"]), "<f4").astype(np.float32)
    digests = {section.name: taken(_DIGEST * section.pieces) for section in sections}
    dead = np.frombuffer(taken(8 * dead_count), "<i8").astype(np.int64)
    if at != len(raw):
        raise ValueError("too long")
    return Head(
        **said,
        sections=sections,
        history=history,
        centre=centre,
        digests=digests,
        dead=dead,
        keys=keys,
    )


def latest_head(folder: Path, name: str, keys: Keyring | None = None) -> Head:
    """What the data of the segment is, or is being made. Raises as :func:`read_head` does."""
    # In this order: a change that ends in between has put its head in the place of the old one.
    try:
        return read_head(next_path(folder, name), name, keys)
    except (FileNotFoundError, IndexDamaged):
        return read_head(head_path(folder, name), name, keys)
