"""Exhaustive search over immutable segments and a few fresh rows, exact and deletable.

Each segment is scanned on one-byte codes (or on a GPU in float16) for a shortlist; shortlists are
scored again from the full vectors and widened until no other row can belong to the answer: the
k-th exact score is above the highest score that any row outside of them can have. That ceiling is
the last score of the scan plus a bound on what the codes can hide (``quantise``), so the answer is
guaranteed to be the one of float64 brute force, and not only measured to be.

What a search sees is one :class:`State`, replaced as a whole by each change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import (
    NO_NEIGHBOURS,
    Neighbours,
    best,
    checked,
    checked_probes,
    checked_tags,
    exact_scores,
    float_error,
    score_table,
)
from indexer.vectors.fresh import Fresh, FreshView
from indexer.vectors.scanner import Scanner, Shortlist
from indexer.vectors.segment import Segment
from indexer.vectors.tags import EVERYTHING, BoolArray, Filter, Tag
from models.types import FloatArray

RowArray = NDArray[np.int64]

_MARGIN: Final = 16
_WIDER: Final = 4
# Shortlists as a multiple of the answer: from the least to the most that is tried at first.
_FIRST_FACTOR: Final = 8.0
_LAST_FACTOR: Final = 64.0
# A crowd of equal faces asks for long ones; those after it do not.
_CALMER: Final = 0.97


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A segment as this index sees it: ``live`` bool (rows,), of which ``dead`` are false."""

    segment: Segment
    scanner: Scanner
    live: BoolArray
    dead: int

    @property
    def alive(self) -> int:
        """Rows that a search can find."""
        return self.segment.count - self.dead

    def without(self, rows: RowArray) -> Part:
        """The part with these rows dead."""
        live = self.live.copy()
        live[rows] = False
        return replace(self, live=live, dead=int(len(live) - np.count_nonzero(live)))


