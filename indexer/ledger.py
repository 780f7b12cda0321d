"""The file that lists purges outside of the catalog, so that a restored back-up can repeat them.

One JSON object a line: ids and counts, never content. Each line carries the SHA-256 of itself and
of the line before it, so that a line that was changed, taken out or put in is noticed. Lines taken
from the end are noticed by whoever knows the last one: the catalog and every back-up do. The same
purge may be listed twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from indexer.errors import LedgerDamaged
from indexer.files import fsync_folder, storage_errors
from indexer.records import PurgeRecord
from indexer.times import rfc3339

FIRST = "0" * 64
"""What the first line names as the one before it."""

_MAX_LINE = 10_000
_RECORD: TypeAdapter[PurgeRecord] = TypeAdapter(PurgeRecord)
_BEGINNING = b'{"purge_id"'
_FIELDS = ("purge_id", "at", "actor", "kind", "subject_id", "counts")


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the file says, oldest first, each purge once. ``torn``: its last line was cut off,
    as happens where the machine stops in the middle of writing it; that line is left out."""

    purges: tuple[PurgeRecord, ...]
    torn: bool


def append(path: Path, purges: Iterable[PurgeRecord]) -> None:
    """Add lines; lasting on return. The caller keeps others from appending at the same time.

    A last line that was cut off is taken away first: whoever wrote it writes it again. Raises
    :class:`LedgerDamaged` where the last line is none of ours, and the StorageError tree.
    """
    with storage_errors(str(path)):
        fresh = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b") as file:
            before = _end(file, path)
            for purge in purges:
                line, before = _line(purge, before)
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            fsync_folder(path.parent)


def read(path: Path) -> Ledger:
    """The whole file, every line checked. Raises :class:`LedgerDamaged` with the number of the
    line, and the StorageError tree."""
    found: dict[str, PurgeRecord] = {}
    before, number, torn = FIRST, 0, False
    with storage_errors(str(path)), path.open("rb") as file:
        while line := file.readline(_MAX_LINE):
            number += 1
            if not line.endswith(b"\n") and _cut_off(line) and not file.read(1):
                torn = True
                break
            purge, before = _checked(line, before, f"line {number} of {path.name}")
            found.setdefault(purge.purge_id, purge)
    return Ledger(tuple(found.values()), torn)


def _line(purge: PurgeRecord, before: str) -> tuple[bytes, str]:
    value: dict[str, Any] = {name: getattr(purge, name) for name in _FIELDS}
    value |= {"at": rfc3339(purge.at), "counts": dict(purge.counts), "before": before}
    digest = _digest(value)
    return json.dumps({**value, "sha256": digest}, separators=(",", ":")).encode() + b"\n", digest


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(line: bytes, before: str, where: str) -> tuple[PurgeRecord, str]:
    try:
        value = json.loads(line)
        digest = value.pop("sha256")
        whole = digest == _digest(value) and value.pop("before") == before
        purge = _RECORD.validate_python(value)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, ValidationError):
        whole = False
    if not whole:
        raise LedgerDamaged(
            f"{where} is not as it was written, or lines before it are missing.",
            remedy="Use a whole copy of the file of purges.",
        )
    return purge, digest


def _cut_off(tail: bytes) -> bool:
    """Whether this is the beginning of a line of ours, and no more than one."""
    return len(tail) <= _MAX_LINE and tail[: len(_BEGINNING)] == _BEGINNING[: len(tail)]


def _end(file: IO[bytes], path: Path) -> str:
    """Go to the end of the last whole line, cut off what follows; its digest. Nothing is cut off
    before all is known to be ours."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * _MAX_LINE)
    file.seek(start)
    tail = file.read()
    whole = tail.rfind(b"\n") + 1
    digest = FIRST
    if start + whole:
        digest = _digest_of(tail[:whole].rstrip(b"\n").rpartition(b"\n")[2], path)
    if not _cut_off(tail[whole:]):
        raise _none_of_ours(path)
    file.truncate(start + whole)
    file.seek(start + whole)
    return digest


def _digest_of(line: bytes, path: Path) -> str:
    try:
        value = json.loads(line)
        digest = str(value.pop("sha256"))
        ours = digest == _digest(value)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _none_of_ours(path) from error
    if not ours:
        raise _none_of_ours(path)
    return digest


def _none_of_ours(path: Path) -> LedgerDamaged:
    return LedgerDamaged(
        f"The last line of {path.name} is no entry of a list of purges.",
        remedy="Move the file away; a whole one is written from the catalog.",
    )
