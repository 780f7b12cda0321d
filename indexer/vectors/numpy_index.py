"""The reference: every score computed exactly, then sorted. Slow, and plainly right."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from indexer.vectors.base import (
    Neighbours,
    best,
    checked,
    checked_probes,
    checked_tags,
    exact_scores,
    score_table,
)
from indexer.vectors.tags import EVERYTHING, Filter, Tag
from models.types import FloatArray


class NumpyIndex:
    """A :class:`~indexer.vectors.base.VectorIndex` that the others are tested against."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._rows: dict[str, tuple[FloatArray, tuple[Tag, ...]]] = {}

    @property
    def dimension(self) -> int:
        return self._dimension

    def count(self) -> int:
        return len(self._rows)

    def add(
        self,
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]] | None = None,
    ) -> None:
        rows = checked(ids, vectors, self._dimension)
        for face_id, row, some in zip(ids, rows, checked_tags(ids, tags), strict=True):
            self._rows[face_id] = row.copy(), tuple(some)

    def delete(self, ids: Collection[str]) -> int:
        return sum(self._rows.pop(face_id, None) is not None for face_id in set(ids))

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
    ) -> list[Neighbours]:
        rows = checked_probes(probes, self._dimension)
        left_out = set(excluded)
        ids = sorted(
            face_id
            for face_id, (_, tags) in self._rows.items()
            if face_id not in left_out and (where.empty or any(map(where.passes, tags)))
        )
        matrix = self._matrix(ids)
        return [best(ids, exact_scores(probe, matrix), k) for probe in rows]

    def scores(self, probes: FloatArray, ids: Sequence[str]) -> FloatArray:
        rows = checked_probes(probes, self._dimension)
        return score_table(rows, self._matrix(ids))

    def ids(self) -> set[str]:
        return set(self._rows)

    def health(self) -> str | None:
        return None

    def close(self) -> None:
        self._rows.clear()

    def _matrix(self, ids: Sequence[str]) -> FloatArray:
        matrix = np.empty((len(ids), self._dimension), np.float32)
        for i, face_id in enumerate(ids):
            matrix[i] = self._rows[face_id][0]
        return matrix
