"""Exhaustive search with FAISS in float32, made exact and deletable by what is around it.

FAISS finds a shortlist; the shortlist is scored again in float64 and widened until no vector
outside of it can belong to the answer: FAISS's own last score plus the largest float32 error is
below the k-th exact score. Deleted rows are overwritten with zeros at once (their content is
gone from memory), skipped as tombstones, and taken out for good when they are many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import (
    NO_NEIGHBOURS,
    Neighbours,
    best,
    checked,
    checked_probes,
    exact_scores,
    float_error,
)
from models.types import FloatArray

# Probes x components from which FAISS multiplies matrices instead of scanning once per probe:
# its own threshold of 128000 makes bursts of 64 probes seven times slower.
_BLAS_FROM = 2048
_COMPACT_FROM = 1024
_COMPACT_SHARE = 0.2
# Up to this share of the rows, scoring the allowed ones alone is cheaper than a whole scan.
_NARROW_SHARE = 0.05
_MARGIN = 16
_SCAN_BLOCK = 65_536


class FaissIndex:
    """A :class:`~indexer.vectors.base.VectorIndex` on ``faiss.IndexFlatIP``.

    ``threads`` are used for several probes at once; a single probe always runs on one thread,
    because two fight over the same memory and take longer.
    """

    def __init__(self, dimension: int, *, threads: int = 1) -> None:
        self._dimension = dimension
        self._threads = max(1, threads)
        self._error = float_error(dimension)
        self._reset()
        faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM

    def _reset(self) -> None:
        self._flat: Any = faiss.IndexFlatIP(self._dimension)
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._live: NDArray[np.bool_] = np.zeros(0, np.bool_)

    @property
    def dimension(self) -> int:
        return self._dimension

    def count(self) -> int:
        return len(self._rows)

    def add(self, ids: Sequence[str], vectors: FloatArray) -> None:
        rows = checked(ids, vectors, self._dimension)
        if not len(rows):
            return
        self.delete([face_id for face_id in ids if face_id in self._rows])
        start = len(self._ids)
        self._flat.add(rows)
        self._ids.extend(ids)
        self._rows.update((face_id, start + i) for i, face_id in enumerate(ids))
        self._mark_live(start, len(self._ids))

    def delete(self, ids: Collection[str]) -> int:
        gone = [self._rows.pop(face_id) for face_id in set(ids) if face_id in self._rows]
        if gone:
            self._live[gone] = False
            self._matrix()[gone] = 0.0
            tombstones = len(self._ids) - len(self._rows)
            if tombstones > max(_COMPACT_FROM, _COMPACT_SHARE * len(self._ids)):
                self._compact()
        return len(gone)

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        allowed: Collection[str] | None = None,
        excluded: Collection[str] = (),
    ) -> list[Neighbours]:
        rows = checked_probes(probes, self._dimension)
        wanted = self._wanted(allowed, excluded)
        available = len(self._rows) if wanted is None else int(np.count_nonzero(wanted))
        if k <= 0 or not available or not len(rows):
            return [NO_NEIGHBOURS] * len(rows)
        k = min(k, available)
        if wanted is not None and available <= _NARROW_SHARE * len(self._ids):
            positions = np.flatnonzero(wanted)
            return [self._rescored(probe, positions, k) for probe in rows]
        keep = self._live[: len(self._ids)] if wanted is None else wanted
        # Over-fetch for the rows that will be left out, as many as chance puts in the way.
        fetch = int((k + _MARGIN) * min(16.0, len(self._ids) / available))
        found: list[Neighbours | None] = [None] * len(rows)
        waiting = list(range(len(rows)))
        while waiting:
            shortlists = self._shortlist(rows[waiting], fetch)
            for index, (positions, bound) in zip(waiting, shortlists, strict=True):
                neighbours = self._rescored(rows[index], positions[keep[positions]], k)
                if bound is None or (
                    len(neighbours) == k and float(neighbours.scores[-1]) > bound + self._error
                ):
                    found[index] = neighbours
            waiting = [index for index in waiting if found[index] is None]
            fetch *= 4
        return [neighbours for neighbours in found if neighbours is not None]

    def scores(self, probes: FloatArray, ids: Sequence[str]) -> FloatArray:
        rows = checked_probes(probes, self._dimension)
        chosen = self._matrix()[[self._rows[face_id] for face_id in ids]]
        out = np.empty((len(rows), len(ids)), np.float32)
        for i, probe in enumerate(rows):
            out[i] = exact_scores(probe, chosen)
        return out

    def dump(self) -> tuple[list[str], FloatArray]:
        positions = np.flatnonzero(self._live[: len(self._ids)])
        return [self._ids[i] for i in positions], self._matrix()[positions]

    def health(self) -> str | None:
        if self._flat.ntotal != len(self._ids) or self._live.sum() != len(self._rows):
            return (
                f"the index holds {self._flat.ntotal} rows for {len(self._ids)} ids "
                f"and {len(self._rows)} live faces"
            )
        return None

    def _shortlist(
        self, probes: FloatArray, fetch: int
    ) -> list[tuple[NDArray[np.int64], float | None]]:
        """For each probe: positions, and the best score any other row may have (None: no other)."""
        total = len(self._ids)
        if fetch >= total // 2:
            everything = np.arange(total, dtype=np.int64)
            return [(everything, None)] * len(probes)
        faiss.omp_set_num_threads(1 if len(probes) == 1 else self._threads)
        scores, positions = self._flat.search(np.ascontiguousarray(probes), fetch)
        return [(positions[i], float(scores[i, -1])) for i in range(len(probes))]

    def _rescored(self, probe: FloatArray, positions: NDArray[np.int64], k: int) -> Neighbours:
        matrix = self._matrix()
        if len(positions) <= _SCAN_BLOCK:
            scores = exact_scores(probe, matrix[positions])
        else:
            scores = np.concatenate(
                [
                    exact_scores(probe, matrix[positions[i : i + _SCAN_BLOCK]])
                    for i in range(0, len(positions), _SCAN_BLOCK)
                ]
            )
        if len(positions) > 4 * k:
            # All that reach the k-th score, so that ties are still ordered by id.
            floor = np.partition(scores, len(scores) - k)[len(scores) - k]
            chosen = np.flatnonzero(scores >= floor)
            positions, scores = positions[chosen], scores[chosen]
        return best([self._ids[i] for i in positions], scores, k)

    def _wanted(
        self, allowed: Collection[str] | None, excluded: Collection[str]
    ) -> NDArray[np.bool_] | None:
        """Which rows may be returned; ``None`` for all that live."""
        if allowed is None and not excluded:
            return None
        live = self._live[: len(self._ids)]
        if allowed is None:
            wanted = live.copy()
        else:
            wanted = np.zeros(len(self._ids), np.bool_)
            wanted[[self._rows[face_id] for face_id in allowed if face_id in self._rows]] = True
        wanted[[self._rows[face_id] for face_id in excluded if face_id in self._rows]] = False
        return wanted

    def _matrix(self) -> FloatArray:
        """The rows as FAISS holds them: a view, good until the next add."""
        total = self._flat.ntotal
        if not total:
            return np.empty((0, self._dimension), np.float32)
        view: FloatArray = faiss.rev_swig_ptr(self._flat.get_xb(), total * self._dimension)
        return view.reshape(total, self._dimension)

    def _mark_live(self, start: int, end: int) -> None:
        if end > len(self._live):
            live = np.zeros(max(end, 2 * len(self._live), 64), np.bool_)
            live[: len(self._live)] = self._live
            self._live = live
        self._live[start:end] = True

    def _compact(self) -> None:
        ids, vectors = self.dump()
        self._reset()
        if ids:
            self.add(ids, vectors)
