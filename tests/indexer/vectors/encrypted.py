"""An encrypted segment for tests, and what is to be seen of it in files and when it is open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.vectors.segment import Segment
from indexer.vectors.segment_head import Head, head_path, read_head
from indexer.vectors.segment_ids import to_bytes
from tests.indexer.vectors.segments import Rows, every, keyring, reopened, some_rows, without

ROWS = some_rows()
KEYS = keyring()
FILES = {"one.data", "one.head"}

Copies = Callable[[], Path]
"""Makes another copy of a folder with the encrypted segment ``one`` each time."""


def opened(folder: Path, name: str = "one") -> Segment:
    return reopened(folder, name, KEYS)


def head_of(folder: Path, name: str = "one") -> Head:
    return read_head(head_path(folder, name), name, KEYS)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_intact(segment: Segment, dead: NDArray[np.int64], rows: Rows = ROWS) -> None:
    assert segment.dead.tolist() == dead.tolist()
    assert segment.ids(every(segment)) == rows.ids
    assert np.array_equal(segment.vectors(every(segment)), without(rows.vectors, dead))
    assert segment.rows_of(rows.ids).tolist() == list(range(len(rows.ids)))


def shown(folder: Path, codes: NDArray[np.uint8]) -> set[str]:
    """What of the rows any file of a folder, and of those in it, holds as it is."""
    held = b"\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    some = slice(None, None, 9)
    found = {
        # A fourth of a row would do to know whose it is.
        "vectors": any(row[:16].tobytes() in held for row in ROWS.vectors[some]),
        "codes": any(row[:16].tobytes() in held for row in codes[some]),
        "ids": any(row.tobytes() in held for row in to_bytes(ROWS.ids)[0][some]),
        "ids in letters": any(one.encode() in held for one in ROWS.ids[some]),
        "words": b"site-3" in held,
    }
    return {name for name, there in found.items() if there}
