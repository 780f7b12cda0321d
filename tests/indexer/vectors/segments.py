"""Small segments for tests: rows, their tags, and a folder to write them to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from indexer.sealing.keyring import DataKeys, Keyring
from indexer.vectors.segment import History, Segment, from_arrays, open_segment, write_segment
from indexer.vectors.tags import Tag
from models.types import FloatArray

OWNER: dict[str, Any] = {"gallery": "ads", "contract_id": "contract-1", "dimension": 64}
FIRST = History(7, "face-7")
EVERY_ROW = 600
"""Enough for three pieces of vectors, the last of them partly filled."""


@dataclass(frozen=True)
class Rows:
    """What was written, in the order of the segment."""

    ids: list[str]
    vectors: FloatArray
    tags: list[list[Tag]]


def unit_rows(seed: int, count: int, dimension: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def some_rows(seed: int = 1, count: int = EVERY_ROW) -> Rows:
    random = np.random.default_rng(seed)
    ids = sorted(str(UUID(bytes=random.bytes(16))) for _ in range(count))
    tags = [
        [Tag(site=f"site-{n % 5}", region=f"r{n % 3}", posted_ms=n)] * (n % 4) for n in range(count)
    ]
    return Rows(ids, unit_rows(seed, count, OWNER["dimension"]), tags)


def keyring(current: int = 1, known: Sequence[int] = (1,), *, plain: bool = True) -> Keyring:
    """The same keys in every process: data keys by number, of which ``current`` seals."""
    keys = {f"{number:016x}": bytes([number]) * 32 for number in {*known, current}}
    return Keyring(DataKeys(keys, f"{current:016x}", b"l" * 32, plain))


def write(
    folder: Path, name: str, rows: Rows, history: History = FIRST, keys: Keyring | None = None
) -> None:
    source = from_arrays(rows.ids, rows.vectors, rows.tags)
    write_segment(folder, name, source, history=history, keys=keys, **OWNER)


def reopened(folder: Path, name: str = "one", keys: Keyring | None = None) -> Segment:
    return open_segment(folder, name, keys=keys, **OWNER)


def every(segment: Segment) -> NDArray[np.int64]:
    return np.arange(segment.count)


def without(vectors: FloatArray, dead: NDArray[np.int64]) -> FloatArray:
    """``vectors`` with zeros in the rows that are dead."""
    left = vectors.copy()
    left[dead] = 0.0
    return left
