"""Verification over all pairs of photos, block by block, in plain NumPy.

The conventions are those of ``protocol``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from indexer.evaluation.protocol import (
    BLOCK_ELEMENTS,
    FMR_LEVELS,
    BoolArray,
    DoubleArray,
    IntArray,
    OperatingPoint,
    Sample,
    threshold_at,
)
from models.types import FloatArray

HISTOGRAM_BINS = 1 << 20
"""Bins of the impostor histogram over cosines in [-1, 1]; one bin is about 2e-6 wide."""

_TAIL_SHARE = 0.05
_TAIL_MINIMUM = 200_000
_TAIL_MAXIMUM_FOR_EER = 4_000_000


@dataclass(frozen=True, slots=True)
class ScoreStats:
    """A description of one distribution of cosines; ``None`` where there is no score."""

    count: int
    mean: float | None
    deviation: float | None
    quantiles: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """Scores of all pairs of photos.

    ``genuine``: float32 (g,), every genuine pair, ``-inf`` where a face is missing;
    ``genuine_identity``: int64 (g,), the compact number of its identity; ``genuine_first`` and
    ``genuine_second`` the photo rows behind each pair.
    ``impostor_pairs`` counts all pairs of different identities, ``impostor_compared`` those in
    which both faces were found. ``histogram``: int64 (HISTOGRAM_BINS,) over [-1, 1].
    ``tail``: float32 (t,), the largest impostor scores, descending (at least 5 % of them, at
    least 200,000, and, up to 4 million, one and a half times what reaches the threshold of the
    EER; or all), ``tail_first`` and ``tail_second`` the photo rows behind them.
    ``photo_identity``: int64 (n,), compact identity numbers from 0.
    ``compared_sizes``: int64 (identities,), photos with a face.
    """

    genuine: FloatArray
    genuine_identity: IntArray
    genuine_first: IntArray
    genuine_second: IntArray
    impostor_pairs: int
    impostor_compared: int
    histogram: IntArray
    tail: FloatArray
    tail_first: IntArray
    tail_second: IntArray
    photo_identity: IntArray
    compared_sizes: IntArray


def _bins(scores: FloatArray) -> IntArray:
    scaled = (scores.astype(np.float64) + 1.0) * (HISTOGRAM_BINS / 2)
    return np.clip(scaled.astype(np.int64), 0, HISTOGRAM_BINS - 1)


def bin_edges() -> DoubleArray:
    """Lower edges of the histogram's bins, float64 (HISTOGRAM_BINS,)."""
    return np.arange(HISTOGRAM_BINS, dtype=np.float64) / (HISTOGRAM_BINS / 2) - 1.0


