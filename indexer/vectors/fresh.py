"""The rows that are newer than the segments: float32, in memory, appended to by one thread.

Readers take a :class:`FreshView`, which never changes: buffers only grow behind its end, and its
``live`` is copied when a row dies. So a search sees every change whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexer.vectors.base import float_error
from indexer.vectors.scanner import Shortlist
from indexer.vectors.tags import BoolArray, Columns, Filter, Tag
from models.types import FloatArray

_FIRST_ROWS = 64
_CHUNK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class FreshView:
    """``count`` rows: ``matrix`` float32 (count or more, dimension), ``live`` bool (count,).

    ``columns`` hold the tags of the first rows, in chunks of the same length; the rest is in
    ``tags``, which may be longer than ``count``, as ``ids`` may.
    """

    matrix: FloatArray
    count: int
    live: BoolArray
    dead: int
    ids: Sequence[str]
    tags: Sequence[tuple[Tag, ...]]
    columns: tuple[Columns, ...]

    def vectors(self, rows: NDArray[np.int64]) -> FloatArray:
        """float32 (n, dimension) of these rows."""
        chosen: FloatArray = self.matrix[rows]
        return chosen

    def named(self, rows: NDArray[np.int64]) -> tuple[list[str], list[tuple[Tag, ...]]]:
        """The ids and the tags of these rows."""
        places = rows.tolist()
        return [self.ids[row] for row in places], [self.tags[row] for row in places]

    def mask(self, where: Filter) -> BoolArray:
        """Which rows pass: bool (count,), without regard to ``live``."""
        parts = [columns.mask(where) for columns in self.columns]
        start = _CHUNK * len(parts)
        rest = [any(map(where.passes, self.tags[row])) for row in range(start, self.count)]
        return np.concatenate([*parts, np.array(rest, np.bool_)])

    def shortlist(
        self, probes: FloatArray, fetch: int, *, keep: NDArray[np.bool_] | None = None
    ) -> list[Shortlist]:
        """As :meth:`indexer.vectors.scanner.Scanner.shortlist`; scored in float32."""
        kept = np.arange(self.count) if keep is None else np.flatnonzero(keep)
        if len(kept) <= fetch:
            return [Shortlist(kept.astype(np.int64), -np.inf)] * len(probes)
        scores = self.matrix[: self.count] @ probes.T
        error = float_error(self.matrix.shape[1])
        found = []
        for column in scores.T:
            own = column[kept]
            last = np.partition(own, len(own) - fetch)[len(own) - fetch]
            # With what float32 cannot tell apart from the last, so that equal scores stay together.
            rows = kept[own >= last - 2 * error].astype(np.int64)
            ceiling = -np.inf if len(rows) == len(kept) else float(last - error)
            found.append(Shortlist(rows, ceiling))
        return found


class Fresh:
    """The writer of fresh rows; its ``view`` is for readers."""

    def __init__(self, dimension: int) -> None:
        self._rows: dict[str, int] = {}
        self._ids: list[str] = []
        self._tags: list[tuple[Tag, ...]] = []
        empty = np.empty((0, dimension), np.float32)
        self.view = FreshView(empty, 0, np.zeros(0, np.bool_), 0, self._ids, self._tags, ())

    def row(self, face_id: str) -> int | None:
        """The live row of an id, if it has one."""
        return self._rows.get(face_id)

    def changed(
        self,
        gone: Collection[str],
        ids: Sequence[str],
        vectors: FloatArray,
        tags: Sequence[Sequence[Tag]],
    ) -> FreshView:
        """Take away the rows of ``gone`` and of ``ids``, and add rows for ``ids``; the new view."""
        view = self.view
        leaving = [
            row for face_id in {*gone, *ids} if (row := self._rows.pop(face_id, None)) is not None
        ]
        count = view.count + len(ids)
        live = np.ones(count, np.bool_)
        live[: view.count] = view.live
        live[leaving] = False
        matrix = view.matrix
        if count > len(matrix):
            matrix = np.empty((max(2 * count, _FIRST_ROWS), matrix.shape[1]), np.float32)
            matrix[: view.count] = view.matrix[: view.count]
        matrix[view.count : count] = vectors
        self._ids.extend(ids)
        self._tags.extend(tuple(some) for some in tags)
        self._rows.update((face_id, view.count + i) for i, face_id in enumerate(ids))
        columns = view.columns
        while _CHUNK * (len(columns) + 1) <= count:
            start = _CHUNK * len(columns)
            columns = (*columns, Columns.of(self._tags[start : start + _CHUNK]))
        self.view = replace(
            view,
            matrix=matrix,
            count=count,
            live=live,
            dead=view.dead + len(leaving),
            columns=columns,
        )
        return self.view

    def since(self, start: int) -> Fresh:
        """The live rows from ``start`` on, as fresh rows of their own."""
        view = self.view
        rows = start + np.flatnonzero(view.live[start:])
        ids, tags = view.named(rows)
        other = Fresh(view.matrix.shape[1])
        other.changed((), ids, view.matrix[rows], tags)
        return other

    def __len__(self) -> int:
        return len(self._rows)

    def held(self) -> set[str]:
        """The ids of all live rows."""
        return set(self._rows)
