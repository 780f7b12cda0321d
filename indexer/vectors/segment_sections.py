"""How the sections of a new segment get into its file: as they are and hashed, or encrypted."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from indexer.sealing.keyring import Keyring
from indexer.vectors.segment_head import MARK_BYTES, Section, slot
from indexer.vectors.segment_seal import open_piece, seal_piece
from models.types import FloatArray

_READ_AT_ONCE = 1 << 15
"""Numbers: 256 KiB as float64, so that what encoding makes of them stays in the cache of a core.
Measured: 64 rows of 512 at once take a quarter of the time of 4096."""


class SectionWriter(Protocol):
    """Writes one section from its first row on, a piece at a time."""

    @property
    def section(self) -> Section:
        """What is written."""
        ...

    @property
    def keys(self) -> set[str]:
        """The ids of the keys that it was sealed with; none where it is not encrypted."""
        ...

    def write(self, rows: NDArray[np.generic]) -> None:
        """The next rows, in the byte order of the file."""
        ...

    def finished(self) -> bytes:
        """The digests, or marks, of all pieces, once every row is written."""
        ...

    def blocks(self) -> Iterator[FloatArray]:
        """What was written of a section of vectors, once it is finished: some rows at a time."""
        ...


def writers(
    handle: int, name: str, sections: Sequence[Section], keys: Keyring | None
) -> dict[str, SectionWriter]:
    """One for each section of segment ``name``, whose file is as long as it is to be."""
    if keys is None:
        return {section.name: _PlainWriter(handle, section) for section in sections}
    return {
        section.name: _SealedWriter(handle, name, sections, section, keys) for section in sections
    }


def write_all(handle: int, data: memoryview | bytes, offset: int) -> None:
    """Write every byte of ``data`` at ``offset``, however many calls it takes."""
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, offset)
        left, offset = left[written:], offset + written


class _PlainWriter:
    """See :class:`SectionWriter`; hashes what it writes."""

    def __init__(self, handle: int, section: Section) -> None:
        self.section = section
        self.keys: set[str] = set()
        self._handle = handle
        self._at = section.offset
        self._digest = hashlib.sha256()
        self._digests = bytearray()

    def write(self, rows: NDArray[np.generic]) -> None:
        raw = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        write_all(self._handle, raw.data, self._at)
        self._hash(raw.data)

    def finished(self) -> bytes:
        # The file was made as long as it is to be, so the rest of the page reads as zeros.
        self._hash(memoryview(bytes(self.section.end - self._at)))
        return bytes(self._digests)

    def blocks(self) -> Iterator[FloatArray]:
        section = self.section
        with mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ) as mapped:
            step = max(1, _READ_AT_ONCE // section.width) * section.row_bytes
            end = section.offset + section.rows * section.row_bytes
            for start in range(section.offset, end, step):
                yield _rows(mapped[start : min(start + step, end)], section.width)

    def _hash(self, raw: memoryview) -> None:
        while raw:
            _, stop = self.section.span(len(self._digests) // self._digest.digest_size)
            part = raw[: stop - self._at]
            self._digest.update(part)
            self._at, raw = self._at + len(part), raw[len(part) :]
            if self._at == stop:
                self._digests += self._digest.digest()
                self._digest = hashlib.sha256()


class _SealedWriter:
    """See :class:`SectionWriter`; holds what is not yet a whole piece, and seals it then."""

    def __init__(
        self, handle: int, name: str, sections: Sequence[Section], section: Section, keys: Keyring
    ) -> None:
        self.section = section
        self.keys: set[str] = set()
        self._handle = handle
        self._name = name
        self._sections = sections
        self._keyring = keys
        self._held = bytearray()
        self._marks = bytearray()

    def write(self, rows: NDArray[np.generic]) -> None:
        left = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        while left:
            start, stop = self.section.span(self._piece)
            part = left[: stop - start - len(self._held)]
            self._held += part
            left = left[len(part) :]
            if len(self._held) == stop - start:
                self._seal()

    def finished(self) -> bytes:
        if self._piece < self.section.pieces:
            start, stop = self.section.span(self._piece)
            self._held += bytes(stop - start - len(self._held))
            self._seal()
        return bytes(self._marks)

    def blocks(self) -> Iterator[FloatArray]:
        section = self.section
        for piece in range(section.pieces):
            mark = bytes(self._marks[piece * MARK_BYTES : (piece + 1) * MARK_BYTES])
            offset, length = slot(self._sections, section, piece)
            sealed = os.pread(self._handle, length, offset)
            raw = open_piece(self._keyring, self._name, section, piece, mark, sealed)
            rows = min(section.piece, section.rows - piece * section.piece)
            yield _rows(raw[: rows * section.row_bytes], section.width)

    @property
    def _piece(self) -> int:
        return len(self._marks) // MARK_BYTES

    def _seal(self) -> None:
        sealed, mark, key = seal_piece(
            self._keyring, self._name, self.section, self._piece, bytes(self._held)
        )
        offset, _ = slot(self._sections, self.section, self._piece)
        write_all(self._handle, sealed, offset)
        self._held.clear()
        self._marks += mark
        self.keys.add(key)


def _rows(raw: bytes, width: int) -> FloatArray:
    return np.frombuffer(raw, "<f4").reshape(-1, width).astype(np.float32, copy=False)
