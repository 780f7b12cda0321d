"""The reference: every score computed exactly, then sorted. Slow, and plainly right."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from indexer.vectors.base import Neighbours, best, checked, checked_probes, exact_scores
from models.types import FloatArray


class NumpyIndex:
    """A :class:`~indexer.vectors.base.VectorIndex` that the others are tested against."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._rows: dict[str, FloatArray] = {}

    @property
    def dimension(self) -> int:
        return self._dimension

    def count(self) -> int:
        return len(self._rows)

    def add(self, ids: Sequence[str], vectors: FloatArray) -> None:
        for face_id, row in zip(ids, checked(ids, vectors, self._dimension), strict=True):
            self._rows[face_id] = row.copy()

    def delete(self, ids: Collection[str]) -> int:
        return sum(self._rows.pop(face_id, None) is not None for face_id in set(ids))

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        allowed: Collection[str] | None = None,
        excluded: Collection[str] = (),
    ) -> list[Neighbours]:
        rows = checked_probes(probes, self._dimension)
        wanted = set(self._rows) if allowed is None else set(allowed) & set(self._rows)
        ids = sorted(wanted - set(excluded))
        matrix = self._matrix(ids)
        return [best(ids, exact_scores(probe, matrix), k) for probe in rows]

    def scores(self, probes: FloatArray, ids: Sequence[str]) -> FloatArray:
        rows = checked_probes(probes, self._dimension)
        matrix = self._matrix(ids)
        out = np.empty((len(rows), len(ids)), np.float32)
        for i, probe in enumerate(rows):
            out[i] = exact_scores(probe, matrix)
        return out

    def dump(self) -> tuple[list[str], FloatArray]:
        ids = list(self._rows)
        return ids, self._matrix(ids)

    def health(self) -> str | None:
        return None

    def _matrix(self, ids: Sequence[str]) -> FloatArray:
        matrix = np.empty((len(ids), self._dimension), np.float32)
        for i, face_id in enumerate(ids):
            matrix[i] = self._rows[face_id]
        return matrix
