"""Encrypted segments: the pieces of a plain one, each sealed by itself, in the same order.

``NAME.data`` holds what the keyring made of each piece; so piece n of the file lies where it would
in a plain one, and n times further by what sealing adds. What a piece is sealed with says where it
belongs and when it was written: the segment, the section, its number, and a mark of 32 random
bytes that the head holds in the place of a digest and that is drawn anew each time the piece is
written. The head is sealed as well, so that no piece can be swapped, moved, left out or put back
as it was before a deletion. Nothing is mapped: all is decrypted into memory when it is opened.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexDamaged, SealBroken, SealKeyMissing
from indexer.sealing.keyring import OVERHEAD, Keyring, key_id_of
from indexer.vectors.segment_head import MARK_BYTES, Head, Section, data_path, slot


def seal_piece(
    keys: Keyring, name: str, section: Section, piece: int, raw: memoryview | bytes
) -> tuple[bytes, bytes, str]:
    """One piece of segment ``name`` sealed, the mark drawn for it, and the id of the key."""
    mark = os.urandom(MARK_BYTES)
    sealed = keys.seal(_context(name, section, piece, mark), raw)
    if len(sealed) != len(raw) + OVERHEAD:
        raise ValueError(f"a piece of {len(raw)} bytes is {len(sealed)} long when it is sealed")
    return sealed, mark, key_id_of(sealed) or ""


def open_piece(
    keys: Keyring, name: str, section: Section, piece: int, mark: bytes, sealed: bytes
) -> bytes:
    """What was sealed as this piece under this mark.

    Raises :class:`IndexDamaged` where it is anything else, or its key is gone.
    """
    try:
        return keys.open(_context(name, section, piece, mark), sealed)
    except SealBroken as error:
        raise IndexDamaged(
            f"The {section.name} of segment {name} fail their checksum: piece {piece} is not what "
            "was sealed there last."
        ) from error
    except SealKeyMissing as error:
        raise IndexDamaged(
            f"The {section.name} of segment {name} cannot be opened: {error.detail}"
        ) from error


def read_piece(handle: int, head: Head, section: Section, piece: int, keys: Keyring) -> bytes:
    """One piece of an open data file, in plain. Raises as :func:`open_piece`."""
    offset, length = slot(head.sections, section, piece)
    sealed = os.pread(handle, length, offset)
    return open_piece(keys, head.name, section, piece, head.digest(section, piece), sealed)


def unsealed(handle: int, head: Head, keys: Keyring) -> NDArray[np.uint8]:
    """Everything in an open data file, laid out as in a plain one: uint8 (bytes,).

    Nobody may be scrubbing meanwhile. Raises as :func:`open_piece`.
    """
    data = np.empty(head.plain_bytes, np.uint8)
    at = 0  # in the order of the file, one piece follows the other
    for section in head.sections:
        for piece in range(section.pieces):
            start, end = section.span(piece)
            sealed = os.pread(handle, end - start + OVERHEAD, at)
            at += end - start + OVERHEAD
            mark = head.digest(section, piece)
            raw = open_piece(keys, head.name, section, piece, mark, sealed)
            data[start:end] = np.frombuffer(raw, np.uint8)
    return data


@contextmanager
def unchanged(folder: Path, name: str) -> Generator[int]:
    """The data file, open for reading, which no process scrubs meanwhile."""
    handle = os.open(data_path(folder, name), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield handle
    finally:
        os.close(handle)


def _context(name: str, section: Section, piece: int, mark: bytes) -> bytes:
    return f"segment {name} {section.name} {piece} ".encode() + mark.hex().encode()
