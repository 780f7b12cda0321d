"""Heads of the chain in a file outside of the catalog, so that a cut end is found.

Whoever takes the newest records away leaves a chain that fits. A head that was noted elsewhere
does not: its record is missing. Upkeep adds one JSON object a line, at the start, every few minutes
and at the end. The file should lie on another machine or on storage that lets nobody write twice.
"""

from __future__ import annotations

import json
import os
import time
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

EVERY_S: Final = 300.0
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


def append(path: Path, seq: int, digest: str) -> None:
    """Add a line; lasting on return. Raises the StorageError tree."""
    text = json.dumps({"at": rfc3339(utc_now()), "seq": seq, "hash": digest})
    with storage_errors(str(path)):
        fresh = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # In one piece: other processes append to the same file.
            os.write(handle, text.encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        if fresh:
            fsync_folder(path.parent)


def read(path: Path) -> list[Head]:
    """Every head in the file; none where it is not there. A last line that was cut off is left
    out. Raises :class:`HeadsDamaged` with the number of the line, and the StorageError tree."""
    found: list[Head] = []
    if not path.exists():
        return found
    with storage_errors(str(path)), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=1):
            if not line.endswith(b"\n"):
                break
            if not line.strip():
                continue
            try:
                value = _LINE.validate_json(line)
            except ValidationError:
                raise HeadsDamaged(
                    f"Line {number} of {path.name} is no head of an audit log.",
                    remedy="Use a whole copy of the file of heads.",
                ) from None
            found.append(Head(value.seq, value.hash, value.at, path.name))
    return found


def latest(path: Path) -> Head | None:
    """The last whole line of the file, without a look at the others. Raises as :func:`read`."""
    if not path.exists():
        return None
    with storage_errors(str(path)), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * _MAX_LINE))
        whole = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    if not whole.strip():
        return None
    try:
        value = _LINE.validate_json(whole)
    except ValidationError:
        raise HeadsDamaged(
            f"The last line of {path.name} is no head of an audit log.",
            remedy="Use a whole copy of the file of heads.",
        ) from None
    return Head(value.seq, value.hash, value.at, path.name)


def parsed(text: str) -> Head | None:
    """``SEQ:HASH`` as `homeward audit head` prints it; ``None`` for another text."""
    seq, _, digest = text.strip().partition(":")
    if not seq.isdecimal() or len(digest) != 64:
        return None
    return Head(int(seq), digest.lower())


def keep(ws: Workspace, *, now: bool = False) -> bool:
    """Note the head where that is due, or ``now``; whether it was. A head that is noted already
    is not noted again."""
    path = ws.options.audit_heads
    if path is None:
        return False
    state = ws.heads_noted
    if not now and state.at is not None and time.monotonic() - state.at < EVERY_S:
        return False
    with ws.catalog.read() as session:
        seq, digest = newest(session)
    state.at = time.monotonic()
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
    """The last head in the file, where the log does not have it: a quick look at the start."""
    path = ws.options.audit_heads
    last = latest(path) if path is not None else None
    if last is None:
        return None
    with ws.catalog.read() as session:
        found = session.scalar(select(AuditRecord.hash).where(AuditRecord.seq == last.seq))
    return None if found == last.hash else last
