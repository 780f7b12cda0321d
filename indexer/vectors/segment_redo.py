"""The pieces that a scrub of an encrypted segment puts into its data, on the disk before it does.

A plain row is blanked where it lies, as often as it takes. A sealed piece that is half written can
be opened by nobody, so the whole of the new one is kept in ``NAME.redo`` until it is in its place.
The file counts only beside a head that a scrub has to end with, which is written after it.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexDamaged
from indexer.files import fsync_folder
from indexer.sealing.keyring import OVERHEAD, Keyring
from indexer.vectors.segment_head import MARK_BYTES, Head, redo_path, slot
from indexer.vectors.segment_seal import read_piece, seal_piece
from indexer.vectors.segment_sections import write_all

_RECORD = struct.Struct("<QQ")
_AT_ONCE = 1 << 26
"""Bytes of pieces that one step of a scrub seals anew, at the most but one piece."""


def steps(head: Head, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """``rows``, ascending, in runs that touch so many pieces that their redo file stays small."""
    if not len(rows):
        return [rows]
    cost = np.zeros(len(rows), np.int64)
    for section in head.blanked:
        pieces = rows // section.piece
        first = np.diff(pieces, prepend=-1) != 0
        cost[first] += section.piece * section.row_bytes
    run = np.cumsum(cost) // _AT_ONCE
    return np.split(rows, np.flatnonzero(np.diff(run)) + 1)


def write_redo(
    folder: Path, handle: int, head: Head, rows: NDArray[np.int64], keys: Keyring
) -> Head:
    """Write the pieces of the open data file as they are without ``rows``, and make them last.

    Returns the head with their marks. Raises :class:`IndexDamaged` where a piece is damaged; the
    file is taken away again where it cannot be written.
    """
    if not len(rows):
        return head
    path = redo_path(folder, head.name)
    marks = {section.name: bytearray(head.digests[section.name]) for section in head.blanked}
    used = set(head.keys)
    redo = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        at = 0
        for section in head.blanked:
            for piece in np.unique(rows // section.piece).tolist():
                data = np.frombuffer(
                    read_piece(handle, head, section, piece, keys), np.uint8
                ).copy()
                section.blank(data, piece, rows)
                sealed, mark, key = seal_piece(keys, head.name, section, piece, data.data)
                marks[section.name][piece * MARK_BYTES : (piece + 1) * MARK_BYTES] = mark
                used.add(key)
                place, length = slot(head.sections, section, piece)
                write_all(redo, _RECORD.pack(place, length) + sealed, at)
                at += _RECORD.size + length
        os.fsync(redo)
        fsync_folder(folder)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(redo)
    digests = {**head.digests, **{name: bytes(some) for name, some in marks.items()}}
    return replace(head, digests=digests, keys=tuple(sorted(used)))


def apply_redo(folder: Path, handle: int, head: Head) -> None:
    """Put the pieces of the redo file, if there is one, into the open data file.

    Raises :class:`IndexDamaged` for a file that cannot be one.
    """
    try:
        redo = os.open(redo_path(folder, head.name), os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        at, size = 0, os.fstat(redo).st_size
        while at < size:
            record = os.pread(redo, _RECORD.size, at)
            place, length = _RECORD.unpack(record) if len(record) == _RECORD.size else (0, 0)
            at += _RECORD.size + length
            if length <= OVERHEAD or at > size or place + length > head.data_bytes:
                raise IndexDamaged(f"What a change of segment {head.name} left is damaged.")
            write_all(handle, os.pread(redo, length, at - length), place)
    finally:
        os.close(redo)


def drop_redo(folder: Path, name: str) -> None:
    """Remove the redo file, if there is one."""
    path = redo_path(folder, name)
    if path.exists():
        path.unlink()
        fsync_folder(folder)
