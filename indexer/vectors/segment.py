"""A segment: face vectors in immutable files, sorted by id, mapped and never trusted unread.

Ids, columns and codes are checked whole when a segment is opened; vectors piece by piece, when
the first of a piece is read. Processes share the pages; what one of them scrubs is blank for all.

An encrypted segment (``segment_seal``) is decrypted whole into memory of this process when it is
opened, which checks all of it; what another process scrubs is blank here once that is learned.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexDamaged
from indexer.files import storage_errors
from indexer.sealing.keyring import Keyring
from indexer.vectors.quantise import Codes, Quantiser
from indexer.vectors.segment_changes import finish, remove_segment, scrub, sweep
from indexer.vectors.segment_head import (
    Head,
    History,
    Section,
    data_path,
    head_path,
    latest_head,
    next_path,
    read_head,
)
from indexer.vectors.segment_ids import IdArray, sortable, to_bytes, to_texts
from indexer.vectors.segment_seal import unchanged, unsealed
from indexer.vectors.segment_source import SegmentSource, from_arrays, merged
from indexer.vectors.segment_write import SegmentInfo, off_length, write_segment
from indexer.vectors.tags import Columns
from models.types import FloatArray

__all__ = [
    "History",
    "Segment",
    "SegmentInfo",
    "SegmentSource",
    "from_arrays",
    "merged",
    "open_segment",
    "remove_segment",
    "scrub",
    "sweep",
    "write_segment",
]

_ATTEMPTS = 4
"""How many scrubs may come between while one answer is read."""


def open_segment(
    folder: Path,
    name: str,
    *,
    gallery: str,
    contract_id: str,
    dimension: int,
    keys: Keyring | None = None,
) -> Segment:
    """Open segment ``name``; a scrub of it that broke off is finished first.

    Raises :class:`IndexDamaged` for a file that is missing, cut short, too long, changed or of
    another version, for a segment of another gallery, contract or dimension, and for one whose key
    is gone; :class:`SealKeyMissing` for an encrypted one where there are no ``keys`` at all.
    """
    with storage_errors(str(folder / name)):
        try:
            finish(folder, name, keys)
            head = read_head(head_path(folder, name), name, keys)
            _check_owner(head, gallery, contract_id, dimension)
            if head.sealed:
                assert keys is not None
                return _decrypted(folder, name, keys)
            data = _mapped(data_path(folder, name), head.data_bytes)
        except FileNotFoundError as error:
            raise IndexDamaged(f"A file of segment {name} is missing.") from error
        return Segment(folder, head, np.frombuffer(data, np.uint8), keys, data)


def _decrypted(folder: Path, name: str, keys: Keyring) -> Segment:
    for _ in range(_ATTEMPTS):
        with unchanged(folder, name) as handle:
            # Who scrubbed may have been killed at it since.
            if not next_path(folder, name).exists():
                head = read_head(head_path(folder, name), name, keys)
                _check_length(data_path(folder, name), handle, head.data_bytes)
                return Segment(folder, head, unsealed(handle, head, keys), keys, None)
        finish(folder, name, keys)
    raise IndexDamaged(f"A change of segment {name} cannot be finished.")


def _check_owner(head: Head, gallery: str, contract_id: str, dimension: int) -> None:
    if (head.gallery, head.contract_id, head.dimension) != (gallery, contract_id, dimension):
        raise IndexDamaged(
            f"Segment {head.name} is for {head.gallery} under {head.contract_id} "
            f"({head.dimension}), not for {gallery} under {contract_id} ({dimension})."
        )


def _mapped(path: Path, length: int) -> mmap.mmap:
    handle = os.open(path, os.O_RDONLY)
    try:
        _check_length(path, handle, length)
        return mmap.mmap(handle, length, access=mmap.ACCESS_READ)
    finally:
        os.close(handle)


def _check_length(path: Path, handle: int, length: int) -> None:
    found = os.fstat(handle).st_size
    if found != length:
        raise IndexDamaged(f"{path.name} is {found} bytes long, not {length}.")


class Segment:
    """An open segment. Safe to use from several threads, and beside a scrub in any process.

    ``codes`` and ``columns`` lie in ``data``, which is uint8 (bytes,) as in a plain file: that of
    ``mapping``, or what was decrypted; they stay valid as long as anybody holds them.
    """

    def __init__(
        self,
        folder: Path,
        head: Head,
        data: NDArray[np.uint8],
        keys: Keyring | None,
        mapping: mmap.mmap | None,
    ) -> None:
        self._folder = folder
        self._head = head
        self._keys = keys
        self._blank = head.dead  # what the disk holds nothing of any more
        self._mapping = mapping
        self._data = data
        self._bytes = data.view()
        self._bytes.flags.writeable = False
        self._section = head.section("vectors")
        # What was decrypted is checked by that.
        self._checked = np.full(self._section.pieces, mapping is None, np.bool_)
        views = {}
        for section in head.sections:
            views[section.name] = section.view(self._bytes)
            if section.name != "vectors" and mapping is not None:
                for piece in range(section.pieces):
                    self._check(section, piece)
        self._ids: IdArray = views["ids"].view(np.uint8)
        shape = (head.count, head.dimension)
        self._vectors: FloatArray = views["vectors"].view("<f4").reshape(shape)
        by = Quantiser(head.centre, head.scale)
        codes = views["codes"].view(np.uint8).reshape(shape)
        self.codes = Codes(codes, by, head.residual, head.reach)
        try:
            self.columns = Columns.from_arrays(head.count, head.words, views)
        except (ValueError, KeyError) as error:
            raise IndexDamaged(f"Segment {head.name} has no readable tags: {error}.") from error

    @property
    def name(self) -> str:
        return self._head.name

    @property
    def count(self) -> int:
        """All rows, the dead ones too."""
        return self._head.count

    @property
    def dead(self) -> NDArray[np.int64]:
        """The rows known to be dead, ascending: as of opening, or of a scrub met since."""
        return self._head.dead

    @property
    def history(self) -> History:
        """The entry of the gallery's log up to which :attr:`dead` is complete."""
        return self._head.history

    @property
    def disk_bytes(self) -> int:
        """What its files take on the disk."""
        return self._head.data_bytes + self._head.head_bytes

    @property
    def keys(self) -> tuple[str, ...]:
        """The ids of the data keys that it is encrypted with; none where it is not."""
        return self._head.keys

    def id_bytes(self, rows: NDArray[np.int64]) -> IdArray:
        """The ids of ``rows``, int64 (n,), as uint8 (n, 16)."""
        return np.ascontiguousarray(self._ids[self._there(rows)])

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of ``rows``, int64 (n,), as canonical UUIDs."""
        return to_texts(self.id_bytes(rows))

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each of ``ids``, dead or not, int64 (n,); -1 for an id that is not there."""
        wanted, valid = to_bytes(ids)
        keys, own = sortable(wanted), sortable(self._ids)
        # In ascending order each search begins where the last one ended, in pages at hand.
        order = np.argsort(keys)
        rows = np.empty(len(keys), np.int64)
        rows[order] = np.searchsorted(own, keys[order])
        rows[rows == self.count] = 0
        rows[(own[rows] != keys) | ~valid] = -1
        return rows

    def vectors(self, rows: NDArray[np.int64]) -> FloatArray:
        """The vectors of ``rows``, int64 (n,): a copy, float32 (n, dimension), checked.

        A row that was scrubbed is all zeros. Raises :class:`IndexDamaged` where the bytes are not
        those that were written, ``IndexError`` for rows that are not there.
        """
        rows = self._there(rows)
        pieces = rows // self._section.piece
        for _ in range(_ATTEMPTS):
            # Most often all are checked: only what is left is put in order.
            for piece in np.unique(pieces[~self._checked[pieces]]).tolist():
                self._check(self._section, piece)
                self._checked[piece] = True
            found: FloatArray = np.take(self._vectors, rows, axis=0).astype(np.float32, copy=False)
            dead = _among(rows, self._head.dead)
            found[dead] = 0.0
            # A row that is being scrubbed at this moment may be half gone.
            odd = off_length(found) & ~dead
            if not odd.any():
                return found
            self._checked[np.unique(rows[odd] // self._section.piece)] = False
        raise IndexDamaged(f"Segment {self.name} holds a vector that is none.")

    def matrix(self) -> FloatArray:
        """All vectors, float32 (count, dimension), as they lie in the file and read-only; dead
        rows may be there still. Checked whole. Raises :class:`IndexDamaged`."""
        for piece in np.flatnonzero(~self._checked).tolist():
            self._check(self._section, piece)
            self._checked[piece] = True
        return self._vectors

    def refresh(self) -> None:
        """Learn of the rows that another process has scrubbed since.

        Raises :class:`IndexDamaged` for a head that is gone or of another segment.
        """
        head = self._latest()
        if head.sections != self._head.sections:
            raise IndexDamaged(f"The head of segment {self.name} is of another segment.")
        new = np.setdiff1d(head.dead, self._head.dead)
        # In this order: who reads a row that is half blank finds afterwards that it is dead.
        self._head = head
        if self._mapping is None:
            for section in head.blanked:
                section.blank_rows(self._data, new)

    def close(self) -> None:
        """Give the memory back. A search that still runs may finish; the mapping itself ends
        with the last array that looks into it, since ending it earlier would end the process."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _latest(self) -> Head:
        with storage_errors(self.name):
            try:
                return latest_head(self._folder, self.name, self._keys)
            except FileNotFoundError as error:
                # Another process may have merged it into another segment.
                raise IndexDamaged(f"The head of segment {self.name} is missing.") from error

    def _there(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.count:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a segment of {self.count}")
        return rows

    def _check(self, section: Section, piece: int) -> None:
        """Check one piece against its digest; raises :class:`IndexDamaged`."""
        if self._mapping is None:  # it was right when it was decrypted, and is not now
            raise IndexDamaged(f"The {section.name} of segment {self.name} changed in memory.")
        start, end = section.span(piece)
        raw = self._bytes[start:end]
        if hashlib.sha256(raw.data).digest() == self._head.digest(section, piece):
            return
        # It may be another process that scrubs rows here. Its head is on the disk before it
        # begins, so what was read is right if it is once those rows are left out.
        copy = raw.copy()
        head = self._latest()
        section.blank(copy, piece, np.setdiff1d(head.dead, self._blank))
        if head.sections != self._head.sections or hashlib.sha256(
            copy.data
        ).digest() != head.digest(section, piece):
            raise IndexDamaged(f"The {section.name} of segment {self.name} fail their checksum.")
        self._head = head


def _among(rows: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(rows), np.bool_)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    found: NDArray[np.bool_] = ascending[places] == rows
    return found
