"""95 % intervals by a bootstrap over identities.

Pairs that share a person are not independent, so people are drawn, not pairs (Bolle, Ratha and
Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", 2004). Each
replicate draws as many identities as there are, with replacement; an identity drawn m times
gives its genuine pairs the weight m, and an impostor pair gets the product of its two weights
(pairs between two copies of one person are left out). The threshold is set anew in every
replicate. In identification the gallery stays as it is and the probes are weighted. Percentile
intervals; seeded, so that a report can be repeated.

A bootstrap can only draw what was seen: of a rate at which nothing, or almost nothing, happened it
gives an interval of no width. Where few people carry a rate its interval is therefore widened to
hold an exact binomial one over people, or over pairs of people (see ``binomial``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.binomial import (
    clopper_pearson,
    widened_share,
    widest,
)
from indexer.evaluation.pairs import PairScores
from indexer.evaluation.protocol import (
    FMR_LEVELS,
    FPIR_LEVELS,
    RANKS,
    DoubleArray,
    Identification,
    IntArray,
    Interval,
    threshold_at,
)
from models.types import FloatArray

FEW_PAIRS = 30
"""Distinct pairs of people below which a rate of pairs is hardly seen (Doddington's rule of 30)."""

_LARGE_TAIL = 1_500_000


def draw_weights(people: int, replicates: int, seed: int) -> IntArray:
    """How often each identity is drawn: int64 (replicates, people), rows sum to ``people``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(people, np.full(people, 1.0 / people), size=replicates).astype(np.int64)


def percentile_interval(values: DoubleArray) -> Interval | None:
    """The central 95 % of the finite values; ``None`` where too few replicates gave one."""
    finite = values[np.isfinite(values)]
    if len(finite) < 0.9 * len(values) or not len(finite):
        return None
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True)
class VerificationIntervals:
    """Intervals of TAR at each of ``FMR_LEVELS``, of the FMR at the thresholds that were set for
    them (held fixed), and of the EER; ``None`` where there is no such figure. The EER's is also
    ``None`` where the curves do not cross within the stored tail."""

    tar: dict[str, Interval | None]
    fmr: dict[str, Interval | None]
    eer: Interval | None


def verification_intervals(
    pairs: PairScores, *, replicates: int = 500, seed: int = 0
) -> VerificationIntervals:
    """Intervals of the figures over all pairs."""
    people = len(pairs.compared_sizes)
    names = list(FMR_LEVELS)
    if not len(pairs.genuine) or not len(pairs.tail):
        return VerificationIntervals(dict.fromkeys(names), dict.fromkeys(names), None)
    if len(pairs.tail) > _LARGE_TAIL:
        replicates = min(replicates, 200)
    order = np.argsort(-pairs.genuine, kind="stable")
    genuine, genuine_identity = pairs.genuine[order], pairs.genuine_identity[order]
    # For each tail score, how many genuine scores lie strictly above it.
    above = np.searchsorted(-genuine, -pairs.tail, side="left")
    first = pairs.photo_identity[pairs.tail_first]
    second = pairs.photo_identity[pairs.tail_second]
    thresholds = [
        threshold_at(pairs.tail, pairs.impostor_compared, rate) for rate in FMR_LEVELS.values()
    ]
    accepted_pairs = [int(np.searchsorted(-pairs.tail, -at, side="left")) for at in thresholds]
    tars = np.full((replicates, len(names)), np.nan)
    fmrs = np.full((replicates, len(names)), np.nan)
    eers = np.full(replicates, np.nan)
    for r, weights in enumerate(draw_weights(people, replicates, seed)):
        sizes = weights * pairs.compared_sizes
        total = (int(sizes.sum()) ** 2 - int((sizes**2).sum())) / 2
        if not total:
            continue
        false = np.cumsum(weights[first] * weights[second])
        for column, count in enumerate(accepted_pairs):
            fmrs[r, column] = false[count - 1] / total if count else 0.0
        accepted = np.concatenate([[0], np.cumsum(weights[genuine_identity])])
        if not accepted[-1]:
            continue
        tar = accepted[above] / accepted[-1]
        for column, rate in enumerate(FMR_LEVELS.values()):
            at = int(np.searchsorted(false, rate * total + 1e-9, side="right"))
            # Past the stored tail its lowest score is the strictest threshold known to hold.
            tars[r, column] = tar[min(at, len(tar) - 1)]
        fmr = false / total
        crossed = int(np.argmax(fmr >= 1.0 - tar))
        if fmr[crossed] >= 1.0 - tar[crossed]:
            eers[r] = (fmr[crossed] + 1.0 - tar[crossed]) / 2
    tar_intervals: dict[str, Interval | None] = {}
    fmr_intervals: dict[str, Interval | None] = {}
    for column, name in enumerate(names):
        tar_intervals[name] = widened_share(
            percentile_interval(tars[:, column]),
            pairs.genuine > thresholds[column],
            pairs.genuine_identity,
        )
        count = accepted_pairs[column]
        fmr_intervals[name] = widened_pairs(
            percentile_interval(fmrs[:, column]),
            count / pairs.impostor_compared,
            distinct_pairs(first[:count], second[:count]),
            effective_pairs(pairs.compared_sizes),
        )
    fmr = np.arange(1, len(pairs.tail) + 1) / pairs.impostor_compared
    crossed = int(np.argmax(fmr >= 1.0 - above / len(genuine)))
    eer = percentile_interval(eers)
    if eer is not None:
        missed = pairs.genuine <= pairs.tail[crossed]
        eer = widened_share(eer, missed, pairs.genuine_identity)
    return VerificationIntervals(tar_intervals, fmr_intervals, eer)


def distinct_pairs(first: IntArray, second: IntArray) -> int:
    """How many different pairs of people there are among (first, second), in either order."""
    if not len(first):
        return 0
    low, high = np.minimum(first, second), np.maximum(first, second)
    return int(np.unique(low * (int(high.max()) + 1) + high).size)


def effective_pairs(sizes: IntArray) -> float:
    """How many pairs of people of equal weight say as much as all pairs of their faces.

    ``sizes``: faces of each person; a pair of people weighs as many comparisons as they give.
    """
    faces = sizes.astype(np.float64)
    total = faces.sum() ** 2 - (faces**2).sum()
    squares = (faces**2).sum() ** 2 - (faces**4).sum()
    return float(total**2 / (2 * squares)) if squares else 0.0


def widened_pairs(
    interval: Interval | None, rate: float, seen: int, pairs: float
) -> Interval | None:
    """A bootstrapped interval of a rate over pairs of strangers, widened where few were seen.

    ``seen``: distinct pairs of people that it happened to; ``pairs``: the effective number of pairs
    of people. With fewer than ``FEW_PAIRS`` seen the result also holds the Clopper-Pearson interval
    over ``pairs``. ``None`` where there are none.
    """
    if not pairs:
        return None
    return interval if seen >= FEW_PAIRS else widest(interval, clopper_pearson(rate * pairs, pairs))


def weighted_shares(
    hits: NDArray[np.bool_], identities: IntArray, *, replicates: int, seed: int
) -> DoubleArray:
    """Bootstrap replicates of the share of true ``hits``, drawing identities: (replicates,)."""
    _, compact = np.unique(identities, return_inverse=True)
    sizes = np.bincount(compact)
    true = np.bincount(compact, weights=hits.astype(np.float64))
    weights = draw_weights(len(sizes), replicates, seed)
    shares: DoubleArray = (weights @ true) / (weights @ sizes)
    return shares


def share_interval(
    hits: NDArray[np.bool_], identities: IntArray, *, replicates: int = 500, seed: int = 0
) -> Interval | None:
    """Interval of a share of probes, drawing identities; widened where few people carry it."""
    if not len(hits):
        return None
    shares = weighted_shares(hits, identities, replicates=replicates, seed=seed)
    return widened_share(percentile_interval(shares), hits, identities)


def rank_intervals(
    result: Identification, *, replicates: int = 500, seed: int = 0
) -> dict[int, Interval | None]:
    """Intervals of rank k for each of ``RANKS``."""
    return {
        k: share_interval(
            result.mated.rank <= k, result.mated_identity, replicates=replicates, seed=seed
        )
        for k in RANKS
    }


def fnir_intervals(
    result: Identification, *, replicates: int = 500, seed: int = 0
) -> dict[str, Interval | None]:
    """Intervals of FNIR at each of ``FPIR_LEVELS``; mated and non-mated people are both drawn."""
    names = list(FPIR_LEVELS)
    mate = result.mated.mate_score
    if not len(mate) or not len(result.non_mated_top):
        return dict.fromkeys(names)
    order = np.argsort(-result.non_mated_top, kind="stable")
    tops: FloatArray = result.non_mated_top[order]
    _, people = np.unique(result.non_mated_identity[order], return_inverse=True)
    _, mated_people = np.unique(result.mated_identity, return_inverse=True)
    mate_order = np.argsort(-mate, kind="stable")
    sorted_mate, mated_people = mate[mate_order], mated_people[mate_order]
    draws = draw_weights(int(people.max()) + 1, replicates, seed)
    mated_draws = draw_weights(int(mated_people.max()) + 1, replicates, seed + 1)
    values = np.full((replicates, len(names)), np.nan)
    for r in range(replicates):
        false = np.cumsum(draws[r][people])
        found = np.concatenate([[0], np.cumsum(mated_draws[r][mated_people])])
        for column, rate in enumerate(FPIR_LEVELS.values()):
            at = int(np.searchsorted(false, rate * false[-1] + 1e-9, side="right"))
            accepted = int(np.searchsorted(-sorted_mate, -tops[at], side="left"))
            values[r, column] = 1.0 - found[accepted] / found[-1]
    intervals: dict[str, Interval | None] = {}
    for column, name in enumerate(names):
        point = result.fnir_at_fpir[name]
        missed = mate <= (np.inf if point is None else point.threshold)
        intervals[name] = widened_share(
            percentile_interval(values[:, column]), missed, result.mated_identity
        )
    return intervals