def score_pairs(sample: Sample) -> PairScores:
    """Compare all pairs of photos, block by block (memory stays near 100 MB plus the tail)."""
    _, compact = np.unique(sample.identities, return_inverse=True)
    compact = compact.astype(np.int64)
    sizes = np.bincount(compact).astype(np.int64)
    total = len(compact)
    genuine, genuine_identity, genuine_first, genuine_second = _genuine_scores(
        sample, compact, sizes
    )

    rows = np.flatnonzero(sample.found)
    vectors = np.ascontiguousarray(sample.vectors[rows], dtype=np.float32)
    labels = compact[rows]
    found_sizes = np.bincount(labels, minlength=len(sizes)).astype(np.int64)
    n = len(rows)
    compared = (n * n - int((found_sizes**2).sum())) // 2

    histogram = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    for _, scores, different in _impostor_blocks(vectors, labels):
        histogram += np.bincount(_bins(scores[different]), minlength=HISTOGRAM_BINS)
    above = np.cumsum(histogram[::-1])[::-1]
    # A replicate's curves cross near where those of all people do.
    at_eer = min(_TAIL_MAXIMUM_FOR_EER, math.ceil(1.5 * _accepted_at_eer(genuine, above)))
    wanted = min(compared, max(_TAIL_MINIMUM, math.ceil(compared * _TAIL_SHARE), at_eer))
    # The lowest bin that still belongs to the tail: the last one with enough scores above it.
    cut_bin = int(np.flatnonzero(above >= wanted)[-1]) if wanted else 0

    tails: list[FloatArray] = []
    firsts: list[IntArray] = []
    seconds: list[IntArray] = []
    for start, scores, different in _impostor_blocks(vectors, labels):
        cut = np.float32(cut_bin / (HISTOGRAM_BINS / 2) - 1.0) - np.float32(1e-6)
        i, j = np.nonzero(different & (scores >= cut))
        tails.append(scores[i, j])
        firsts.append(rows[i + start])
        seconds.append(rows[j + start])
    tail = np.concatenate(tails) if tails else np.empty(0, np.float32)
    order = np.argsort(-tail, kind="stable")
    first = np.concatenate(firsts) if firsts else np.empty(0, np.int64)
    second = np.concatenate(seconds) if seconds else np.empty(0, np.int64)
    return PairScores(
        genuine=genuine,
        genuine_identity=genuine_identity,
        genuine_first=genuine_first,
        genuine_second=genuine_second,
        impostor_pairs=(total * total - int((sizes**2).sum())) // 2,
        impostor_compared=compared,
        histogram=histogram,
        tail=tail[order],
        tail_first=first[order],
        tail_second=second[order],
        photo_identity=compact,
        compared_sizes=found_sizes,
    )


def _genuine_scores(
    sample: Sample, compact: IntArray, sizes: IntArray
) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
    scores: list[FloatArray] = []
    labels: list[IntArray] = []
    firsts: list[IntArray] = []
    seconds: list[IntArray] = []
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else np.empty(0, np.int64)
    for identity in np.flatnonzero(sizes > 1):
        rows = slice(int(starts[identity]), int(starts[identity] + sizes[identity]))
        vectors, found = sample.vectors[rows], sample.found[rows]
        i, j = np.triu_indices(int(sizes[identity]), k=1)
        values = np.einsum("nd,nd->n", vectors[i], vectors[j]).astype(np.float32)
        values[~(found[i] & found[j])] = -np.inf
        scores.append(values)
        labels.append(np.full(len(values), identity, dtype=np.int64))
        firsts.append(i + rows.start)
        seconds.append(j + rows.start)
    if not scores:
        none = np.empty(0, np.int64)
        return np.empty(0, np.float32), none, none, none
    labelled, first, second = (np.concatenate(part) for part in (labels, firsts, seconds))
    return np.concatenate(scores), labelled, first, second


def _accepted_at_eer(genuine: FloatArray, above: IntArray) -> int:
    """How many impostor pairs reach the bin edge at which as large a share of genuine ones fails.

    ``above``: int64 (HISTOGRAM_BINS,), impostor pairs at or above each bin's lower edge.
    """
    if not len(genuine) or not above[0]:
        return 0
    finite = genuine[np.isfinite(genuine)]
    accepted = np.cumsum(np.bincount(_bins(finite), minlength=HISTOGRAM_BINS)[::-1])[::-1]
    gap = np.abs(above / above[0] - (1.0 - accepted / len(genuine)))
    return int(above[int(np.argmin(gap))])


