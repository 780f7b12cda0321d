"""What a false match rate measured on good photos is worth where photos are poor.

A calibration is measured on the photos as they are. Here its thresholds are held to degraded
photos: of all comparisons of two different people, the share that reaches the score which 1e-2,
1e-3 or 1e-4 of the comparisons of good photos exceed; by what was done to the photos, and by how
many of the two faces say themselves that rates do not hold for them (``models.quality``). Two faces
that are covered or blurred in the same way look alike for that reason alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from indexer.evaluation.intervals import draw_weights, percentile_interval
from indexer.evaluation.photos import LabelledFaces
from indexer.evaluation.poor import AD_LIKE, degradation_of
from indexer.evaluation.protocol import BoolArray, DoubleArray, IntArray, Interval, threshold_at
from indexer.evaluation.trials import FaceRows
from models.quality import outside_rates
from models.types import FloatArray

NOMINAL: Final = (1e-2, 1e-3, 1e-4)
LIMITED: Final = ("none limited", "one limited", "both limited")
_REPLICATES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLine:
    """Comparisons of one kind: ``cases`` and ``ads`` "clean" or "poor"; ``kind`` what was done to
    the poor ones ("all", one of ``AD_LIKE``, or "different" where both are poor, each in another
    way), or one of ``LIMITED``: how many of the two faces fall short of ``RATE_LIMITS``.
    ``pairs``: comparisons of two people. ``reached``: for each of ``NOMINAL`` the share of them
    above its score, with a 95 % interval over people; ``None`` without a comparison."""

    cases: str
    ads: str
    kind: str
    pairs: int
    reached: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Comparisons:
    """Two ways the same photos are, which of them fall short of ``RATE_LIMITS`` (bool (n,)), and
    what was done to the poor ones (int64 (n,))."""

    first: FaceRows
    second: FaceRows
    first_limited: BoolArray
    second_limited: BoolArray
    people: IntArray
    kinds: IntArray
    both_poor: bool

    def blocks(self, kind: str) -> Iterator[tuple[IntArray, FloatArray, BoolArray]]:
        """Rows, cosines, and which of them compare two people, of one kind; part by part.

        Every pair of photos comes once: the second photo is one of a later row.
        """
        count = len(self.people)
        for start in range(0, count, 256):
            rows = np.arange(start, min(count, start + 256))
            scores = self.first.vectors[rows] @ self.second.vectors.T
            counted = self.first.found[rows, None] & self.second.found
            counted &= self.people[rows, None] != self.people
            counted &= rows[:, None] < np.arange(count)
            if kind == "different":
                counted &= self.kinds[rows, None] != self.kinds
            elif kind in LIMITED:
                limited = self.first_limited[rows, None].astype(int) + self.second_limited
                counted &= limited == LIMITED.index(kind)
            elif kind != "all":
                counted &= self.kinds == AD_LIKE.index(kind)
                if self.both_poor:
                    counted &= self.kinds[rows, None] == self.kinds
            yield rows, scores, counted


def rate_study(clean: LabelledFaces, poor: LabelledFaces, *, seed: int = 0) -> list[RateLine]:
    """Clean with clean (whose shares are the nominal ones), clean with poor, poor with poor.

    ``poor`` are the same photos by ``poor.poor_faces``. None with fewer than two people that have
    a face.
    """
    good, bad = FaceRows.of(clean), FaceRows.of(poor)
    _, people = np.unique(clean.photos.identities, return_inverse=True)
    people = people.astype(np.int64)
    names = [photo.name for photo in clean.photos.photos]
    kinds = np.array([AD_LIKE.index(degradation_of(name)) for name in names], np.int64)
    plain, worse = _limited(clean), _limited(poor)
    nominal = _Comparisons(good, good, plain, plain, people, kinds, both_poor=False)
    limits = _limits(nominal)
    if limits is None:
        return []
    mixed = _Comparisons(good, bad, plain, worse, people, kinds, both_poor=False)
    both = _Comparisons(bad, bad, worse, worse, people, kinds, both_poor=True)
    return [
        _line("clean", "clean", "all", nominal, limits, seed),
        *(
            _line("clean", "poor", kind, mixed, limits, seed)
            for kind in ("all", *LIMITED, *AD_LIKE)
        ),
        *(
            _line("poor", "poor", kind, both, limits, seed)
            for kind in ("all", "different", *LIMITED, *AD_LIKE)
        ),
    ]


def _limited(faces: LabelledFaces) -> BoolArray:
    found = [face is not None and bool(outside_rates(face.quality)) for face in faces.faces]
    return np.array(found, np.bool_)


def _limits(nominal: _Comparisons) -> tuple[float, ...] | None:
    parts = [scores[counted] for _, scores, counted in nominal.blocks("all")]
    descending = -np.sort(-np.concatenate(parts)) if parts else np.empty(0, np.float32)
    if not len(descending):
        return None
    return tuple(threshold_at(descending, len(descending), rate) for rate in NOMINAL)


def _line(
    cases: str,
    ads: str,
    kind: str,
    comparisons: _Comparisons,
    limits: Sequence[float],
    seed: int,
) -> RateLine:
    size = int(comparisons.people.max()) + 1
    draws = draw_weights(size, _REPLICATES, seed).astype(np.float32)
    pairs, total = _count(comparisons, kind, -math.inf, draws)
    reached: list[float | None] = []
    intervals: list[Interval | None] = []
    for limit in limits:
        above, replicated = _count(comparisons, kind, limit, draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = replicated / total
        reached.append(above / pairs if pairs else None)
        intervals.append(percentile_interval(shares) if pairs else None)
    return RateLine(
        cases=cases,
        ads=ads,
        kind=kind,
        pairs=pairs,
        reached=tuple(reached),
        intervals=tuple(intervals),
    )


def _count(
    comparisons: _Comparisons, kind: str, limit: float, draws: FloatArray
) -> tuple[int, DoubleArray]:
    """Comparisons of two people above ``limit``, and the same in every draw of people."""
    people = comparisons.people
    by_pair = np.zeros((draws.shape[1], draws.shape[1]), np.float32)
    for rows, scores, counted in comparisons.blocks(kind):
        row, column = np.nonzero(counted & (scores > limit))
        np.add.at(by_pair, (people[rows[row]], people[column]), 1.0)
    drawn = ((draws @ by_pair) * draws).sum(axis=1, dtype=np.float64)
    return int(by_pair.sum(dtype=np.float64)), drawn


def render_rates(lines: Sequence[RateLine]) -> str:
    """The lines as a plain table."""
    if not lines:
        return "Fewer than two people have a face: no comparisons of strangers."
    out = [
        "strangers above the score that so many reach on clean photos (95 % interval)",
        f"{'cases':<7}{'ads':<7}{'poor by':<13}{'pairs':>12}"
        + "".join(f"{rate:>31.0e}" for rate in NOMINAL),
    ]
    for line in lines:
        cells = [
            "-" if value is None else f"{value:.1e}" + _between(span)
            for value, span in zip(line.reached, line.intervals, strict=True)
        ]
        out.append(
            f"{line.cases:<7}{line.ads:<7}{line.kind:<13}{line.pairs:>12,}"
            + "".join(f"{cell:>31}" for cell in cells)
        )
    return "\n".join(out)


def _between(span: Interval | None) -> str:
    return "" if span is None else f" ({span.low:.1e} to {span.high:.1e})"
