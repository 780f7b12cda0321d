"""What a vector index has to do, and the one way in which scores are computed.

A score is the cosine of two L2-normalised float32 vectors: their dot product, summed in float64
with NumPy's pairwise summation along the row and rounded to float32. That sum depends on the two
vectors alone, not on their position or on the engine, so every engine gives the same scores and
the same order; equal scores are ordered by id.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from indexer.vectors.tags import EVERYTHING, Filter, Tag
from models.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The neighbours of one probe, best first: ``ids`` and their ``scores`` (float32, (n,))."""

    ids: tuple[str, ...]
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.ids)


_LENGTH_TOLERANCE = 1e-3
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

NO_NEIGHBOURS = Neighbours((), np.empty(0, np.float32))


class VectorIndex(Protocol):
    """Vectors by id under one embedding contract.

    ``add`` and ``delete`` are called by one thread at a time, its owner sees to that; searches
    may run beside them and beside each other, and see each change whole or not at all.
    """

    @property
    def dimension(self) -> int:
        """Components of each vector."""
        ...

    def count(self) -> int:
        """Vectors that a search can find."""
        ...

    def add(
        self,
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]] | None = None,
    ) -> None:
        """Add float32 ``vectors`` of shape (n, dimension); an id that is there is replaced.

        ``ids`` are UUIDs in their canonical form. ``tags``: for each of them what it may be
        filtered by; none are given where nothing is. Raises ``ValueError`` for a wrong shape, a
        vector that is not L2-normalised, an id that is no UUID or is given twice.
        """
        ...

    def delete(self, ids: Collection[str]) -> int:
        """Remove ids; none of them is ever returned again. Returns how many were there."""
        ...

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
    ) -> list[Neighbours]:
        """The exact ``k`` nearest of each probe, float32 of shape (n, dimension).

        ``where`` limits the answer to ids that pass, ``excluded`` leaves ids out. Fewer than ``k``
        come back only when no more are there.
        """
        ...

    def scores(self, probes: FloatArray, ids: Sequence[str]) -> FloatArray:
        """Exact scores of shape (probes, ids). Raises ``KeyError`` for an id that is not there."""
        ...

    def ids(self) -> set[str]:
        """All ids that a search can find."""
        ...

    def health(self) -> str | None:
        """What is wrong with the index, or ``None``."""
        ...

    def close(self) -> None:
        """Let go of files, threads and connections; nothing may be asked afterwards."""
        ...


def exact_scores(probe: FloatArray, rows: FloatArray) -> FloatArray:
    """Cosine of ``probe`` (d,) with each of ``rows`` (n, d): float32 of shape (n,)."""
    products = rows.astype(np.float64) * probe.astype(np.float64)
    summed: NDArray[np.float64] = products.sum(axis=1)
    return summed.astype(np.float32)


def score_table(probes: FloatArray, rows: FloatArray) -> FloatArray:
    """The :func:`exact_scores` of each of ``probes`` (p, d) with each of ``rows`` (n, d):
    float32 of shape (p, n)."""
    table = np.empty((len(probes), len(rows)), np.float32)
    for i, probe in enumerate(probes):
        table[i] = exact_scores(probe, rows)
    return table


def float_error(dimension: int) -> float:
    """How far a float32 dot product of two unit vectors can be from the true one.

    The bound n u / (1 - n u), u = 2^-24, for any order of summation (Higham, *Accuracy and
    Stability of Numerical Algorithms*, 2nd ed., section 3.1), and one unit for the rounding of
    the exact score; lengths up to ``1 + _LENGTH_TOLERANCE`` are allowed for.
    """
    unit = 2.0**-24
    return (dimension * unit / (1 - dimension * unit) + unit) * (1 + _LENGTH_TOLERANCE) ** 2


def best(ids: Sequence[str], scores: FloatArray, k: int) -> Neighbours:
    """The ``k`` best of ``ids`` by score, equal scores by id."""
    if len(ids) == 0 or k <= 0:
        return NO_NEIGHBOURS
    order = sorted(range(len(ids)), key=lambda i: (-float(scores[i]), ids[i]))[:k]
    return Neighbours(tuple(ids[i] for i in order), np.asarray(scores[order], np.float32))


def checked(ids: Sequence[str], vectors: FloatArray, dimension: int) -> FloatArray:
    """``vectors`` as contiguous float32, or ``ValueError`` saying what is wrong with them."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.shape != (len(ids), dimension):
        raise ValueError(f"expected vectors of shape {(len(ids), dimension)}, got {rows.shape}")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is given twice")
    for face_id in ids:
        if not _CANONICAL.fullmatch(face_id):
            raise ValueError(f"{face_id!r} is no UUID in its canonical form")
    _check_unit(rows, "a vector")
    return rows


def checked_tags(
    ids: Sequence[str], tags: Sequence[Sequence[Tag]] | None
) -> Sequence[Sequence[Tag]]:
    """One sequence of tags for each id, empty where none are given, or ``ValueError``."""
    if tags is None:
        return [()] * len(ids)
    if len(tags) != len(ids):
        raise ValueError(f"tags for {len(tags)} ids are given with {len(ids)} ids")
    return tags


def checked_probes(probes: FloatArray, dimension: int) -> FloatArray:
    """``probes`` as contiguous float32 of shape (n, dimension), or ``ValueError``."""
    rows = np.ascontiguousarray(probes, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise ValueError(f"expected probes of shape (n, {dimension}), got {rows.shape}")
    _check_unit(rows, "a probe")
    return rows


def _check_unit(rows: FloatArray, what: str) -> None:
    # Cosine is the dot product only of unit vectors, and the error bound rests on it; a
    # component that is not finite fails here too.
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not np.all(np.abs(lengths - 1.0) <= _LENGTH_TOLERANCE):
        raise ValueError(f"{what} is not L2-normalised")
