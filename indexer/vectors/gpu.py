"""The scan on NVIDIA GPUs: FAISS's flat index in float16, with filters and the bound around it.

FAISS on a GPU has no flat index of bytes, returns at most 2048 rows, cannot remove any, and
accepts an IDSelector only to ignore it. So rows that a filter or a deletion leaves out are
dropped here, more are asked for where they are in the way, and what is too many or too narrow
for that goes to another scanner of the same rows.

What is written here was run against FAISS's flat index on processors; no machine with a GPU was
at hand. The tests that need one are skipped where there is none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import float_error
from indexer.vectors.parts import Best, Keep, each, lengths, merged, only, over_fetch
from indexer.vectors.scanner import Scanner, Shortlist
from models.errors import ProviderUnavailable
from models.types import FloatArray

ToDevice = Callable[[Any, int], Any]
"""Takes an empty CPU index and the number of a device; returns the index on that device."""

# GPU_MAX_SELECTION_K of FAISS (faiss/gpu/utils/DeviceDefs.cuh).
_MOST: Final = 2048
# Rows that are sent at once. FAISS grows an index by exactly what is added and copies it each
# time, so that small pieces would copy large ones often.
_PIECE_BYTES: Final = 1 << 27
# Fewer rows than this are not worth a second device.
_LEAST_ROWS: Final = 1 << 16

# Its own type hints know nothing of GPUs where it was built without them.
_faiss: Any = faiss


def require_gpu() -> tuple[int, ...]:
    """The numbers of all devices that FAISS sees.

    Raises:
        ProviderUnavailable: FAISS was built without GPUs, or sees none.
    """
    if not hasattr(faiss, "StandardGpuResources"):
        raise ProviderUnavailable(
            "The vector index was asked to run on a GPU, but this FAISS was built without GPUs.",
            remedy="Install faiss-gpu in place of faiss-cpu, or choose the index on processors.",
        )
    devices = int(_faiss.get_num_gpus())
    if devices < 1:
        raise ProviderUnavailable(
            "The vector index was asked to run on a GPU, but FAISS sees none.",
            remedy="Check the driver with nvidia-smi, or choose the index on processors.",
        )
    return tuple(range(devices))


def to_gpu(index: Any, device: int) -> Any:
    """``index`` in float16 on ``device``; see :data:`ToDevice`."""
    options = _faiss.GpuClonerOptions()
    options.useFloat16 = True
    return _faiss.index_cpu_to_gpu(_resources(device), device, index, options)


@lru_cache(maxsize=64)
def _resources(device: int) -> Any:
    # One for each device, because each takes more than a gigabyte of it for work.
    return _faiss.StandardGpuResources()


@lru_cache(maxsize=64)
def _turn(device: int) -> threading.Lock:
    """Held while a device works.

    "Any GPU indices that share a single GpuResources object can only be used one at a time"
    (FAISS, issue 1777).
    """
    return threading.Lock()


@contextmanager
def _loud(device: int) -> Iterator[None]:
    """Say in the project's words that a device failed; nothing goes on elsewhere in silence."""
    try:
        yield
    except RuntimeError as error:
        raise ProviderUnavailable(
            f"GPU {device} failed: {error}",
            remedy="Check its memory with nvidia-smi, or choose the index on processors.",
        ) from error


