"""The scan of int8 codes on processors: what every search starts with.

Scores of codes are whole numbers and exact; what they can be wrong by is what the codes leave out
of the rows and the probe. Let c be the centre, d a row x as its code says, and p the probe q
rounded to 127 steps of its largest component. Then

    q.x = q.c + p.(d - c) + (q - p).(d - c) + q.(x - d)

so that no row scores above q.c + p.(d - c) + |q - p| reach + |q| residual (Cauchy and Schwarz).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import float_error
from indexer.vectors.parts import Best, Keep, Rows, each, lengths, merged, only, over_fetch
from indexer.vectors.product import best_by_product, best_of_rows
from indexer.vectors.quantise import ZERO, CodeArray, Codes
from indexer.vectors.scanner import Shortlist
from models.types import FloatArray

# Its own type hints leave out what borrows memory.
_faiss: Any = faiss

_STEPS: Final = 127
# A part of the codes that is smaller is not worth handing to a second thread.
_SLAB_BYTES: Final = 1 << 22
# Rows of a narrow filter are copied together in pieces of this size, which stay in the cache.
_GATHER_BYTES: Final = 1 << 23
# FAISS looks at four rows at a time and a cache line holds 64 bytes: slabs start at multiples.
_ALIGN: Final = 8
# Up to these shares of the rows, copying the kept ones together is cheaper than scanning all.
_NARROW: Final = 0.2
_NARROW_BURST: Final = 0.6


class CpuScanner:
    """A :class:`~indexer.vectors.scanner.Scanner` of ``codes``, which may be a view of a file.

    ``threads`` work on one call at most, and on all calls of all scanners with that number.
    ``slab_rows``: rows that one thread takes at once, and ``burst_from``: probes from which they
    are multiplied together; both are for measurements and tests.
    Raises ``ValueError`` for codes that are not uint8, C-contiguous and of two axes.
    """

    def __init__(
        self,
        codes: Codes,
        *,
        threads: int,
        slab_rows: int | None = None,
        burst_from: int | None = None,
    ) -> None:
        array = np.asarray(codes.codes)
        if array.dtype != np.uint8 or array.ndim != 2 or not array.flags.c_contiguous:
            raise ValueError("codes have to be uint8, C-contiguous, of shape (rows, dimension)")
        self._codes = codes
        self._array = array
        self._threads = max(1, threads)
        self._dimension = array.shape[1]
        if burst_from is None:
            # Measured: blocks are faster than a scan for each from 5 probes of 128 components
            # on, and from 8 of 512.
            burst_from = 4 + self._dimension // 128
        self._burst_from = burst_from if _scan_is_exact(self._dimension) else 1
        self._bounds = _bounds(len(array), self._dimension, self._threads, slab_rows)
        self._slabs = [_Slab(array[start:stop], start) for start, stop in self._bounds]

    def shortlist(
        self, probes: FloatArray, fetch: int, *, keep: Keep | None = None
    ) -> list[Shortlist]:
        """See :class:`~indexer.vectors.scanner.Scanner`; at most ``fetch`` rows come back."""
        total = len(self._codes)
        if keep is not None and keep.shape != (total,):
            raise ValueError(f"expected keep of shape {(total,)}, got {keep.shape}")
        kept = total if keep is None else int(np.count_nonzero(keep))
        if not kept or not len(probes):
            return [Shortlist(np.empty(0, np.int64), -np.inf)] * len(probes)
        fetch = max(fetch, 1)
        if fetch >= kept:
            everything = np.arange(total) if keep is None else np.flatnonzero(keep)
            return [Shortlist(everything, -np.inf)] * len(probes)
        rounded = _Rounded.of(probes, self._codes)
        if kept == total:
            keep = None
        if len(probes) >= self._burst_from:
            found = self._burst(rounded, fetch, keep, kept)
        else:
            found = self._scan(rounded, fetch, keep, kept)
        return [
            Shortlist(best.rows, rounded.ceiling(index, best.last))
            for index, best in enumerate(found)
        ]

    def _burst(self, by: _Rounded, fetch: int, keep: Keep | None, kept: int) -> list[Best]:
        array, steps = self._array, by.steps.astype(np.int8)
        if keep is not None and kept <= _NARROW_BURST * len(array):
            parts = each(
                self._threads,
                lambda rows: best_of_rows(array, steps, fetch, rows),
                self._split(keep),
            )
        else:
            parts = each(
                self._threads,
                lambda bounds: best_by_product(array, steps, fetch, *bounds, keep),
                self._bounds,
            )
        return merged(parts, fetch)

    def _scan(self, by: _Rounded, fetch: int, keep: Keep | None, kept: int) -> list[Best]:
        total = len(self._codes)
        if keep is None:
            return self._scan_all(by.steps, fetch)
        if kept <= _NARROW * total:
            return self._scan_kept(by.steps, fetch, keep)
        wanted = min(fetch, kept)
        more = over_fetch(fetch, kept, total)
        found = [only(best, keep, fetch) for best in self._scan_all(by.steps, more)]
        short = [index for index, best in enumerate(found) if len(best.rows) < wanted]
        if short:
            # The filter leaves out the very nearest: more of the same could go on for long.
            narrow = self._scan_kept(by.steps[short], fetch, keep)
            for index, best in zip(short, narrow, strict=True):
                found[index] = best
        return found

    def _scan_all(self, steps: FloatArray, fetch: int) -> list[Best]:
        parts = each(self._threads, lambda slab: slab.best(steps, fetch), self._slabs)
        return merged(parts, fetch)

    def _scan_kept(self, steps: FloatArray, fetch: int, keep: Keep) -> list[Best]:
        array = self._array
        parts = each(
            self._threads, lambda rows: _scan_rows(array, steps, fetch, rows), self._split(keep)
        )
        return merged(parts, fetch)

    def _split(self, keep: Keep) -> list[Rows]:
        """The kept rows, in as many parts as pay."""
        rows = np.flatnonzero(keep)
        bounds = _bounds(len(rows), self._dimension, self._threads, None)
        return [rows[start:stop] for start, stop in bounds]


@dataclass(frozen=True, slots=True, eq=False)
class _Rounded:
    """Probes as whole steps, and what a row's score in steps says about its exact one.

    ``steps``: float32 (n, d), whole numbers up to 127. Float64 (n,): ``unit``, the score of one
    step; ``base``, the score of the centre; ``error``, the most that a row can score above that.
    """

    steps: FloatArray
    unit: NDArray[np.float64]
    base: NDArray[np.float64]
    error: NDArray[np.float64]

    @classmethod
    def of(cls, probes: FloatArray, codes: Codes) -> _Rounded:
        exact = probes.astype(np.float64)
        per_unit = _STEPS / np.maximum(np.abs(exact).max(axis=1, initial=0.0), 1e-30)
        steps = np.rint(exact * per_unit[:, None])
        lost = lengths(exact - steps / per_unit[:, None])
        # Whole numbers above 2^24 are rounded in float32; and the caller compares with scores
        # that are rounded to float32.
        slack = float_error(probes.shape[1]) * (1 + (lengths(exact) + lost) * codes.reach)
        return cls(
            steps.astype(np.float32),
            1 / (per_unit * codes.quantiser.scale),
            exact @ codes.quantiser.centre.astype(np.float64),
            lost * codes.reach + lengths(exact) * codes.residual + slack,
        )

    def ceiling(self, index: int, last: float) -> float:
        return float(self.base[index] + last * self.unit[index] + self.error[index])


class _Slab:
    """Neighbouring rows as FAISS scans them, read where they lie; ``start``: of the first."""

    def __init__(self, codes: CodeArray, start: int) -> None:
        self._start = start
        self._rows = len(codes)
        self._view = _View(codes)

    def best(self, steps: FloatArray, fetch: int) -> list[Best]:
        scores, rows = self._view.search(steps, min(fetch, self._rows))
        ended = fetch >= self._rows
        return [
            Best(own.astype(np.float64), at + self._start, -np.inf if ended else float(own[-1]))
            for own, at in zip(scores, rows, strict=True)
        ]


class _View:
    """A FAISS index of signed bytes on an array that stays where it is, perhaps a mapped file."""

    def __init__(self, codes: CodeArray) -> None:
        dimension = codes.shape[1]
        # FAISS only lets an index that it read without copying borrow its codes.
        empty = _faiss.serialize_index(
            _faiss.IndexScalarQuantizer(
                dimension, _faiss.ScalarQuantizer.QT_8bit_direct_signed, _faiss.METRIC_INNER_PRODUCT
            )
        )
        reader = _faiss.ZeroCopyIOReader(_faiss.swig_ptr(empty), empty.size)
        self._index: Any = _faiss.read_index(reader, _faiss.IO_FLAG_MMAP_IFC)
        owner = self._index.codes.owner
        # By address, because FAISS's own wrapper refuses arrays that cannot be written to.
        address = _faiss.cast_integer_to_uint8_ptr(codes.ctypes.data)
        borrowed = _faiss.MaybeOwnedVectorUInt8.create_view(address, codes.size, owner)
        self._index.codes = borrowed
        self._index.ntotal = len(codes)
        self._alive = (codes, empty, reader, owner, borrowed)

    def holds(self, rows: int) -> None:
        """Scan the first ``rows`` only."""
        self._index.ntotal = rows

    def search(self, steps: FloatArray, fetch: int) -> tuple[FloatArray, Rows]:
        # A number of this thread's, not of the process.
        _faiss.omp_set_num_threads(1)
        scores, rows = self._index.search(steps, fetch)
        return scores, rows


def _scan_rows(codes: CodeArray, steps: FloatArray, fetch: int, rows: Rows) -> list[Best]:
    """The best of ``rows`` alone, copied together piece by piece."""
    size = min(len(rows), max(1, _GATHER_BYTES // codes.shape[1]))
    piece = np.empty((size, codes.shape[1]), np.uint8)
    view = _View(piece)
    parts = []
    for start in range(0, len(rows), size):
        own = rows[start : start + size]
        # mode="clip" writes straight into `out`; the positions are all inside.
        np.take(codes, own, axis=0, out=piece[: len(own)], mode="clip")
        view.holds(len(own))
        scores, at = view.search(steps, min(fetch, len(own)))
        parts.append(
            [
                Best(s.astype(np.float64), own[a], -np.inf if fetch >= len(own) else float(s[-1]))
                for s, a in zip(scores, at, strict=True)
            ]
        )
    return merged(parts, fetch)


def _bounds(
    rows: int, dimension: int, threads: int, slab_rows: int | None
) -> list[tuple[int, int]]:
    """First and last-but-one row of each part: one for each thread where the rows are many."""
    if slab_rows is None:
        parts = min(threads, max(1, rows * dimension // _SLAB_BYTES))
        slab_rows = -(-rows // parts)
    size = max(_ALIGN, -(-slab_rows // _ALIGN) * _ALIGN)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


@lru_cache(maxsize=32)
def _scan_is_exact(dimension: int) -> bool:
    """Whether FAISS's kernel for this processor and dimension adds whole numbers without loss.

    It picks one of several by both; the bound rests on it, so it is tried with the largest bytes.
    """
    codes = np.full((9, dimension), 255, np.uint8)
    codes[1::3, ::2] = 1
    codes[2::3] = 1
    steps = np.full((2, dimension), _STEPS, np.float32)
    steps[1, ::3] = -_STEPS
    scores, rows = _View(codes).search(steps, len(codes))
    expected = (codes.astype(np.float64) - ZERO) @ steps.astype(np.float64).T
    return all(
        np.array_equal(scores[probe], expected[rows[probe], probe].astype(np.float32))
        for probe in range(len(steps))
    )
