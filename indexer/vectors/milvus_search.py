"""A search through a server that gives the nearest rows only: widened until it is exact.

Nothing here knows what server it is: :class:`Shortlist` is what one read of it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from indexer.vectors.base import Neighbours, best
from indexer.vectors.milvus_rows import between
from models.types import FloatArray

_MARGIN = 16
_EXCLUDED_AT_FIRST = 1024
_WIDER = 4


@dataclass(frozen=True, slots=True, eq=False)
class Shortlist:
    """Some faces, each once, with exact scores, float32 (n,).

    ``bound``: the best score that the server can have found for any row that it left out,
    ``None`` where it left out none.
    """

    ids: tuple[str, ...]
    scores: FloatArray
    bound: float | None


@dataclass(frozen=True, slots=True)
class Search:
    """One search: the ``k`` nearest of each probe among the rows that ``terms`` find.

    ``shortlists`` reads, for probes and a number of rows of at most ``limit``, what is nearest;
    ``error`` is how far a score by which the server chose can be from the exact one.
    """

    shortlists: Callable[[FloatArray, int, str], list[Shortlist]]
    error: float
    limit: int
    k: int
    terms: str
    excluded: frozenset[str]

    def run(self, probes: FloatArray) -> list[Neighbours]:
        known: list[_Known] = [{} for _ in probes]
        waiting = list(range(len(probes)))
        fetch = self.k + _MARGIN + min(len(self.excluded), _EXCLUDED_AT_FIRST)
        while waiting:
            fetch = min(fetch, self.limit)
            lists = self.shortlists(probes[waiting], fetch, self.terms)
            still = []
            for index, shortlist in zip(waiting, lists, strict=True):
                if self._settled(shortlist, known[index]):
                    continue
                if fetch == self.limit:
                    self._split(probes[index], shortlist, known[index], None, None)
                else:
                    still.append(index)
            waiting = still
            fetch *= _WIDER
        return [self._best(scores) for scores in known]

    def _best(self, known: _Known) -> Neighbours:
        return best(list(known), np.array(list(known.values()), np.float32), self.k)

    def _settled(self, shortlist: Shortlist, known: _Known) -> bool:
        """Take in a shortlist; whether no row that it leaves out can belong to the answer."""
        for face_id, score in zip(shortlist.ids, shortlist.scores, strict=True):
            if face_id not in self.excluded:
                known[face_id] = score
        if shortlist.bound is None:
            return True
        if len(known) < self.k:
            return False
        scores = np.array(list(known.values()), np.float32)
        worst = np.partition(scores, len(scores) - self.k)[len(scores) - self.k]
        return float(worst) > shortlist.bound + self.error

    def _split(
        self,
        probe: FloatArray,
        full: Shortlist,
        known: _Known,
        after: str | None,
        before: str | None,
    ) -> None:
        """Look on among the faces between two ids, of whom one read shows no more than ``full``.

        The face in the middle of those seen is known by now; those before and those after it are
        looked for apart. Each part holds about half of what was seen, so that this ends.
        """
        middle = sorted(full.ids)[len(full.ids) // 2]
        for low, high in ((after, middle), (middle, before)):
            terms = between(self.terms, low, high)
            (part,) = self.shortlists(probe[None, :], self.limit, terms)
            if not self._settled(part, known):
                self._split(probe, part, known, low, high)


_Known = dict[str, np.float32]
"""The exact scores of the faces seen so far that may be in the answer."""
