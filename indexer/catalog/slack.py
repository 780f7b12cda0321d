"""Zeroing what SQLite leaves in the slack of its pages.

``secure_delete`` overwrites a deleted row, but when rows move from one page to another the old
page keeps their bytes between its list of cells and its first cell (file format: section 1.6,
https://www.sqlite.org/fileformat2.html). A row that is deleted later is then still in the file.
Nothing reads that slack, so it may be zeroed in place, as long as nobody writes to the file.

This file is run as a program of its own, and uses the standard library alone: were the catalog
opened and closed here inside a process that has it open, that process would lose its POSIX locks
(https://www.sqlite.org/howtocorrupt.html, section 2.2). It looks for slack that holds something,
says ``found N``, waits for a line on its input (by then nobody writes), zeroes it and says
``done``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_HEADER = 100
_INTERIOR = (2, 5)
_LEAF = (10, 13)
_AUTO_VACUUM = slice(52, 56)
_MAX_PAGES = 0x0200_0000
"""From here on the first byte of a page that is no b-tree page may look like that of one."""


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
    pages = min(os.fstat(file.fileno()).st_size // size, _MAX_PAGES)
    file.seek(0)
    for number in range(pages):
        page = file.read(size)
        if len(page) < size:
            return
        found = slack_of(page, usable, first=number == 0)
        if found is not None and any(page[found[0] : found[1]]):
            yield number * size, *found


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


def main(path: Path) -> None:
    """The dialogue described above, over standard input and output."""
    with path.open("r+b", buffering=1 << 20) as file:
        offsets = [offset for offset, _, _ in dirty_pages(file)]
        sys.stdout.write(f"found {len(offsets)}\n")
        sys.stdout.flush()
        if sys.stdin.readline().strip() != "clear":
            return
        file.seek(0)
    with path.open("r+b", buffering=0) as raw:
        clear(raw, offsets)
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