def _impostor_blocks(
    vectors: FloatArray, labels: IntArray
) -> Iterator[tuple[int, FloatArray, BoolArray]]:
    """Yield (row offset, scores, mask of the pairs that count), upper triangle only."""
    n = len(labels)
    step = max(1, BLOCK_ELEMENTS // max(n, 1))
    for start in range(0, n, step):
        stop = min(n, start + step)
        scores = vectors[start:stop] @ vectors[start:].T
        different = labels[start:stop, None] != labels[None, start:]
        # Below the diagonal lie pairs that an earlier row has already counted.
        different &= np.arange(stop - start)[:, None] < np.arange(n - start)[None, :]
        yield start, scores, different


@dataclass(frozen=True, slots=True)
class Verification:
    """Figures over all pairs; ``None`` where the sample has no such pair."""

    genuine_pairs: int
    impostor_pairs: int
    impostor_compared: int
    tar_at_fmr: dict[str, OperatingPoint | None]
    eer: float | None
    genuine: ScoreStats
    impostor: ScoreStats


def verify(pairs: PairScores) -> Verification:
    """TAR at the FMRs of ``FMR_LEVELS`` and the equal error rate.

    EER: ``(FMR + FNMR) / 2`` at the histogram edge where the two are closest.
    """
    genuine = np.sort(pairs.genuine)
    points: dict[str, OperatingPoint | None] = {}
    for name, rate in FMR_LEVELS.items():
        if not len(genuine) or not pairs.impostor_compared:
            points[name] = None
            continue
        threshold = threshold_at(pairs.tail, pairs.impostor_compared, rate)
        accepted = len(genuine) - int(np.searchsorted(genuine, threshold, side="right"))
        points[name] = OperatingPoint(
            rate,
            threshold,
            accepted / len(genuine),
            math.floor(rate * pairs.impostor_compared + 1e-9),
        )
    eer = None
    if len(genuine) and pairs.impostor_compared:
        fmr, fnmr = error_curves(pairs)
        at = int(np.argmin(np.abs(fmr - fnmr)))
        eer = float((fmr[at] + fnmr[at]) / 2)
    return Verification(
        genuine_pairs=len(genuine),
        impostor_pairs=pairs.impostor_pairs,
        impostor_compared=pairs.impostor_compared,
        tar_at_fmr=points,
        eer=eer,
        genuine=describe(pairs.genuine),
        impostor=describe_histogram(pairs.histogram),
    )


def error_curves(pairs: PairScores) -> tuple[DoubleArray, DoubleArray]:
    """FMR and FNMR for the rule "accept at or above the edge", per edge of ``bin_edges()``.

    Both float64 (HISTOGRAM_BINS,); FMR over the comparisons made, FNMR over all genuine pairs.
    """
    finite = pairs.genuine[np.isfinite(pairs.genuine)]
    genuine = np.bincount(_bins(finite), minlength=HISTOGRAM_BINS)
    accepted = np.cumsum(genuine[::-1])[::-1]
    false = np.cumsum(pairs.histogram[::-1])[::-1]
    fmr = false / max(pairs.impostor_compared, 1)
    fnmr = 1.0 - accepted / max(len(pairs.genuine), 1)
    return fmr, fnmr


_QUANTILES = {"q01": 0.01, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def describe(scores: FloatArray) -> ScoreStats:
    """Mean, deviation and quantiles of the finite scores."""
    finite = scores[np.isfinite(scores)].astype(np.float64)
    if not len(finite):
        return ScoreStats(0, None, None, {})
    values = np.quantile(finite, list(_QUANTILES.values()))
    quantiles = {name: float(v) for name, v in zip(_QUANTILES, values, strict=True)}
    return ScoreStats(len(finite), float(finite.mean()), float(finite.std()), quantiles)


def describe_histogram(histogram: IntArray) -> ScoreStats:
    """The same from a histogram over [-1, 1]; exact to a bin's width."""
    total = int(histogram.sum())
    if not total:
        return ScoreStats(0, None, None, {})
    centres = bin_edges() + 1.0 / HISTOGRAM_BINS
    mean = float((centres * histogram).sum() / total)
    variance = float((histogram * (centres - mean) ** 2).sum() / total)
    below = np.cumsum(histogram)
    at = {n: int(np.searchsorted(below, q * total)) for n, q in _QUANTILES.items()}
    quantiles = {name: float(centres[index]) for name, index in at.items()}
    return ScoreStats(total, mean, math.sqrt(variance), quantiles)
