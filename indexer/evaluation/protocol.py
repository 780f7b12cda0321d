"""What the figures mean, and open-set identification on labelled embeddings, in plain NumPy.

The figures follow ISO/IEC 19795-1 (verification, in ``pairs``) and the open-set terms of NIST's
FRTE 1:N (FNIR, FPIR). Three conventions hold everywhere:

* A face that was not found is a miss. Its genuine pairs count as not accepted, its probe or its
  gallery photo as a miss at every rank. It never takes part in the other direction either: the
  thresholds come from comparisons that were really made, so that photos without a face cannot
  make a threshold look cheaper than it is.
* A threshold for a rate ``f`` over ``n`` comparisons is the ``(floor(f * n) + 1)``-th largest
  score, and a comparison is accepted when its score is strictly *above* it. The false rate
  reached is then never more than ``f``, ties included.
* Ties are counted against us: another identity with the same score ranks before the mate.

Similarities are cosines of L2-normalised vectors. Photos of one sample are in the order of the
identity's name, then of the file's name; the protocol reads its gallery from that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
DoubleArray = NDArray[np.float64]

FMR_LEVELS: Mapping[str, float] = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5}
FPIR_LEVELS: Mapping[str, float] = {"1e-1": 1e-1, "1e-2": 1e-2}
RANKS: tuple[int, ...] = (1, 5, 10, 50)

NO_RANK = int(np.iinfo(np.int64).max)
"""The rank of a probe whose face, or whose mate's face, was not found."""