def part_of(segment: Segment, scan: Callable[[Segment], Scanner]) -> Part:
    """A segment with what its file says is dead."""
    live = np.ones(segment.count, np.bool_)
    live[segment.dead] = False
    return Part(segment, scan(segment), live, len(segment.dead))


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that can be found, at one moment."""

    parts: tuple[Part, ...]
    fresh: FreshView

    def count(self) -> int:
        """Rows that a search can find."""
        return sum(part.alive for part in self.parts) + self.fresh.count - self.fresh.dead


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """A part or the fresh rows, with the rows of it that this search looks at."""

    scanner: Scanner
    vectors: Callable[[RowArray], FloatArray]
    ids: Callable[[RowArray], list[str]]
    keep: BoolArray | None
    available: int


class SegmentedIndex:
    """A :class:`~indexer.vectors.base.VectorIndex` of segments. ``scan`` makes their scanners.

    New rows stay in memory until the owner seals them (:meth:`swap`); it decides when, and where
    the files are.
    """

    def __init__(
        self, dimension: int, scan: Callable[[Segment], Scanner], parts: Sequence[Part] = ()
    ) -> None:
        self._dimension = dimension
        self._scan = scan
        self._error = float_error(dimension)
        self._lock = threading.Lock()
        self._factor = _FIRST_FACTOR
        self._fresh = Fresh(dimension)
        self._state = State(tuple(parts), self._fresh.view)

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def state(self) -> State:
        """What a search sees now."""
        return self._state

    def count(self) -> int:
        return self._state.count()

    # --- changes ------------------------------------------------------------------------------

    def add(
        self,
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]] | None = None,
    ) -> None:
        rows = checked(ids, vectors, self._dimension)
        if len(rows):
            self.change((), ids, rows, checked_tags(ids, tags))

    def delete(self, ids: Collection[str]) -> int:
        before = self.count()
        self.change(ids, (), np.empty((0, self._dimension), np.float32), ())
        return before - self.count()

    def change(
        self,
        gone: Collection[str],
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]],
    ) -> None:
        """Delete and add in one step that a search sees whole; arguments as for ``add``."""
        with self._lock:
            parts = _without(self._state.parts, {*gone, *ids})
            self._state = State(parts, self._fresh.changed(gone, ids, vectors, tags))

    def swap(
        self, seen: State, gone: Collection[str], added: Sequence[Segment], *, sealed: bool
    ) -> None:
        """Put segments in the place of those called ``gone``, and of the fresh rows of ``seen``
        if ``sealed``.

        ``added`` hold the rows that lived in ``seen``; what has died since is dead in them too.
        """
        parts = [part_of(segment, self._scan) for segment in added]
        with self._lock:
            now = self._state
            died: list[str] = []
            current = {part.segment.name: part for part in now.parts}
            for part in seen.parts:
                if part.segment.name in gone:
                    lost = part.live & ~current[part.segment.name].live
                    died.extend(part.segment.ids(np.flatnonzero(lost)))
            fresh = self._fresh
            if sealed:
                lost = seen.fresh.live & ~now.fresh.live[: seen.fresh.count]
                died.extend(seen.fresh.named(np.flatnonzero(lost))[0])
                fresh = fresh.since(seen.fresh.count)
            kept = tuple(part for part in now.parts if part.segment.name not in gone)
            self._fresh = fresh
            self._state = State((*kept, *_without(parts, died)), fresh.view)

    # --- answers ------------------------------------------------------------------------------

    def search(
        self,
        probes: FloatArray,
        k: int,
        *,
        where: Filter = EVERYTHING,
        excluded: Collection[str] = (),
    ) -> list[Neighbours]:
        rows = checked_probes(probes, self._dimension)
        pools = _pools(self._state, where, excluded)
        available = sum(pool.available for pool in pools)
        if k <= 0 or not available or not len(rows):
            return [NO_NEIGHBOURS] * len(rows)
        k = min(k, available)
        fetches = [
            np.full(len(rows), self._first_fetch(k, pool.available, available)) for pool in pools
        ]
        lists: list[list[Shortlist | None]] = [[None] * len(rows) for _ in pools]
        found: list[Neighbours | None] = [None] * len(rows)
        waiting = list(range(len(rows)))
        while waiting:
            for pool, fetch, own in zip(pools, fetches, lists, strict=True):
                _scan(pool, rows, [i for i in waiting if own[i] is None], fetch, own)
            for i in waiting:
                shortlists = [one for own in lists if (one := own[i]) is not None]
                found[i] = answer = self._rescored(rows[i], pools, shortlists, k)
                last = float(answer.scores[-1]) if len(answer) == k else -np.inf
                for own, fetch, one in zip(lists, fetches, shortlists, strict=True):
                    # Equal scores are ordered by id, so one that may be equal may belong to it.
                    if one.ceiling > -np.inf and one.ceiling >= last:
                        own[i] = None
                        fetch[i] *= _WIDER
            still = [i for i in waiting if any(own[i] is None for own in lists)]
            if len(still) == len(waiting):
                self._factor = min(self._factor * 2, _LAST_FACTOR)
            elif not still:
                self._factor = max(self._factor * _CALMER, _FIRST_FACTOR)
            waiting = still
        return [answer for answer in found if answer is not None]

    def scores(self, probes: FloatArray, ids: Sequence[str]) -> FloatArray:
        rows = checked_probes(probes, self._dimension)
        return score_table(rows, self._vectors(ids))

    def ids(self) -> set[str]:
        with self._lock:
            held = self._fresh.held()
            parts = self._state.parts
        for part in parts:
            held.update(part.segment.ids(np.flatnonzero(part.live)))
        return held

    def health(self) -> str | None:
        state = self._state
        held = len(self.ids())
        if held != state.count() and self._state is state:
            return f"{state.count()} rows are live, of {held} faces"
        return None

    def close(self) -> None:
        with self._lock:
            for part in self._state.parts:
                part.segment.close()
            self._fresh = Fresh(self._dimension)
            self._state = State((), self._fresh.view)

    # --- within -------------------------------------------------------------------------------

    def _first_fetch(self, k: int, share: int, of: int) -> int:
        """How many rows of a pool are looked at first: what chance puts there, and some more."""
        expected = (k + _MARGIN) * share / of
        return int(self._factor * (expected + expected**0.5)) + _MARGIN

    def _rescored(
        self, probe: FloatArray, pools: list[_Pool], shortlists: list[Shortlist], k: int
    ) -> Neighbours:
        rows = [pool.vectors(one.rows) for pool, one in zip(pools, shortlists, strict=True)]
        rough = [_scored(vectors, probe) for vectors in rows]
        every = np.concatenate(rough)
        # What float32 shows to be below the k-th is not summed in float64.
        cut = -np.inf
        if len(every) > k:
            cut = float(np.partition(every, len(every) - k)[len(every) - k]) - 2 * self._error
        ids: list[str] = []
        scores: list[FloatArray] = []
        for pool, one, vectors, some in zip(pools, shortlists, rows, rough, strict=True):
            chosen = np.flatnonzero((some >= cut) & (some > -np.inf))
            ids.extend(pool.ids(one.rows[chosen]))
            scores.append(exact_scores(probe, vectors[chosen]))
        return best(ids, np.concatenate(scores), k)

    def _vectors(self, ids: Sequence[str]) -> FloatArray:
        vectors = np.empty((len(ids), self._dimension), np.float32)
        with self._lock:
            state = self._state
            at = np.array([-1 if (row := self._fresh.row(i)) is None else row for i in ids])
        at = at.astype(np.int64)
        missing = at < 0
        vectors[~missing] = state.fresh.vectors(at[~missing])
        for part in state.parts:
            if not missing.any():
                break
            open_ = np.flatnonzero(missing)
            rows = part.segment.rows_of([ids[i] for i in open_.tolist()])
            there = rows >= 0
            there[there] = part.live[rows[there]]
            vectors[open_[there]] = part.segment.vectors(rows[there])
            missing[open_[there]] = False
        missing |= ~vectors.any(axis=1)  # scrubbed by another process meanwhile
        if missing.any():
            raise KeyError(ids[np.flatnonzero(missing).tolist()[0]])
        return vectors


def _scored(vectors: FloatArray, probe: FloatArray) -> FloatArray:
    """float32 scores of rows; minus infinity for one that another process has scrubbed, whose
    deletion this state has not heard of yet."""
    scores: FloatArray = vectors @ probe
    zero = np.flatnonzero(scores == 0.0)
    scores[zero[~vectors[zero].any(axis=1)]] = -np.inf
    return scores


def _pools(state: State, where: Filter, excluded: Collection[str]) -> list[_Pool]:
    pools = []
    for part in state.parts:
        segment, keep, available = part.segment, part.live if part.dead else None, part.alive
        if not where.empty:
            mask = segment.columns.mask(where)
            keep = mask if keep is None else mask & keep
        if excluded:
            rows = segment.rows_of(list(excluded))
            keep = np.ones(segment.count, np.bool_) if keep is None else keep.copy()
            keep[rows[rows >= 0]] = False
        if keep is not None and keep is not part.live:
            available = int(np.count_nonzero(keep))
        if available:
            pools.append(_Pool(part.scanner, segment.vectors, segment.ids, keep, available))
    fresh, keep = state.fresh, state.fresh.live
    if not where.empty:
        keep = keep & fresh.mask(where)
    if excluded:
        left_out = set(excluded)
        keep = keep.copy()
        keep[[row for row in range(fresh.count) if fresh.ids[row] in left_out]] = False
    if available := int(np.count_nonzero(keep)):
        pools.append(
            _Pool(fresh, fresh.vectors, lambda rows: fresh.named(rows)[0], keep, available)
        )
    return pools


def _without(parts: Sequence[Part], ids: Collection[str]) -> tuple[Part, ...]:
    """The parts with the rows of ``ids`` dead."""
    if not ids:
        return tuple(parts)
    names = list(ids)
    changed = []
    for part in parts:
        rows = part.segment.rows_of(names)
        rows = rows[rows >= 0]
        rows = rows[part.live[rows]]
        changed.append(part.without(rows) if len(rows) else part)
    return tuple(changed)


def _scan(
    pool: _Pool,
    probes: FloatArray,
    numbers: Sequence[int],
    fetch: NDArray[np.int64],
    lists: list[Shortlist | None],
) -> None:
    """Fill in the shortlists of the probes with these numbers, those of one width together."""
    for width in sorted({int(fetch[i]) for i in numbers}):
        some = [i for i in numbers if fetch[i] == width]
        found = pool.scanner.shortlist(probes[some], width, keep=pool.keep)
        for i, one in zip(some, found, strict=True):
            lists[i] = one
