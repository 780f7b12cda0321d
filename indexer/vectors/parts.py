"""What the parts of a segment found, put together, and the threads that look through them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Keep = NDArray[np.bool_]

_T = TypeVar("_T")
_R = TypeVar("_R")

# Over-fetch for rows that a filter leaves out: as many as chance puts in the way, and spare.
_SPARE = 1.1
_SPARE_ROWS = 16


class Best(NamedTuple):
    """The best rows of one probe in a part of the segment.

    ``scores``: float64 (m,), as the scan counts them; ``rows``: int64 (m,), positions in the
    segment; ``last``: no other row of the part that was looked at scores above it.
    """

    scores: NDArray[np.float64]
    rows: Rows
    last: float


def merged(parts: Sequence[Sequence[Best]], fetch: int) -> list[Best]:
    """The ``fetch`` best of each probe out of what the parts of a segment found."""
    if len(parts) == 1:
        return list(parts[0])
    out = []
    for own in zip(*parts, strict=True):
        scores = np.concatenate([best.scores for best in own])
        rows = np.concatenate([best.rows for best in own])
        last = max(best.last for best in own)
        out.append(cut(scores, rows, last, fetch))
    return out


def only(best: Best, keep: Keep, fetch: int) -> Best:
    """What ``keep`` leaves of it, at most ``fetch`` rows."""
    kept = keep[best.rows]
    return cut(best.scores[kept], best.rows[kept], best.last, fetch)


def cut(scores: NDArray[np.float64], rows: Rows, last: float, fetch: int) -> Best:
    """The ``fetch`` best of these rows; ``last`` is raised to what is left out."""
    if len(rows) > fetch:
        chosen = np.argpartition(-scores, fetch - 1)[:fetch]
        scores, rows = scores[chosen], rows[chosen]
        last = max(last, float(scores.min()))
    return Best(scores, rows, last)


def over_fetch(fetch: int, kept: int, total: int) -> int:
    """How many of ``total`` rows to ask for so that about ``fetch`` are among the ``kept``."""
    return int(_SPARE * fetch * total / kept) + _SPARE_ROWS


def lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Euclidean length of each row of float64 (n, d): float64 (n,)."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths


def each(threads: int, work: Callable[[_T], _R], parts: Sequence[_T]) -> list[_R]:
    """Do ``work`` on threads that all scanners share: many calls at once make no more of them."""
    return list(_executor(threads).map(work, parts))


@lru_cache(maxsize=8)
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")


if hasattr(os, "register_at_fork"):
    # A forked process has none of the threads, and would wait for them for ever.
    os.register_at_fork(after_in_child=_executor.cache_clear)
