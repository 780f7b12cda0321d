"""Where the rows of a new segment come from: memory, or other segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import checked, checked_tags
from indexer.vectors.segment_ids import ID_BYTES, IdArray, sortable, to_bytes
from indexer.vectors.tags import Columns, Tag, joined
from models.types import FloatArray

if TYPE_CHECKING:
    from indexer.vectors.segment import Segment

BLOCK_ROWS = 4096
"""Rows that are in memory at once: 8 MiB of vectors of 512 components."""

Block = tuple[IdArray, FloatArray]
"""Some rows: their ids, uint8 (n, 16), and their vectors, float32 (n, dimension)."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentSource:
    """``count`` rows in the ascending order of their ids, which ``blocks`` gives once through."""

    count: int
    columns: Columns
    blocks: Callable[[], Iterator[Block]]


def from_arrays(
    ids: Sequence[str], vectors: FloatArray, tags: Sequence[Sequence[Tag]] | None = None
) -> SegmentSource:
    """Rows in memory, in any order: float32 (n, dimension), tags as ``VectorIndex.add`` takes them.

    Raises ``ValueError`` for a wrong shape, a vector that is not L2-normalised, an id that is no
    UUID or is given twice.
    """
    rows = checked(ids, vectors, vectors.shape[-1])
    columns = Columns.of(checked_tags(ids, tags))
    keys, _ = to_bytes(ids)
    order = np.argsort(sortable(keys), kind="stable")

    def blocks() -> Iterator[Block]:
        for some in _slices(order):
            yield keys[some], rows[some]

    return SegmentSource(len(ids), joined([(columns, order)]), blocks)


def merged(parts: Sequence[tuple[Segment, NDArray[np.int64]]]) -> SegmentSource:
    """The given rows of open segments as one, int64 (n,) for each. Rows that are dead must not be
    among them: their vectors are gone.

    Ids and columns are held in memory (some 60 bytes a row), vectors a block at a time. Raises
    ``ValueError`` for an id that is taken twice; reading the blocks raises :class:`IndexDamaged`
    as ``Segment.vectors`` does.
    """
    keys = np.concatenate(
        [np.empty((0, ID_BYTES), np.uint8), *(segment.id_bytes(rows) for segment, rows in parts)]
    )
    order = np.argsort(sortable(keys), kind="stable")
    keys = keys[order]
    if np.any(sortable(keys)[1:] == sortable(keys)[:-1]):
        raise ValueError("an id is taken from two segments")
    sizes = [len(rows) for _, rows in parts]
    owner = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)[order]
    place = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in parts)])[order]
    columns = joined([(segment.columns, rows) for segment, rows in parts])

    def blocks() -> Iterator[Block]:
        for some in _slices(np.arange(len(order))):
            ids, owners, places = keys[some], owner[some], place[some]
            vectors: FloatArray | None = None
            for number in np.unique(owners).tolist():
                own = owners == number
                found = parts[number][0].vectors(places[own])
                if vectors is None:
                    vectors = np.empty((len(ids), found.shape[1]), np.float32)
                vectors[own] = found
            assert vectors is not None
            yield ids, vectors

    return SegmentSource(len(order), joined([(columns, order)]), blocks)


def _slices(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), BLOCK_ROWS):
        yield order[start : start + BLOCK_ROWS]
