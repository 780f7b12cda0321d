"""What the index is compared with: float64 brute force for its answers; FAISS's flat index, NumPy
and the plain reading of memory for its speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import Neighbours
from indexer.vectors.segment import Segment
from models.types import FloatArray
from service.bench.clock import Taken, seconds, took
from service.bench.synthetic import Share

_BLOCK: Final = 8192
_READS: Final = 7

Rows = NDArray[np.int64]


class Flat:
    """All rows in float32 in memory: a FAISS IndexFlatIP, and the same memory for NumPy."""

    def __init__(self, segments: Sequence[Segment], dimension: int) -> None:
        # faiss has no types.
        self._index: Any = faiss.IndexFlatIP(dimension)
        for segment in segments:
            self._index.add(segment.matrix())
        flat = faiss.rev_swig_ptr(self._index.get_xb(), self._index.ntotal * dimension)
        self._rows: FloatArray = flat.reshape(-1, dimension)

    @staticmethod
    def bytes_for(size: int, dimension: int) -> int:
        """Memory that it takes: the rows (FAISS doubles its buffer as it grows), and scores."""
        return 2 * size * dimension * 4 + size * 24

    def by_faiss(self, probe: FloatArray, k: int, threads: int) -> object:
        """The ``k`` best by FAISS."""
        faiss.omp_set_num_threads(threads)
        return self._index.search(probe[None], k)

    def by_numpy(self, probe: FloatArray, k: int) -> Rows:
        """The ``k`` best, best first, by a matrix product and ``argpartition``."""
        scores = self._rows @ probe
        k = min(k, len(scores))
        best = np.argpartition(scores, len(scores) - k)[-k:]
        ordered: Rows = best[np.argsort(-scores[best])]
        return ordered


def memory_speed(segments: Sequence[Segment], threads: int) -> float:
    """Bytes a second at which ``threads`` read all codes: sums of 64-bit words, fastest pass."""
    parts: list[NDArray[np.uint64]] = []
    for segment in segments:
        raw = segment.codes.codes.reshape(-1)
        words = raw[: len(raw) // 8 * 8].view(np.uint64)
        parts.extend(np.array_split(words, threads))
    total = sum(part.nbytes for part in parts)
    with ThreadPoolExecutor(threads) as pool:
        passes = [seconds(lambda: list(pool.map(np.sum, parts))) for _ in range(_READS)]
    return total / min(passes)


Best = dict[Share | None, list[set[str]]]
"""For each filter and probe, the ids that may be in the answer."""


def nearest(
    segments: Sequence[Segment], probes: FloatArray, k: int, shares: Sequence[Share | None]
) -> Best:
    """By brute force over all rows in float64: every row whose score, rounded to float32 as all
    scores are, is at least the ``k``-th best. Those are ``k``, and more where scores are equal.

    ``shares``: for each of these filters, ``None`` for all rows.
    """
    exact = probes.astype(np.float64).T
    kept: dict[tuple[Share | None, int], _Kept] = {
        (share, probe): _Kept(k) for share in shares for probe in range(len(probes))
    }
    for number, segment in enumerate(segments):
        matrix = segment.matrix()
        masks = {
            share: np.ones(segment.count, np.bool_)
            if share is None
            else share.rows(segment.columns)
            for share in shares
        }
        for start in range(0, segment.count, _BLOCK):
            scores = matrix[start : start + _BLOCK].astype(np.float64) @ exact
            for (share, probe), one in kept.items():
                rows = np.flatnonzero(masks[share][start : start + _BLOCK])
                one.add(scores[rows, probe].astype(np.float32), number, rows + start)
    found: Best = {share: [] for share in shares}
    for (share, _), one in kept.items():
        found[share].append(one.ids(segments))
    return found


def recall(answers: Sequence[Neighbours], expected: Sequence[set[str]], k: int) -> float:
    """The share of the ``k`` best (or of all, where there are fewer) that was found. A row that
    has no place in an answer counts as one that was missed."""
    right = wanted = 0
    for answer, ids in zip(answers, expected, strict=True):
        most = min(k, len(ids))
        right += min(len(ids.intersection(answer.ids)), most)
        wanted += max(most, len(answer))
    return right / wanted if wanted else 1.0


class _Kept:
    """The best rows so far, with all that are as good as the last of them."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._scores = np.empty(0, np.float32)
        self._segments = np.empty(0, np.int64)
        self._rows = np.empty(0, np.int64)

    def add(self, scores: NDArray[np.float32], segment: int, rows: Rows) -> None:
        if len(self._scores) >= self._k:
            chosen = scores >= self._scores.min()
            scores, rows = scores[chosen], rows[chosen]
        if not len(scores):
            return
        all_scores = np.concatenate([self._scores, scores])
        all_segments = np.concatenate([self._segments, np.full(len(rows), segment)])
        all_rows = np.concatenate([self._rows, rows])
        if len(all_scores) > self._k:
            place = len(all_scores) - self._k
            chosen = all_scores >= np.partition(all_scores, place)[place]
            all_scores, all_segments = all_scores[chosen], all_segments[chosen]
            all_rows = all_rows[chosen]
        self._scores, self._segments, self._rows = all_scores, all_segments, all_rows

    def ids(self, segments: Sequence[Segment]) -> set[str]:
        return {
            face_id
            for number, segment in enumerate(segments)
            for face_id in segment.ids(self._rows[self._segments == number])
        }


def interleaved(
    engines: dict[str, Callable[[FloatArray], object]], probes: FloatArray, at_once: int = 10
) -> dict[str, list[Taken]]:
    """What each engine takes for each probe. They take turns of a few probes, so that whatever
    else the machine does falls on all of them alike; one probe of each comes first, uncounted."""
    taken: dict[str, list[Taken]] = {name: [] for name in engines}
    for engine in engines.values():
        engine(probes[0])
    for start in range(0, len(probes), at_once):
        for name, engine in engines.items():
            for probe in probes[start : start + at_once]:
                taken[name].append(took(partial(engine, probe)))
    return taken
