"""Searching: the index against plain NumPy on the same synthetic vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from indexer.vectors.faiss_index import FaissIndex
from models.types import FloatArray
from service.bench.clock import available_memory, limited, seconds, times
from service.bench.report import Search

NEIGHBOURS: Final = 50
_PROBES: Final = 25
_BURST: Final = 64
# Strangers' median cosine: close together in the default pack (128-d), far apart in others.
_COMMON_COSINE: Final = {128: 0.85}


def search(size: int, dimension: int, threads: Sequence[int]) -> list[Search]:
    """The index against a matrix product and ``argpartition`` on the same vectors."""
    needed = int(size * (dimension * 4 * 2.3 + 400)) + 200_000_000
    available = available_memory()
    if available is not None and needed > available:
        why = f"needs about {needed >> 20:,} MiB of memory; {available >> 20:,} MiB are free"
        return [
            Search(engine, size, dimension, 1, 1, NEIGHBOURS, None, None, skipped=why)
            for engine in ("homeward", "numpy")
        ]
    rng = np.random.default_rng(size + dimension)
    vectors = _synthetic(rng, size, dimension)
    probes = _perturbed(rng, vectors[rng.choice(size, _BURST, replace=False)])
    ids = [f"{row:08d}" for row in range(size)]
    result = []
    for count in threads:
        with limited(count):
            ours, burst, same = _time_index(ids, vectors, probes, count)
            theirs = [seconds(partial(_numpy_search, vectors, probe)) for probe in probes[:_PROBES]]
        result += [
            _line("homeward", size, dimension, count, 1, ours, same),
            _line("homeward", size, dimension, count, _BURST, [t / _BURST for t in burst], None),
            _line("numpy", size, dimension, count, 1, theirs, None),
        ]
    return result


def _time_index(
    ids: list[str], vectors: FloatArray, probes: FloatArray, threads: int
) -> tuple[list[float], list[float], bool]:
    """Seconds of single probes, seconds of bursts, and whether the answers are NumPy's."""
    index = FaissIndex(vectors.shape[1], threads=threads)
    index.add(ids, vectors)
    same = all(_same(index, vectors, ids, probe) for probe in probes[:5])
    single = [seconds(partial(index.search, p[None], NEIGHBOURS)) for p in probes[:_PROBES]]
    burst = times(partial(index.search, probes, NEIGHBOURS), 3)
    return single, burst, same


def _line(
    engine: str,
    size: int,
    dimension: int,
    threads: int,
    probes: int,
    taken: Sequence[float],
    same: bool | None,
) -> Search:
    p50, p95 = np.percentile(np.asarray(taken) * 1000, [50, 95])
    return Search(
        engine, size, dimension, threads, probes, NEIGHBOURS, float(p50), float(p95), same
    )


def _synthetic(rng: np.random.Generator, size: int, dimension: int) -> FloatArray:
    """Unit vectors, float32 (size, dimension), about a common direction as faces are."""
    vectors = rng.standard_normal((size, dimension), dtype=np.float32)
    vectors /= np.sqrt(np.float32(dimension))
    common = _COMMON_COSINE.get(dimension, 0.02)
    vectors[:, 0] += np.float32(np.sqrt(common / (1 - common)))
    return _normalised(vectors)


def _perturbed(rng: np.random.Generator, vectors: FloatArray) -> FloatArray:
    noise = rng.standard_normal(vectors.shape, dtype=np.float32)
    noise *= np.float32(0.35 / np.sqrt(vectors.shape[1]))
    return _normalised(vectors + noise)


def _normalised(vectors: FloatArray) -> FloatArray:
    for at in range(0, len(vectors), 65_536):
        part = vectors[at : at + 65_536]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def _numpy_search(vectors: FloatArray, probe: FloatArray) -> list[int]:
    scores = vectors @ probe
    k = min(NEIGHBOURS, len(scores))
    best = np.argpartition(scores, len(scores) - k)[-k:]
    return [int(row) for row in best[np.argsort(-scores[best])]]


def _same(index: FaissIndex, vectors: FloatArray, ids: list[str], probe: FloatArray) -> bool:
    """Whether both find the same vectors, apart from scores that float32 cannot tell apart."""
    found = index.search(probe[None], NEIGHBOURS)[0]
    expected = {ids[row] for row in _numpy_search(vectors, probe)}
    last = float(found.scores[-1])
    return all(
        float(vectors[int(face_id)] @ probe) < last + 1e-5
        for face_id in expected.symmetric_difference(found.ids)
    )
