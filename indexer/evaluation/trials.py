"""Searches for people in a gallery of ads, and paired comparisons of two ways to score them.

A trial searches for one person with some of their photos. In the gallery stand all faces of other
people and, held out, other photos of the person. Two ways of scoring run over the same trials, so
their difference is paired: people are drawn with replacement (the bootstrap of ``intervals``), both
figures are taken from the same draw, and the interval is that of their difference. Every person
weighs the same, however many trials they have. The gallery stays as it is.

Thresholds come from the scores themselves, over all trials together, because one threshold serves
all cases. The strangers that set them are scored in a gallery without the person.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexer.evaluation.intervals import draw_weights, percentile_interval
from indexer.evaluation.photos import LabelledFaces
from indexer.evaluation.protocol import (
    NO_RANK,
    BoolArray,
    DoubleArray,
    IntArray,
    Interval,
)
from models.types import FloatArray

METRICS: Final = (
    *("rank_1", "rank_10", "rank_50"),
    *("tar_1e-3", "tar_1e-4", "found_at_fpir_1e-1", "found_at_fpir_1e-2"),
)
"""Shares of searches, larger is better: the person among the first 1, 10 or 50; above the score
that the share 1e-3 or 1e-4 of strangers exceeds; above the score that a stranger exceeds in one of
10 or 100 searches for people who are not there (1 - FNIR)."""

_RANKS: Final = (1, 10, 50)
_FMR: Final = (1e-3, 1e-4)
_FPIR: Final = (1e-1, 1e-2)
_TAIL: Final = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class FaceRows:
    """One face, or none, per photo: ``vectors`` float32 (n, d), L2-normalised, ``found`` bool
    (n,), ``quality`` float64 (n,) in [0, 1], NaN without a face."""

    vectors: FloatArray
    found: BoolArray
    quality: DoubleArray

    @classmethod
    def of(cls, faces: LabelledFaces) -> FaceRows:
        sample = faces.sample
        return cls(sample.vectors, sample.found, sample.quality)

    def where(self, chosen: BoolArray, other: FaceRows) -> FaceRows:
        """These rows where ``chosen``, those of ``other`` elsewhere."""
        return FaceRows(
            np.where(chosen[:, None], self.vectors, other.vectors),
            np.where(chosen, self.found, other.found),
            np.where(chosen, self.quality, other.quality),
        )

    def followed_by(self, other: FaceRows) -> FaceRows:
        """These rows, then those of ``other``."""
        return FaceRows(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.found, other.found]),
            np.concatenate([self.quality, other.quality]),
        )

    def take(self, rows: IntArray) -> FaceRows:
        """Only ``rows``, in this order."""
        return FaceRows(self.vectors[rows], self.found[rows], self.quality[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The same photos as they stand in cases and in ads; ``people`` int64 (n,): whose they are,
    counted from 0."""

    cases: FaceRows
    ads: FaceRows
    people: IntArray

    def take(self, rows: IntArray) -> Material:
        """Only ``rows``, in this order."""
        return Material(self.cases.take(rows), self.ads.take(rows), self.people[rows])

    def with_strangers(self, vectors: FloatArray) -> Material:
        """With more people behind the last row, one face each in an ad: float32 (m, d)."""
        count = len(vectors)
        unknown = np.full(count, np.nan)
        none = FaceRows(np.zeros_like(vectors), np.zeros(count, np.bool_), unknown)
        more = FaceRows(vectors, np.ones(count, np.bool_), unknown)
        numbers = int(self.people.max(initial=-1)) + 1 + np.arange(count)
        return Material(
            self.cases.followed_by(none),
            self.ads.followed_by(more),
            np.concatenate([self.people, numbers]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A search for ``person`` with the photos ``enrolled``; ``mates`` are their rows among the
    ads (the person's other rows are not in the gallery)."""

    person: int
    enrolled: IntArray
    mates: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What a way of scoring may look at: the person's ``vectors`` (photos, d), their ``quality``
    (photos,), their ``cosines`` to every row of the ads (photos, n), and which rows of the ads are
    in the gallery (``present``, bool (n,))."""

    vectors: FloatArray
    quality: DoubleArray
    cosines: FloatArray
    present: BoolArray


Arm = Callable[[Search], FloatArray]
"""A way of scoring: one score for every row of the ads, (n,)."""


def in_first_half(name: str) -> bool:
    """Whether a person is in the half for tuning, not in the one to report; by a hash, for good."""
    return hashlib.sha256(f"half:{name}".encode()).digest()[0] % 2 == 0


def draw_trials(
    material: Material,
    searched: BoolArray,
    photos: int,
    *,
    more_than: int | None = None,
    draws: int = 4,
    seed: int = 0,
) -> list[Trial]:
    """Trials with one held-out photo each, for people (``searched``, by row) with enough faces.

    A person needs more than ``photos`` rows (or ``more_than``) with a face as a case photo; each
    is searched for ``draws`` times at most. With one ``seed`` the held-out photo of a draw is the
    same for every number of photos, and fewer photos are the first of more.
    """
    rng = np.random.default_rng(seed)
    least = photos if more_than is None else more_than
    trials = []
    for person in np.unique(material.people[searched]):
        own = np.flatnonzero((material.people == person) & material.cases.found)
        orders = [rng.permutation(own) for _ in range(draws)]
        if len(own) <= least:
            continue
        trials += [
            Trial(int(person), order[1 : 1 + photos], order[:1])
            for order in orders[: min(draws, len(own))]
        ]
    return trials


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How trials came out under one way of scoring.

    Per mate: ``rank`` int64 and ``score`` float32 (m,), ``person`` int64 (m,). Per trial:
    ``searched`` int64 (t,), the highest strangers' scores ``tail`` float32 (t, k), descending, and
    the number of ``strangers`` int64 (t,).
    """

    person: IntArray
    rank: IntArray
    score: FloatArray
    searched: IntArray
    tail: FloatArray
    strangers: IntArray


def run_trials(material: Material, trials: Sequence[Trial], arm: Arm) -> Outcome:
    """Score all trials; a face that was not found in an ad is in no gallery and has no rank."""
    people, ads = material.people, material.ads
    keep = max(1, math.ceil(_TAIL * int(ads.found.sum())))
    person: list[int] = []
    rank: list[int] = []
    score: list[float] = []
    tails = np.full((len(trials), keep), -np.inf, np.float32)
    strangers = np.zeros(len(trials), np.int64)
    for at, trial in enumerate(trials):
        vectors = material.cases.vectors[trial.enrolled]
        quality = material.cases.quality[trial.enrolled]
        cosines = vectors @ ads.vectors.T
        others = ads.found & (people != trial.person)
        present = others.copy()
        present[trial.mates] = ads.found[trial.mates]
        scores = arm(Search(vectors, quality, cosines, present))
        among = scores[others]
        for mate in trial.mates:
            found = bool(ads.found[mate])
            person.append(trial.person)
            score.append(float(scores[mate]) if found else -math.inf)
            rank.append(1 + int((among >= scores[mate]).sum()) if found else NO_RANK)
        absent = arm(Search(vectors, quality, cosines, others))[others]
        tail = np.sort(np.partition(absent, -min(keep, len(absent)))[-keep:])[::-1]
        tails[at, : len(tail)] = tail
        strangers[at] = len(absent)
    return Outcome(
        np.array(person, np.int64),
        np.array(rank, np.int64),
        np.array(score, np.float32),
        np.array([trial.person for trial in trials], np.int64),
        tails,
        strangers,
    )


def best_mates(outcome: Outcome, trials: Sequence[Trial]) -> Outcome:
    """The same, with only the highest mate of each trial: is the person seen at all?"""
    ends = np.cumsum([len(trial.mates) for trial in trials])
    best = [
        start + int(outcome.score[start:end].argmax())
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    return Outcome(
        outcome.person[best],
        outcome.rank[best],
        outcome.score[best],
        outcome.searched,
        outcome.tail,
        outcome.strangers,
    )


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """The outcomes of several lists of trials, one after the other."""
    keep = min(part.tail.shape[1] for part in parts)
    return Outcome(
        np.concatenate([part.person for part in parts]),
        np.concatenate([part.rank for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.searched for part in parts]),
        np.concatenate([part.tail[:, :keep] for part in parts]),
        np.concatenate([part.strangers for part in parts]),
    )


def metric_draws(outcome: Outcome, draws: IntArray, people: IntArray) -> DoubleArray:
    """``METRICS`` in every draw: (draws, metrics). ``draws``: how often each of ``people``
    (ascending) counts, int64 (draws, people)."""
    mate_of = np.searchsorted(people, outcome.person)
    trial_of = np.searchsorted(people, outcome.searched)
    mate_share = 1.0 / np.bincount(mate_of, minlength=len(people))[mate_of]
    trial_share = 1.0 / np.bincount(trial_of, minlength=len(people))[trial_of]
    flat = outcome.tail.ravel()
    # Beyond the trials' shortest stored tail the order of all strangers is not known; that is
    # thirty times deeper than any threshold below lies.
    order = np.argsort(-flat, kind="stable")
    flat, tail_trial = flat[order], (order // outcome.tail.shape[1])
    tops = outcome.tail[:, 0]
    top_order = np.argsort(-tops, kind="stable")
    reached = [outcome.rank <= k for k in _RANKS]
    found = np.empty((len(draws), len(METRICS)))
    for row, weights in enumerate(draws):
        mate = weights[mate_of] * mate_share
        trial = weights[trial_of] * trial_share
        limits = []
        false = np.cumsum(trial[tail_trial])
        total = float(trial @ outcome.strangers)
        for rate in _FMR:
            at = int(np.searchsorted(false, rate * total + 1e-9, side="right"))
            limits.append(flat[min(at, len(flat) - 1)])
        false = np.cumsum(trial[top_order])
        for rate in _FPIR:
            at = int(np.searchsorted(false, rate * false[-1] + 1e-9, side="right"))
            limits.append(tops[top_order[min(at, len(tops) - 1)]])
        accepted = [*reached, *(outcome.score > limit for limit in limits)]
        found[row] = [float(mate @ one) for one in accepted]
        found[row] /= mate.sum()
    return found


@dataclass(frozen=True, slots=True)
class Gain:
    """One metric: what the arm reached, its interval, and the paired difference to the baseline
    with the interval of that (zero and ``None`` for the baseline itself)."""

    value: float
    interval: Interval | None
    difference: float
    difference_interval: Interval | None


def compare(
    baseline: Outcome, arm: Outcome | None = None, *, replicates: int = 500, seed: int = 0
) -> dict[str, Gain]:
    """``METRICS`` of ``arm`` beside ``baseline`` on the same trials (of the baseline alone without
    one)."""
    people = np.unique(baseline.searched)
    everyone = np.ones((1, len(people)), np.int64)
    draws = np.concatenate([everyone, draw_weights(len(people), replicates, seed)])
    before = metric_draws(baseline, draws, people)
    after = before if arm is None else metric_draws(arm, draws, people)
    change = after - before
    return {
        name: Gain(
            float(after[0, at]),
            percentile_interval(after[1:, at]),
            float(change[0, at]),
            None if arm is None else percentile_interval(change[1:, at]),
        )
        for at, name in enumerate(METRICS)
    }