class GpuScanner:
    """A :class:`~indexer.vectors.scanner.Scanner` of ``rows``, float32 (n, dimension).

    The rows are spread over ``devices``, each taking an equal run of them, and are not kept here;
    they may be a view of a file. While they are loaded a device needs room for them twice.
    ``elsewhere`` scans the same rows where a GPU cannot: narrow filters, and more than 2048 rows.

    Raises:
        ValueError: no device is given.
        ProviderUnavailable: a device does not take the rows.
    """

    def __init__(
        self,
        rows: FloatArray,
        *,
        devices: Sequence[int],
        elsewhere: Scanner,
        to_device: ToDevice = to_gpu,
    ) -> None:
        if not devices:
            raise ValueError("no device is given")
        self._total, self._dimension = rows.shape
        self._elsewhere = elsewhere
        self._residual = self._longest = 0.0
        self._parts: list[_Part] = []
        parts = min(len(devices), max(1, self._total // _LEAST_ROWS))
        size = max(1, -(-self._total // parts))
        step = max(1, _PIECE_BYTES // (4 * self._dimension))
        for number, start in enumerate(range(0, self._total, size)):
            part = _Part(self._dimension, devices[number], start, to_device)
            for at in range(start, min(start + size, self._total), step):
                residual, longest = part.add(np.asarray(rows[at : min(at + step, start + size)]))
                self._residual = max(self._residual, residual)
                self._longest = max(self._longest, longest)
            self._parts.append(part)

    def shortlist(
        self, probes: FloatArray, fetch: int, *, keep: Keep | None = None
    ) -> list[Shortlist]:
        """See :class:`~indexer.vectors.scanner.Scanner`."""
        if keep is not None and keep.shape != (self._total,):
            raise ValueError(f"expected keep of shape {(self._total,)}, got {keep.shape}")
        kept = self._total if keep is None else int(np.count_nonzero(keep))
        fetch = max(fetch, 1)
        more = fetch
        if keep is not None and 0 < kept < self._total:
            more = over_fetch(fetch, kept, self._total)
        if not len(probes) or fetch >= kept or more > _MOST:
            return self._elsewhere.shortlist(probes, fetch, keep=keep)
        halves = probes.astype(np.float16).astype(np.float32)
        error = self._error(probes, halves)
        found: list[Shortlist | None] = [None] * len(probes)
        waiting = list(range(len(probes)))
        # The filter may leave out the very nearest: once more with all that a GPU can return.
        for size in sorted({more, _MOST}):
            for index, best in zip(waiting, self._best(halves[waiting], size), strict=True):
                own = best if keep is None else only(best, keep, fetch)
                if len(own.rows) >= fetch:
                    found[index] = Shortlist(own.rows, own.last + float(error[index]))
            waiting = [index for index in waiting if found[index] is None]
            if not waiting:
                break
        if waiting:
            rest = self._elsewhere.shortlist(probes[waiting], fetch, keep=keep)
            for index, shortlist in zip(waiting, rest, strict=True):
                found[index] = shortlist
        return [shortlist for shortlist in found if shortlist is not None]

    def _best(self, halves: FloatArray, fetch: int) -> list[Best]:
        found = each(len(self._parts), lambda part: part.best(halves, fetch), self._parts)
        return merged(found, fetch)

    def _error(self, probes: FloatArray, halves: FloatArray) -> NDArray[np.float64]:
        """How far the exact score of a row can be above what a device computes, for each probe.

        With h and y the float16 forms of probe q and row x: q.x - h.y = q.(x - y) + (q - h).y.
        """
        exact, rounded = probes.astype(np.float64), halves.astype(np.float64)
        rounding = lengths(exact) * self._residual + lengths(exact - rounded) * self._longest
        summing = lengths(rounded) * self._longest * accumulation_error(self._dimension)
        error: NDArray[np.float64] = rounding + summing + float_error(self._dimension)
        return error


def accumulation_error(dimension: int) -> float:
    """How far a GPU's float16 product can be off, in units of the product of the two lengths.

    FAISS asks cuBLAS for sums in float32 ("Always accumulate in f32", rawGemm in
    faiss/gpu/utils/MatrixMult-inl.cuh), and products of two float16 are exact in float32. Tensor
    cores align the terms of a block to the largest and cut them off instead of rounding to
    nearest (Fasi, Higham, Mikaitis, Pranesh, *Numerical behavior of NVIDIA tensor cores*, PeerJ
    Computer Science 7:e330, 2021): at most 2^-23 of the largest for each term. Twice that for
    each component is taken, for the alignment and for the sum of the blocks.
    """
    return 2 * dimension * 2.0**-23


class _Part:
    """A run of rows on one device."""

    def __init__(self, dimension: int, device: int, start: int, to_device: ToDevice) -> None:
        self._device, self._start = device, start
        with _turn(device), _loud(device):
            self._index: Any = to_device(faiss.IndexFlatIP(dimension), device)

    def add(self, rows: FloatArray) -> tuple[float, float]:
        """Add float32 rows as float16.

        Returns how far rounding moved a row at most, and the length of the longest as rounded.
        """
        # Rounded here, so that what the device holds does not depend on how it rounds.
        halves = rows.astype(np.float16).astype(np.float32)
        with _turn(self._device), _loud(self._device):
            self._index.add(halves)
        exact = halves.astype(np.float64)
        return float(lengths(rows - exact).max()), float(lengths(exact).max())

    def best(self, halves: FloatArray, fetch: int) -> list[Best]:
        total = int(self._index.ntotal)
        with _turn(self._device), _loud(self._device):
            scores, rows = self._index.search(halves, min(fetch, total))
        return [
            Best(
                own.astype(np.float64),
                at + self._start,
                -np.inf if fetch >= total else float(own[-1]),
            )
            for own, at in zip(scores, rows, strict=True)
        ]
