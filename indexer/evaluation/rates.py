"""What a false match rate measured on good photos is worth where photos are poor.

A calibration is measured on the photos as they are. Here its thresholds are held to degraded
photos: of all comparisons of two different people, the share that reaches the score which 1e-2,
1e-3 or 1e-4 of the comparisons of good photos exceed; by how the two photos are, and by the lower
of their two qualities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from indexer.evaluation.intervals import draw_weights, percentile_interval
from indexer.evaluation.photos import LabelledFaces
from indexer.evaluation.protocol import BoolArray, DoubleArray, IntArray, Interval, threshold_at
from indexer.evaluation.trials import FaceRows
from models.types import FloatArray

NOMINAL: Final = (1e-2, 1e-3, 1e-4)
QUALITIES: Final = (0.0, 0.1, 0.3, 0.6, 1.0)
"""Borders of the classes of quality; the lower border belongs to a class, and 1 to the last."""

_REPLICATES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLine:
    """Comparisons of one kind: ``cases`` and ``ads`` "clean" or "poor"; ``quality`` the borders
    of the lower quality of the two (``None``: all). ``pairs``: comparisons of two people.
    ``reached``: for each of ``NOMINAL`` the share of them above its score, with a 95 % interval
    over people; ``None`` without a comparison."""

    cases: str
    ads: str
    quality: tuple[float, float] | None
    pairs: int
    reached: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rate_study(clean: LabelledFaces, poor: LabelledFaces, *, seed: int = 0) -> list[RateLine]:
    """Clean with clean (whose shares are the nominal ones), clean with poor, poor with poor; the
    latter also by quality. None with fewer than two people that have a face."""
    good, bad = FaceRows.of(clean), FaceRows.of(poor)
    _, people = np.unique(clean.photos.identities, return_inverse=True)
    people = people.astype(np.int64)
    limits = _limits(good, people)
    if limits is None:
        return []
    lines = [
        _line(cases, ads, None, first, second, people, limits, seed)
        for cases, first, ads, second in (
            ("clean", good, "clean", good),
            ("clean", good, "poor", bad),
            ("poor", bad, "poor", bad),
        )
    ]
    for low, high in pairwise(QUALITIES):
        lines.append(_line("poor", "poor", (low, high), bad, bad, people, limits, seed))
    return lines


def _blocks(
    first: FaceRows, second: FaceRows, people: IntArray
) -> Iterator[tuple[IntArray, FloatArray, BoolArray, DoubleArray]]:
    """Rows, cosines, which of them compare two people, the lower quality; part by part.

    Every pair of photos comes once: the second photo is one of a later row.
    """
    count = len(people)
    for start in range(0, count, 256):
        rows = np.arange(start, min(count, start + 256))
        scores = first.vectors[rows] @ second.vectors.T
        counted = first.found[rows, None] & second.found & (people[rows, None] != people)
        counted &= rows[:, None] < np.arange(count)
        lower = np.fmin(first.quality[rows, None], second.quality)
        yield rows, scores, counted, lower


def _limits(good: FaceRows, people: IntArray) -> tuple[float, ...] | None:
    parts = [scores[counted] for _, scores, counted, _ in _blocks(good, good, people)]
    descending = -np.sort(-np.concatenate(parts)) if parts else np.empty(0, np.float32)
    if not len(descending):
        return None
    return tuple(threshold_at(descending, len(descending), rate) for rate in NOMINAL)


def _line(
    cases: str,
    ads: str,
    quality: tuple[float, float] | None,
    first: FaceRows,
    second: FaceRows,
    people: IntArray,
    limits: Sequence[float],
    seed: int,
) -> RateLine:
    draws = draw_weights(int(people.max()) + 1, _REPLICATES, seed).astype(np.float32)
    pairs, total = _count(first, second, people, quality, -math.inf, draws)
    reached: list[float | None] = []
    intervals: list[Interval | None] = []
    for limit in limits:
        above, replicated = _count(first, second, people, quality, limit, draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = replicated / total
        reached.append(above / pairs if pairs else None)
        intervals.append(percentile_interval(shares) if pairs else None)
    return RateLine(
        cases=cases,
        ads=ads,
        quality=quality,
        pairs=pairs,
        reached=tuple(reached),
        intervals=tuple(intervals),
    )


def _count(
    first: FaceRows,
    second: FaceRows,
    people: IntArray,
    quality: tuple[float, float] | None,
    limit: float,
    draws: FloatArray,
) -> tuple[int, DoubleArray]:
    """Comparisons of two people above ``limit``, and the same in every draw of people."""
    by_pair = np.zeros((draws.shape[1], draws.shape[1]), np.float32)
    for rows, scores, counted, lower in _blocks(first, second, people):
        chosen = counted & (scores > limit)
        if quality is not None:
            low, high = quality
            chosen &= (lower >= low) & ((lower < high) | (high == QUALITIES[-1]))
        row, column = np.nonzero(chosen)
        np.add.at(by_pair, (people[rows[row]], people[column]), 1.0)
    drawn = ((draws @ by_pair) * draws).sum(axis=1, dtype=np.float64)
    return int(by_pair.sum(dtype=np.float64)), drawn


def render_rates(lines: Sequence[RateLine]) -> str:
    """The lines as a plain table."""
    if not lines:
        return "Fewer than two people have a face: no comparisons of strangers."
    out = [
        "strangers above the score that so many reach on clean photos (95 % interval)",
        f"{'cases':<7}{'ads':<7}{'quality':<12}{'pairs':>12}"
        + "".join(f"{rate:>28.0e}" for rate in NOMINAL),
    ]
    for line in lines:
        between = "all" if line.quality is None else "{:g} to {:g}".format(*line.quality)
        cells = [
            "-" if value is None else f"{value:.1e}" + _between(span)
            for value, span in zip(line.reached, line.intervals, strict=True)
        ]
        out.append(
            f"{line.cases:<7}{line.ads:<7}{between:<12}{line.pairs:>12,}"
            + "".join(f"{cell:>28}" for cell in cells)
        )
    return "\n".join(out)


def _between(span: Interval | None) -> str:
    return "" if span is None else f" ({span.low:.1e} to {span.high:.1e})"
