"""What may happen to a segment after it is written: rows scrubbed, the whole removed.

A scrub first writes the head that will be true once it is done, beside the one that is; from then
on it can be finished by anyone, as often as it takes, since all it does is to blank rows that
stay blank, or to put pieces where they belong (``segment_redo``). Then that is done in place, and
the new head takes the place of the old. The lock on the data file orders one process against the
others.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexDamaged
from indexer.files import TEMP_SUFFIX, fsync_folder, storage_errors, write_atomic
from indexer.sealing.keyring import Keyring
from indexer.vectors.segment_head import (
    Head,
    History,
    Section,
    data_path,
    head_path,
    next_path,
    read_head,
    redo_path,
)
from indexer.vectors.segment_redo import apply_redo, drop_redo, steps, write_redo
from indexer.vectors.segment_sections import write_all
from indexer.vectors.segment_write import SegmentInfo, info

_AT_ONCE = 1 << 20
_FILE = re.compile(
    rf"(?P<temporary>\.)?(?P<name>[A-Za-z0-9][\w-]*)\.(data|head|head\.next|redo)"
    rf"(?(temporary)\.[\w-]+{re.escape(TEMP_SUFFIX)})",
    re.ASCII,
)


def scrub(
    folder: Path,
    name: str,
    rows: NDArray[np.int64],
    history: History,
    keys: Keyring | None = None,
) -> SegmentInfo:
    """Overwrite the vectors and codes of ``rows``, int64 (n,), on the disk, and count them dead.

    ``history`` is that of the segment from now on. Rows that are dead already stay so. Killed at
    any moment, the segment opens as it was or as it is to be; an encrypted one of which very much
    dies at once also as it was with some of that dead. Raises ``ValueError`` for rows that
    are not there, :class:`IndexDamaged` where a file is missing or what would be hashed anew is
    damaged, :class:`StorageFull` and its kin for the disk.
    """
    with _locked(folder, name) as handle:
        _finish(folder, name, handle, keys)
        head = read_head(head_path(folder, name), name, keys)
        _check_length(head, handle)
        new = np.setdiff1d(np.asarray(rows, np.int64), head.dead)
        if len(new) and not 0 <= new[0] <= new[-1] < head.count:
            raise ValueError(f"rows {new[0]} to {new[-1]} of a segment of {head.count}")
        some = steps(head, new) if head.sealed else [new]
        for step in some[:-1]:
            head = _scrubbed(folder, handle, head, step, head.history, keys)
        return info(folder, _scrubbed(folder, handle, head, some[-1], history, keys))


def _scrubbed(
    folder: Path,
    handle: int,
    head: Head,
    rows: NDArray[np.int64],
    history: History,
    keys: Keyring | None,
) -> Head:
    if head.sealed:
        assert keys is not None
        after = write_redo(folder, handle, head, rows, keys)
    else:
        blanked = {
            section.name: _digests_without(handle, head, section, rows) for section in head.blanked
        }
        after = replace(head, digests={**head.digests, **blanked})
    after = replace(after, dead=np.union1d(head.dead, rows), history=history)
    try:
        write_atomic(next_path(folder, head.name), after.packed(keys))
    except BaseException:
        if head.sealed:
            drop_redo(folder, head.name)
        raise
    _settle(folder, after, rows, handle)
    return after


def finish(folder: Path, name: str, keys: Keyring | None = None) -> None:
    """Finish a scrub that broke off, if there is one, or drop what it left before it began."""
    if next_path(folder, name).exists():
        with _locked(folder, name) as handle:
            _finish(folder, name, handle, keys)


def remove_segment(folder: Path, name: str) -> None:
    """Remove all files of a segment. Who has it mapped may go on reading."""
    with storage_errors(str(folder / name)):
        # The heads first: data without one is no segment, whenever this breaks off.
        for path in (
            next_path(folder, name),
            head_path(folder, name),
            redo_path(folder, name),
            data_path(folder, name),
        ):
            path.unlink(missing_ok=True)
        fsync_folder(folder)


def sweep(folder: Path, keep: Collection[str] | None) -> set[str]:
    """Remove all segments of the folder but those named (``None``: remove none), and what writers
    that died left behind.

    Returns the names of the segments that were removed. Nobody may be writing or scrubbing in the
    folder; the caller holds the lock under which that is done.
    """
    removed: set[str] = set()
    with storage_errors(str(folder)):
        for path in list(folder.iterdir()):
            found = _FILE.fullmatch(path.name)
            if found is None:
                continue
            if found["temporary"]:
                path.unlink(missing_ok=True)
                fsync_folder(folder)
            elif keep is not None and found["name"] not in keep and found["name"] not in removed:
                remove_segment(folder, found["name"])
                removed.add(found["name"])
    return removed


@contextmanager
def _locked(folder: Path, name: str) -> Generator[int]:
    """The data file, open for writing, which nobody else changes meanwhile."""
    path = data_path(folder, name)
    with storage_errors(str(path)):
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError as error:
            raise IndexDamaged(f"{path.name} is missing.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        except FileNotFoundError as error:
            raise IndexDamaged(f"A file of segment {name} is missing.") from error
        finally:
            os.close(handle)


def _finish(folder: Path, name: str, handle: int, keys: Keyring | None) -> None:
    path = next_path(folder, name)
    try:
        after = read_head(path, name, keys)
    except (FileNotFoundError, IndexDamaged):
        # Nothing is changed in the data before this file is whole on the disk.
        if path.exists():
            path.unlink()
            fsync_folder(folder)
        drop_redo(folder, name)
        return
    _check_length(after, handle)
    _settle(folder, after, after.dead, handle)


def _settle(folder: Path, after: Head, rows: NDArray[np.int64], handle: int) -> None:
    """Blank the rows and let the new head take the place of the old."""
    if after.sealed:
        apply_redo(folder, handle, after)
    else:
        for section in after.blanked:
            _blank(handle, section, rows)
    os.fsync(handle)
    os.replace(next_path(folder, after.name), head_path(folder, after.name))
    fsync_folder(folder)
    if after.sealed:
        drop_redo(folder, after.name)


def _blank(handle: int, section: Section, rows: NDArray[np.int64]) -> None:
    at_once = max(1, _AT_ONCE // section.row_bytes)
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        for some in range(0, len(run), at_once):
            part = run[some : some + at_once]
            offset = section.offset + int(part[0]) * section.row_bytes
            write_all(handle, section.blank_bytes(len(part)), offset)


def _digests_without(handle: int, head: Head, section: Section, rows: NDArray[np.int64]) -> bytes:
    """The digests of a section once ``rows`` are blank."""
    digests = bytearray(head.digests[section.name])
    for piece in np.unique(rows // section.piece).tolist():
        start, end = section.span(piece)
        raw = os.pread(handle, end - start, start)
        # A digest is only ever made of bytes that the last one vouched for.
        if hashlib.sha256(raw).digest() != head.digest(section, piece):
            raise IndexDamaged(f"The {section.name} of segment {head.name} fail their checksum.")
        data = np.frombuffer(raw, np.uint8).copy()
        section.blank(data, piece, rows)
        fresh = hashlib.sha256(data.data).digest()
        digests[piece * len(fresh) : (piece + 1) * len(fresh)] = fresh
    return bytes(digests)


def _check_length(head: Head, handle: int) -> None:
    length = os.fstat(handle).st_size
    if length != head.data_bytes:
        raise IndexDamaged(
            f"The data of segment {head.name} is {length} bytes long, not {head.data_bytes}."
        )