BLOCK_ELEMENTS = 8_000_000
"""Scores held at a time while many are computed (32 MB of float32)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Labelled embeddings, one row per photo.

    ``vectors``: float32 (n, d), L2-normalised rows (rows without a face are ignored).
    ``found``: bool (n,), false where no face was found. ``identities``: int64 (n,), numbers that
    ascend with the identity's name; rows are sorted by identity, then by file name. ``quality``:
    float64 (n,) in [0, 1], NaN where it is not known (without a face, or in all rows where none is
    given).
    """

    vectors: FloatArray
    found: BoolArray
    identities: IntArray
    quality: DoubleArray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        count = len(self.identities)
        if not len(self.quality):
            object.__setattr__(self, "quality", np.full(count, np.nan))
        rows = {len(self.vectors), *self.found.shape, *self.quality.shape}
        if rows - {count}:
            raise ValueError("a sample has one row per photo in all its parts")
        if count and bool(np.any(np.diff(self.identities) < 0)):
            raise ValueError("photos must be sorted by identity")

    @property
    def identity_count(self) -> int:
        return int(np.unique(self.identities).size)


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def threshold_at(descending: FloatArray, total: int, rate: float) -> float:
    """The score that comparisons must exceed so that at most ``rate`` of ``total`` do.

    ``descending`` holds at least the ``floor(rate * total) + 1`` largest of the ``total`` scores.
    ``-inf`` where every comparison may be accepted.
    """
    allowed = math.floor(rate * total + 1e-9)
    if allowed >= total:
        return -math.inf
    return float(descending[allowed])


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What is reached at one false rate.

    ``rate`` asked for, ``threshold`` (scores strictly above are accepted), ``value`` the share
    of genuine comparisons accepted (TAR) or missed (FNIR), ``allowed`` the number of false
    comparisons that ``rate`` allows; below 30 the figure is hardly resolved (Doddington's rule
    of 30: fewer events say little about a rate).
    """

    rate: float
    threshold: float
    value: float
    allowed: int

    @property
    def resolved(self) -> bool:
        return self.allowed >= 30


@dataclass(frozen=True, slots=True, eq=False)
class OpenSetSplit:
    """Photo rows of the open-set protocol, int64 each: ``gallery``, ``mated``, ``non_mated``."""

    gallery: IntArray
    mated: IntArray
    non_mated: IntArray


def split_open_set(identities: IntArray) -> OpenSetSplit:
    """Gallery, mated and non-mated probes by the order of names.

    The gallery takes the first photo of every identity with two or more and the photo of every
    other single identity (the first, third, ... by name). All further photos of the former are
    mated probes; the remaining singles are non-mated probes.
    """
    _, starts, counts = np.unique(identities, return_index=True, return_counts=True)
    several = counts >= 2
    singles = starts[~several].astype(np.int64)
    first = starts[several].astype(np.int64)
    rows = np.arange(len(identities))
    mated = rows[np.repeat(several, counts)]
    return OpenSetSplit(
        gallery=np.sort(np.concatenate([first, singles[0::2]])),
        mated=np.setdiff1d(mated, first, assume_unique=True).astype(np.int64),
        non_mated=singles[1::2],
    )


@dataclass(frozen=True, slots=True, eq=False)
class ProbeRanks:
    """How each probe came out against a gallery of one photo per identity.

    ``rank``: int64 (p,), 1 is best, ``NO_RANK`` where probe or mate has no face.
    ``mate_score``: float32 (p,), ``-inf`` there. ``top_other``: float32 (p,), the best score of
    another identity, ``-inf`` without one.
    """

    rank: IntArray
    mate_score: FloatArray
    top_other: FloatArray


def rank_probes(
    probes: FloatArray,
    probe_found: BoolArray,
    probe_identities: IntArray,
    gallery: FloatArray,
    gallery_found: BoolArray,
    gallery_identities: IntArray,
) -> ProbeRanks:
    """Rank every probe's mate in the gallery; a probe whose identity is absent gets no rank."""
    count = len(probe_identities)
    rank = np.full(count, NO_RANK, dtype=np.int64)
    mate_score = np.full(count, -np.inf, dtype=np.float32)
    top_other = np.full(count, -np.inf, dtype=np.float32)
    if not count or not len(gallery_identities):
        return ProbeRanks(rank, mate_score, top_other)
    step = max(1, BLOCK_ELEMENTS // len(gallery_identities))
    for start in range(0, count, step):
        part = slice(start, min(count, start + step))
        scores = probes[part] @ gallery.T
        scores[:, ~gallery_found] = -np.inf
        scores[~probe_found[part]] = -np.inf
        own = probe_identities[part, None] == gallery_identities[None, :]
        mate = np.where(own, scores, -np.inf).max(axis=1)
        others = np.where(own, -np.inf, scores)
        ahead = (others >= mate[:, None]).sum(axis=1)
        rank[part] = np.where(np.isfinite(mate), ahead + 1, NO_RANK)
        mate_score[part] = mate
        top_other[part] = others.max(axis=1)
    return ProbeRanks(rank, mate_score, top_other)


@dataclass(frozen=True, slots=True, eq=False)
class Identification:
    """Open-set identification: per-probe results and the figures drawn from them.

    ``rank_k``: share of mated probes whose mate is among the first k. ``fnir_at_fpir``: share of
    mated probes whose mate's score is not above the threshold that lets at most that share of
    the non-mated probes (those with a face) have any candidate; the mate's rank plays no part,
    because a whole list is reviewed. ``None`` where there is no such probe.
    """

    split: OpenSetSplit
    mated: ProbeRanks
    mated_identity: IntArray
    non_mated_top: FloatArray
    non_mated_identity: IntArray
    rank_k: dict[int, float | None]
    fnir_at_fpir: dict[str, OperatingPoint | None]


def identify(sample: Sample) -> Identification:
    """Run the open-set protocol of ``split_open_set`` on a sample."""
    split = split_open_set(sample.identities)

    def ranked(rows: IntArray) -> ProbeRanks:
        return rank_probes(
            sample.vectors[rows],
            sample.found[rows],
            sample.identities[rows],
            sample.vectors[split.gallery],
            sample.found[split.gallery],
            sample.identities[split.gallery],
        )

    mated, non_mated = ranked(split.mated), ranked(split.non_mated)
    found = sample.found[split.non_mated]
    tops = non_mated.top_other[found]
    return Identification(
        split=split,
        mated=mated,
        mated_identity=sample.identities[split.mated],
        non_mated_top=tops,
        non_mated_identity=sample.identities[split.non_mated][found],
        rank_k={k: rank_share(mated.rank, k) for k in RANKS},
        fnir_at_fpir={n: _fnir(mated.mate_score, tops, r) for n, r in FPIR_LEVELS.items()},
    )


def rank_share(ranks: IntArray, k: int) -> float | None:
    """Share of probes with rank k or better; ``None`` without probes."""
    return float((ranks <= k).mean()) if len(ranks) else None


def _fnir(mate: FloatArray, tops: FloatArray, rate: float) -> OperatingPoint | None:
    if not len(mate) or not len(tops):
        return None
    threshold = threshold_at(np.sort(tops)[::-1], len(tops), rate)
    missed = float((mate <= threshold).mean())
    return OperatingPoint(rate, threshold, missed, math.floor(rate * len(tops) + 1e-9))
