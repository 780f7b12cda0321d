"""Heads of the chain in a file outside of the catalog, so that a cut end is found.

Whoever takes the newest records away leaves a chain that fits. A head that was noted elsewhere
does not: its record is missing. Upkeep adds one JSON object a line, at the start, every few minutes
and at the end. The file should lie on another machine or on storage that lets nobody write twice.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from indexer.audit.chain import newest
from indexer.catalog.audit_tables import AuditRecord
from indexer.errors import HeadsDamaged
from indexer.files import fsync_folder, storage_errors
from indexer.times import rfc3339, utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

EVERY_S: Final = 300.0
STAMPED: Final = "stamp"
"""The source of a head that a time stamp in the catalog itself is over."""
_MAX_LINE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of a record that was the last one. ``source``: where it was kept."""

    seq: int
    hash: str
    at: datetime | None = None
    source: str = "given"


@dataclass(frozen=True, slots=True)
class _Line:
    at: datetime
    seq: int
    hash: str


_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)


def append(path: Path, seq: int, digest: str, at: datetime | None = None) -> None:
    """Add a line, of ``at`` or of now; lasting on return. A line before it that was cut off is
    ended first. Raises the StorageError tree."""
    text = json.dumps({"at": rfc3339(at or utc_now()), "seq": seq, "hash": digest})
    with storage_errors(str(path)):
        fresh = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            line = b"\n" * torn + text.encode() + b"\n"
            # In one piece: other processes append to the same file.
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)
        if fresh:
            fsync_folder(path.parent)


def read(path: Path) -> list[Head]:
    """Every head in the file; none where it is not there. Lines that are none are left out: see
    :func:`bad_lines`. Raises the StorageError tree."""
    return [head for _, head in _lines(path) if head is not None]


def bad_lines(path: Path) -> list[int]:
    """The numbers of the whole lines that are no heads. Raises the StorageError tree."""
    return [number for number, head in _lines(path) if head is None]


def _lines(path: Path) -> Iterator[tuple[int, Head | None]]:
    if not path.exists():
        return
    with storage_errors(str(path)), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=1):
            if not line.endswith(b"\n") and len(line) < _MAX_LINE:
                break  # the last one was cut off
            if line.strip():
                yield number, _head(line, path)


def _head(line: bytes, path: Path) -> Head | None:
    try:
        value = _LINE.validate_json(line)
    except ValidationError:
        return None
    return Head(value.seq, value.hash, value.at, path.name)


def latest(path: Path) -> Head | None:
    """The last head in the file, without a look at its beginning; ``None`` where nothing is there.

    Raises :class:`HeadsDamaged` where the end holds none, and the StorageError tree.
    """
    if not path.exists():
        return None
    with storage_errors(str(path)), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * _MAX_LINE))
        whole = file.read().rpartition(b"\n")[0].split(b"\n")
    lines = [line for line in whole if line.strip()]
    for line in reversed(lines):
        found = _head(line, path)
        if found is not None:
            return found
    if lines:
        raise HeadsDamaged(
            f"The end of {path.name} holds no head of an audit log.",
            remedy="Use a whole copy of the file of heads.",
        )
    return None


def parsed(text: str) -> Head | None:
    """``SEQ:HASH`` as `homeward audit head` prints it; ``None`` for another text."""
    seq, _, digest = text.strip().partition(":")
    if not seq.isdecimal() or len(digest) != 64:
        return None
    return Head(int(seq), digest.lower())


def keep(ws: Workspace, *, now: bool = False) -> bool:
    """Note the head where that is due, or ``now``; whether it was. A head that is noted already
    is not noted again, and none of a log that the last noted head contradicts: the file would say
    nothing of it any more. Raises as :func:`contradicts`."""
    path = ws.options.audit_heads
    if path is None:
        return False
    state = ws.heads_noted
    if not now and state.at is not None and time.monotonic() - state.at < EVERY_S:
        return False
    state.at = time.monotonic()
    against = contradicts(ws)
    if against is not None:
        _log.error(
            "the audit log does not have record %d as %s notes it: it was cut off or written "
            "anew; run `homeward audit verify`",
            against.seq,
            path.name,
        )
        return False
    with ws.catalog.read() as session:
        seq, digest = newest(session)
    if seq == 0 or (seq, digest) == state.head:
        return False
    append(path, seq, digest)
    state.head = seq, digest
    return True


@dataclass(slots=True)
class Noted:
    """What this process has noted last, and when by its own clock."""

    head: tuple[int, str] | None = None
    at: float | None = None


def contradicts(ws: Workspace) -> Head | None:
    """The last head in the file, where the log does not have it.

    Raises as :func:`latest`.
    """
    path = ws.options.audit_heads
    last = latest(path) if path is not None else None
    if last is None:
        return None
    with ws.catalog.read() as session:
        found = session.scalar(select(AuditRecord.hash).where(AuditRecord.seq == last.seq))
    return None if found == last.hash else last
