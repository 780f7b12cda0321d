"""What scans the rows of one segment: a shortlist, and what every other row can score at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Shortlist:
    """``rows``: int64 (m,), positions in the segment, in no order, each once.

    ``ceiling``: no other row (that was to be looked at) has an exact score above it; minus
    infinity where there is no other.
    """

    rows: NDArray[np.int64]
    ceiling: float


class Scanner(Protocol):
    """An exhaustive scan over the rows of one segment. Safe to use from several threads."""

    def shortlist(
        self, probes: FloatArray, fetch: int, *, keep: NDArray[np.bool_] | None = None
    ) -> list[Shortlist]:
        """For each probe, float32 (n, dimension) of unit length, about its ``fetch`` best rows.

        ``keep`` (bool (rows,)) says which rows are looked at; ``None`` for all. All that are
        looked at come back where ``fetch`` or fewer are.
        """
        ...
