"""Zeroing what SQLite leaves in the slack of its pages.

``secure_delete`` overwrites a deleted row, but when rows move from one page to another the old
page keeps their bytes between its list of cells and its first cell (file format: section 1.6,
https://www.sqlite.org/fileformat2.html). A row that is deleted later is then still in the file.
Nothing reads that slack, so it may be zeroed in place, as long as nobody writes to the file.

This file is run as a program of its own, and uses the standard library alone: were the catalog
opened and closed here inside a process that has it open, that process would lose its POSIX locks
(https://www.sqlite.org/howtocorrupt.html, section 2.2). The program holds the write lock itself
while it zeroes, so that it does no harm where whoever started it has died. It says ``done``,
``busy`` where readers and writers left it no moment, or ``large`` where the file has too many
pages for their kinds to be told apart.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

_HEADER = 100
_INTERIOR = (2, 5)
_LEAF = (10, 13)
_AUTO_VACUUM = slice(52, 56)
MAX_PAGES = 0x0200_0000
"""From here on the first byte of a page that is no b-tree page may look like that of one."""

_TRIES = 10
_WAIT_S = 0.2
_LONGEST_S = 20
"""How long the write lock is held at most; other writers wait for less than their time-out."""


def page_size(header: bytes) -> tuple[int, int]:
    """Bytes of a page, and how many of them are usable, from the file's first 100 bytes.

    Raises ``ValueError`` for a file that is no SQLite database.
    """
    if len(header) < _HEADER or not header.startswith(b"SQLite format 3\0"):
        raise ValueError("no SQLite database")
    size = int.from_bytes(header[16:18], "big")
    size = 65_536 if size == 1 else size
    return size, size - header[20]


def slack_of(page: bytes, usable: int, *, first: bool) -> tuple[int, int] | None:
    """Where the slack of a b-tree page begins and ends; ``None`` for any other page."""
    base = _HEADER if first else 0
    kind = page[base]
    if kind not in _INTERIOR and kind not in _LEAF:
        return None
    cells = int.from_bytes(page[base + 3 : base + 5], "big")
    end = int.from_bytes(page[base + 5 : base + 7], "big") or 65_536
    start = base + (12 if kind in _INTERIOR else 8) + 2 * cells
    return (start, end) if start <= end <= usable else None


def dirty_pages(file: IO[bytes]) -> Iterator[tuple[int, int, int]]:
    """Offset of each page whose slack is not zero, with begin and end of the slack in it."""
    file.seek(0)
    header = file.read(_HEADER)
    size, usable = page_size(header)
    if any(header[_AUTO_VACUUM]):
        return  # its pointer maps may look like b-trees; no catalog of ours has them
    pages = os.fstat(file.fileno()).st_size // size
    file.seek(0)
    for number in range(pages):
        page = file.read(size)
        if len(page) < size:
            return
        found = slack_of(page, usable, first=number == 0)
        if found is not None and any(page[found[0] : found[1]]):
            yield number * size, *found


def too_large(file: IO[bytes]) -> bool:
    """Whether the file has so many pages that it has to be left alone."""
    file.seek(0)
    size, _ = page_size(file.read(_HEADER))
    return os.fstat(file.fileno()).st_size // size > MAX_PAGES


def clear(file: IO[bytes], offsets: list[int]) -> None:
    """Zero the slack of these pages, as they are now; lasting on return."""
    file.seek(0)
    size, usable = page_size(file.read(_HEADER))
    for offset in offsets:
        file.seek(offset)
        page = file.read(size)
        found = slack_of(page, usable, first=offset == 0) if len(page) == size else None
        if found is not None:
            file.seek(offset + found[0])
            file.write(bytes(found[1] - found[0]))
    file.flush()
    os.fsync(file.fileno())


def main(path: Path) -> str:
    """Zero the slack of the pages of ``path``; returns what came of it, as described above."""
    with path.open("rb", buffering=1 << 20) as file:
        if too_large(file):
            return "large"
        offsets = [offset for offset, _, _ in dirty_pages(file)]
    # Only now: closing the file would drop the locks of a connection that is open by then.
    with closing(sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        if not _alone(connection, path):
            return "busy"
        # The default of the signal ends the process, and with it the lock; what is zeroed by
        # then stays so, and the next time there is less to do.
        signal.alarm(_LONGEST_S)
        return _clear_alone(connection, path, offsets)


def _alone(connection: sqlite3.Connection, path: Path) -> bool:
    """Take the write lock with an empty write-ahead log: then the file is all there is."""
    log = Path(f"{path}-wal")
    for _ in range(_TRIES):
        with suppress(sqlite3.OperationalError):  # another writes; the next try is soon
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            if not log.exists() or log.stat().st_size == 0:
                return True
            connection.execute("ROLLBACK")
    return False


def _clear_alone(connection: sqlite3.Connection, path: Path, offsets: list[int]) -> str:
    raw = path.open("r+b", buffering=0)
    try:
        if too_large(raw):
            return "large"
        clear(raw, offsets)
        # A commit makes every other connection read its pages anew, without the slack.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute(f"PRAGMA user_version = {(version + 1) % 2**31}")
        connection.execute("COMMIT")
        return "done"
    finally:
        # In this order: closing the file drops the locks of the connection.
        connection.close()
        raw.close()


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1])) + "\n")
