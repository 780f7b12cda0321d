"""Intervals hold the true rate as often as they say, in worlds whose true rates are known.

Seeds are fixed. Where few people carry a rate the intervals are wider than they would have to be,
so coverage is asked to be high enough, and widths are bounded from above.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv  # type: ignore[import-untyped]

from indexer.evaluation.binomial import (
    clopper_pearson,
    effective_count,
    widened_ratio,
    widened_share,
    wilson,
)
from indexer.evaluation.intervals import (
    draw_weights,
    effective_pairs,
    percentile_interval,
    share_interval,
    verification_intervals,
    weighted_shares,
)
from indexer.evaluation.pairs import score_pairs, verify
from indexer.evaluation.protocol import Interval, Sample

DIMENSION = 12


def fmr_of_sphere(score: float) -> float:
    """How often two independent directions reach a cosine: half a beta function."""
    return float(betainc((DIMENSION - 1) / 2, 0.5, 1 - score**2) / 2)


def threshold_on_sphere(rate: float) -> float:
    return float(np.sqrt(1 - betaincinv((DIMENSION - 1) / 2, 0.5, 2 * rate)))


def directions(rng: np.random.Generator, people: int) -> NDArray[np.float32]:
    vectors = rng.normal(size=(people, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors, dtype=np.float32)


def holds(interval: Interval | None, value: float) -> bool:
    assert interval is not None
    return interval.low <= value <= interval.high


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def test_binomial_intervals_against_known_values() -> None:
    # Clopper and Pearson for 0, 1 and all of 10; Wilson for 1 of 10 (Brown, Cai, DasGupta 2001).
    assert ends(clopper_pearson(0, 10)) == pytest.approx((0.0, 0.30850), abs=1e-5)
    assert ends(clopper_pearson(1, 10)) == pytest.approx((0.00253, 0.44502), abs=1e-5)
    assert ends(clopper_pearson(10, 10)) == pytest.approx((0.69150, 1.0), abs=1e-5)
    assert ends(wilson(1, 10)) == pytest.approx((0.01788, 0.40415), abs=1e-5)
    assert wilson(0, 10).low == 0.0


def test_effective_numbers() -> None:
    assert effective_count(np.array([2, 2, 2])) == pytest.approx(3)
    assert effective_count(np.array([98, 1, 1])) == pytest.approx(100**2 / (98**2 + 2))
    assert effective_pairs(np.array([1] * 20)) == pytest.approx(190)
    assert effective_pairs(np.array([5] * 20)) == pytest.approx(190)
    assert effective_pairs(np.array([50, 1])) == pytest.approx(1)
    assert effective_pairs(np.array([7])) == 0.0


@pytest.mark.parametrize("mean", [0.0, 0.01, 0.2, 0.5, 0.97])
def test_a_share_is_held_though_people_differ_and_their_trials_depend(mean: float) -> None:
    """60 people with three trials each, of whom each has a chance of their own (beta)."""
    people = np.repeat(np.arange(60), 3)
    held = bare = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        chances = rng.beta(2 * mean, 2 * (1 - mean), 60) if mean > 0 else np.zeros(60)
        events = rng.random(180) < np.repeat(chances, 3)
        held += holds(share_interval(events, people, replicates=200, seed=seed), mean)
        drawn = percentile_interval(weighted_shares(events, people, replicates=200, seed=seed))
        bare += holds(drawn, mean)
    assert held >= 0.9 * 120
    if 0 < mean < 0.02:
        # Why it is widened: what was not seen cannot be drawn.
        assert bare < 0.8 * 120


@pytest.mark.parametrize("alike", [0.1, 1.0])
def test_a_share_is_held_though_some_have_far_more_photos(alike: float) -> None:
    """150 people, a few with dozens of photos; ``alike`` 1: all trials of a person go one way."""
    mean, held, widths = 0.01, 0, []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        sizes = rng.geometric(0.35, 150) + (rng.random(150) < 0.02) * 40
        spread = (1 - alike) / alike
        chances = (
            rng.beta(spread * mean, spread * (1 - mean), 150)
            if spread
            else (rng.random(150) < mean).astype(np.float64)
        )
        people = np.repeat(np.arange(150), sizes)
        events = rng.random(len(people)) < chances[people]
        interval = share_interval(events, people, replicates=100, seed=seed)
        held += holds(interval, mean)
        widths.append(ends(interval)[1] - ends(interval)[0])
    assert held >= 0.95 * 80
    # Photos that do not go one way say more, and the interval is as much narrower.
    assert np.mean(widths) < (0.08 if alike == 1.0 else 0.05)


def test_nothing_seen_is_no_proof_of_nothing() -> None:
    none = np.zeros(100, np.bool_)
    interval = share_interval(none, np.arange(100))
    assert ends(interval) == pytest.approx((0.0, (1 - 0.025 ** (1 / 100))))
    # Ten photos each of ten people say no more than ten people.
    fewer = share_interval(none, np.repeat(np.arange(10), 10))
    assert ends(fewer) == pytest.approx((0.0, (1 - 0.025 ** (1 / 10))))
    assert widened_share(None, np.zeros(0, np.bool_), np.zeros(0, np.int64)) is None


def test_a_ratio_that_nothing_changed_is_not_known_exactly() -> None:
    same = np.ones(50, np.bool_)
    drawn = Interval(1.0, 1.0)
    interval = widened_ratio(drawn, same, same, np.arange(50))
    bound = 1 - 0.025 ** (1 / 50)
    assert ends(interval) == pytest.approx(((1 - bound), (1 + bound)))
    half = np.arange(50) % 2 == 0
    assert widened_ratio(drawn, same, half, np.arange(50)) == drawn
    assert widened_ratio(None, ~same, half, np.arange(50)) is None


@pytest.mark.parametrize("photos", [1, 2])
def test_the_fmr_at_a_threshold_is_held(photos: int) -> None:
    """Directions drawn from the whole sphere: how often two reach a cosine is known exactly.

    With several photos, those of one person are the very same, so only people count.
    """
    held = 0
    runs = 25
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        vectors = np.repeat(directions(rng, 80), photos, axis=0)
        # One person more with two photos: there has to be a genuine pair.
        vectors = np.concatenate([vectors, directions(rng, 1).repeat(2, axis=0)])
        who = np.concatenate([np.repeat(np.arange(80), photos), [80, 80]])
        pairs = score_pairs(Sample(vectors, np.ones(len(who), np.bool_), who))
        found = verification_intervals(pairs, replicates=100, seed=seed)
        for name, point in verify(pairs).tar_at_fmr.items():
            assert point is not None
            if name in ("1e-2", "1e-3"):
                held += holds(found.fmr[name], fmr_of_sphere(point.threshold))
    assert held >= 0.93 * 2 * runs


def test_one_replicate_of_the_fmr_is_the_share_among_the_people_drawn() -> None:
    rng = np.random.default_rng(3)
    vectors = directions(rng, 120).repeat(2, axis=0)
    who = np.repeat(np.arange(120), 2)
    pairs = score_pairs(Sample(vectors, np.ones(240, np.bool_), who))
    point = verify(pairs).tar_at_fmr["1e-2"]
    assert point is not None
    weights = draw_weights(120, 1, seed=9)[0].astype(np.float64)
    cosines = (vectors[::2] @ vectors[::2].T) > point.threshold + 1e-7
    np.fill_diagonal(cosines, False)
    counted = np.outer(weights, weights)
    np.fill_diagonal(counted, 0)
    interval = verification_intervals(pairs, replicates=1, seed=9).fmr["1e-2"]
    assert interval is not None
    assert interval.low == interval.high == pytest.approx((cosines * counted).sum() / counted.sum())


def test_a_perfect_pack_has_no_perfect_interval() -> None:
    vectors = np.eye(20, dtype=np.float32).repeat(2, axis=0)
    pairs = score_pairs(Sample(vectors, np.ones(40, np.bool_), np.repeat(np.arange(20), 2)))
    found = verification_intervals(pairs, replicates=50)
    bound = 1 - 0.025 ** (1 / 20)
    assert ends(found.tar["1e-2"]) == pytest.approx(((1 - bound), 1.0))
    assert ends(found.eer) == pytest.approx((0.0, (bound)))
    assert ends(found.fmr["1e-2"]) == pytest.approx((0.0, (1 - 0.025 ** (1 / 190))))


def test_a_poor_pack_has_an_interval_of_its_equal_error_rate() -> None:
    """More than the usual 5 % of impostor pairs are kept where the curves cross that late."""
    rng = np.random.default_rng(5)
    photos = np.concatenate([directions(rng, 450), directions(rng, 450)])
    photos += np.tile(directions(rng, 450), (2, 1)) * 0.8
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    order = np.argsort(np.tile(np.arange(450), 2), kind="stable")
    who = np.repeat(np.arange(450), 2)
    pairs = score_pairs(Sample(photos[order], np.ones(900, np.bool_), who))
    figures = verify(pairs)
    assert figures.eer is not None
    assert 0.15 < figures.eer < 0.45
    interval = verification_intervals(pairs, replicates=50).eer
    assert holds(interval, figures.eer)


def test_without_pairs_there_is_no_interval() -> None:
    pairs = score_pairs(Sample(np.eye(2, dtype=np.float32), np.ones(2, np.bool_), np.arange(2)))
    empty = replace(pairs, tail=pairs.tail[:0])
    assert set(verification_intervals(empty).tar.values()) == {None}
