"""The protocol on samples small enough to be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from indexer.evaluation.intervals import (
    draw_weights,
    fnir_intervals,
    rank_intervals,
    share_interval,
    verification_intervals,
)
from indexer.evaluation.pairs import score_pairs, verify
from indexer.evaluation.protocol import (
    NO_RANK,
    Sample,
    identify,
    rank_probes,
    split_open_set,
    threshold_at,
)


def on_circle(degrees: list[float], identities: list[int], lost: tuple[int, ...] = ()) -> Sample:
    """Unit vectors in the plane: the cosine of two photos is that of the angle between them."""
    angles = np.radians(degrees)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = np.array([row not in lost for row in range(len(degrees))])
    return Sample(vectors, found, np.array(identities, dtype=np.int64))


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_pairs_are_all_pairs_with_their_cosines() -> None:
    pairs = score_pairs(on_circle([0, 10, 90, 120], [0, 0, 1, 2]))
    assert_allclose(pairs.genuine, [cosine(10)], atol=1e-6)
    expected = sorted([cosine(90), cosine(120), cosine(80), cosine(110), cosine(30)])
    assert_allclose(np.sort(pairs.tail), expected, atol=1e-6)
    assert pairs.impostor_pairs == pairs.impostor_compared == 5
    assert pairs.histogram.sum() == 5
    assert {pairs.tail_first[0], pairs.tail_second[0]} == {2, 3}


def test_blocks_do_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    sample = on_circle(list(rng.uniform(0, 360, 40)), list(np.repeat(np.arange(16), 3)[:40]))
    whole = score_pairs(sample)
    monkeypatch.setattr("indexer.evaluation.pairs.BLOCK_ELEMENTS", 90)
    parts = score_pairs(sample)
    assert_allclose(parts.tail, whole.tail, atol=1e-6)
    assert parts.impostor_compared == 40 * 39 // 2 - 13 * 3
    assert parts.histogram.sum() == whole.histogram.sum() == parts.impostor_compared


def test_the_tail_holds_the_largest_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.evaluation.pairs._TAIL_MINIMUM", 7)
    degrees = list(np.linspace(0, 170, 60))
    sample = on_circle(degrees, list(range(60)))
    pairs = score_pairs(sample)
    everything = np.sort([cosine(b - a) for a in degrees for b in degrees if b > a])[::-1]
    wanted = math.ceil(0.05 * len(everything))
    assert wanted <= len(pairs.tail) < len(everything)
    assert_allclose(pairs.tail[:wanted], everything[:wanted], atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, 0.9), (0.19, 0.9), (0.2, 0.8), (0.4, 0.8), (0.6, 0.5), (1, -math.inf)],
)
def test_threshold_accepts_no_more_than_the_rate_even_with_ties(
    rate: float, expected: float
) -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.5, 0.1], dtype=np.float32)
    threshold = threshold_at(scores, 5, rate)
    assert threshold == pytest.approx(expected)
    assert (scores > threshold).sum() <= rate * 5


def test_rate_that_is_a_whole_number_of_pairs_is_not_lost_to_rounding() -> None:
    scores = np.linspace(1, 0, 101, dtype=np.float32)[:100]
    assert threshold_at(scores, 100, 0.29) == pytest.approx(float(scores[29]))


def test_tar_at_fmr_by_hand() -> None:
    # 101 impostor pairs would be needed for one to be allowed at 1e-2; here none is, so a genuine
    # pair is accepted only above the best impostor pair (60 and 62 degrees, cosine of 2).
    sample = on_circle([0, 1, 60, 65, 62], [0, 0, 1, 1, 2])
    figures = verify(score_pairs(sample))
    assert (figures.genuine_pairs, figures.impostor_pairs) == (2, 8)
    point = figures.tar_at_fmr["1e-2"]
    assert point is not None
    assert point.value == 0.5  # one degree apart is accepted, five degrees apart is not
    assert point.threshold == pytest.approx(cosine(2), abs=1e-6)
    assert point.allowed == 0
    assert not point.resolved


def test_tar_at_fmr_allows_the_share_of_impostors() -> None:
    # 200 strangers and one pair of photos of one person: 20,300 impostor pairs, 203 at 1e-2.
    rng = np.random.default_rng(0)
    degrees = [0.0, 3.0, *rng.uniform(0, 360, 200)]
    sample = on_circle(degrees, [0, 0, *range(1, 201)])
    pairs = score_pairs(sample)
    scores = np.sort(
        [
            cosine(degrees[b] - degrees[a])
            for a in range(202)
            for b in range(a + 1, 202)
            if (a, b) != (0, 1)
        ]
    )[::-1]
    assert pairs.impostor_compared == len(scores) == 20_300
    point = verify(pairs).tar_at_fmr["1e-2"]
    assert point is not None
    assert point.allowed == 203
    assert point.threshold == pytest.approx(scores[203], abs=1e-6)


def test_eer_by_hand() -> None:
    # Genuine: 0-10 and 90-100 (10 degrees) accepted together with impostors 10-20 (10 degrees).
    separate = verify(score_pairs(on_circle([0, 5, 90, 95], [0, 0, 1, 1])))
    assert separate.eer == pytest.approx(0.0, abs=1e-9)
    # Genuine 4 and 50 degrees; impostors 10, 14, 40, 36: at the crossing one of two genuine pairs
    # is refused and two of the four impostor pairs are accepted.
    crossed = verify(score_pairs(on_circle([0, 4, -10, 40], [0, 0, 1, 1])))
    assert crossed.eer == pytest.approx(0.5)


def test_missing_faces_are_misses_and_set_no_threshold() -> None:
    whole = score_pairs(on_circle([0, 1, 60, 65, 62], [0, 0, 1, 1, 2]))
    lost = score_pairs(on_circle([0, 1, 60, 65, 62], [0, 0, 1, 1, 2], lost=(1,)))
    assert lost.impostor_pairs == whole.impostor_pairs == 8
    assert lost.impostor_compared == 5
    assert len(lost.genuine) == 2
    point = verify(lost).tar_at_fmr["1e-2"]
    assert point is not None
    assert point.value == 0.0
    assert point.threshold == pytest.approx(cosine(2), abs=1e-6)


def test_split_takes_every_other_single_beginning_with_the_first() -> None:
    #          a  b  b  c  d  d  d  e  f
    labels = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5])
    split = split_open_set(labels)
    assert split.gallery.tolist() == [0, 1, 4, 7]  # singles a and e, first photos of b and d
    assert split.mated.tolist() == [2, 5, 6]
    assert split.non_mated.tolist() == [3, 8]


def test_ranks_by_hand() -> None:
    sample = on_circle([0, 30, 40, 120, 110, 41], [0, 1, 1, 2, 2, 3])
    result = identify(sample)
    # Gallery: 0 (single), 30, 120; probes 40 (mate 30, nearest) and 110 (mate 120, nearest);
    # the single at 41 is the non-mated probe, 11 degrees from the photo at 30.
    assert result.split.gallery.tolist() == [0, 1, 3]
    assert result.mated.rank.tolist() == [1, 1]
    assert result.rank_k[1] == 1.0
    assert_allclose(result.non_mated_top, [cosine(11)], atol=1e-6)
    point = result.fnir_at_fpir["1e-1"]
    assert point is not None
    # One non-mated probe: none may pass, so a mate must be nearer than 11 degrees. Both are (10).
    assert point.value == 0.0


def test_rank_counts_every_other_identity_that_scores_as_high() -> None:
    gallery = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    probe = np.array([[0, 1], [1, 0]], dtype=np.float32)
    found = np.array([True, True])
    everything = np.array([True, True, True])
    labels = np.array([7, 8, 9])
    ranks = rank_probes(probe, found, np.array([8, 8]), gallery, everything, labels)
    assert ranks.rank.tolist() == [2, 3]  # a tie counts against the mate; then both others
    assert ranks.top_other.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("lost", [(1,), (2,)])
def test_a_probe_or_mate_without_a_face_is_a_miss_at_every_rank(lost: tuple[int, ...]) -> None:
    result = identify(on_circle([0, 30, 40, 120], [0, 1, 1, 2], lost=lost))
    assert result.mated.rank.tolist() == [NO_RANK]
    assert result.rank_k == {1: 0.0, 5: 0.0, 10: 0.0, 50: 0.0}
    point = result.fnir_at_fpir["1e-1"]
    assert point is not None
    assert point.value == 1.0


def test_a_gallery_face_that_was_not_found_outranks_nobody() -> None:
    result = identify(on_circle([39, 30, 40], [0, 1, 1], lost=(0,)))
    assert result.mated.rank.tolist() == [1]


def test_figures_without_pairs_are_absent_not_zero() -> None:
    figures = verify(score_pairs(on_circle([0.0, 50.0], [0, 1])))
    assert figures.tar_at_fmr["1e-2"] is None
    assert figures.eer is None
    result = identify(on_circle([0.0, 50.0], [0, 1]))
    assert result.rank_k[1] is None
    assert result.fnir_at_fpir["1e-2"] is None


def test_score_statistics_agree_with_numpy() -> None:
    rng = np.random.default_rng(3)
    pairs = score_pairs(on_circle(list(rng.uniform(0, 90, 50)), list(range(50))))
    stats = verify(pairs).impostor
    assert stats.count == 1225
    assert stats.mean == pytest.approx(float(pairs.tail.mean()), abs=1e-5)
    assert stats.deviation == pytest.approx(float(pairs.tail.std()), abs=1e-5)
    assert stats.quantiles["q50"] == pytest.approx(float(np.median(pairs.tail)), abs=1e-3)


def crowd(people: int, photos: int, noise: float, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 16))
    vectors = np.repeat(centres, photos, axis=0) + noise * rng.normal(size=(people * photos, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.repeat(np.arange(people), photos)
    return Sample(vectors.astype(np.float32), np.ones(len(labels), np.bool_), labels)


def test_intervals_hold_the_figure_and_repeat_with_the_seed() -> None:
    sample = crowd(60, 3, 0.6)
    pairs = score_pairs(sample)
    figures = verify(pairs)
    found = verification_intervals(pairs, replicates=200, seed=5)
    assert found == verification_intervals(pairs, replicates=200, seed=5)
    tars, eer = found.tar, found.eer
    for name in ("1e-2", "1e-3"):
        interval, point = tars[name], figures.tar_at_fmr[name]
        assert interval is not None
        assert point is not None
        assert interval.low < interval.high
        assert interval.low - 0.02 <= point.value <= interval.high + 0.02
    assert eer is not None
    assert figures.eer is not None
    assert eer.low <= figures.eer <= eer.high


def test_one_replicate_is_the_protocol_on_the_people_drawn() -> None:
    sample = crowd(25, 3, 0.9)
    pairs = score_pairs(sample)
    weights = draw_weights(25, 1, seed=4)[0]
    assert weights.sum() == 25
    assert len(set(weights.tolist())) > 2
    genuine: list[float] = []
    impostor: list[float] = []
    for a in range(75):
        for b in range(a + 1, 75):
            score = float(sample.vectors[a] @ sample.vectors[b])
            if a // 3 == b // 3:
                genuine += [score] * int(weights[a // 3])
            else:
                impostor += [score] * int(weights[a // 3] * weights[b // 3])
    threshold = threshold_at(np.sort(np.array(impostor, np.float32))[::-1], len(impostor), 1e-2)
    expected = np.mean([score > threshold + 1e-7 for score in genuine])
    tars = verification_intervals(pairs, replicates=1, seed=4).tar
    assert tars["1e-2"] is not None
    assert tars["1e-2"].low == tars["1e-2"].high == pytest.approx(expected)


def test_one_replicate_of_fnir_is_the_protocol_on_the_people_drawn() -> None:
    several, singles = crowd(30, 3, 0.7), crowd(60, 1, 0.0, seed=8)
    sample = Sample(
        np.concatenate([several.vectors, singles.vectors]),
        np.ones(150, np.bool_),
        np.concatenate([several.identities, singles.identities + 30]),
    )
    result = identify(sample)
    outside = np.repeat(result.non_mated_top, draw_weights(30, 1, seed=4)[0])
    mates = np.repeat(result.mated.mate_score.reshape(30, 2), draw_weights(30, 1, 5)[0], axis=0)
    threshold = threshold_at(np.sort(outside)[::-1], len(outside), 1e-1)
    expected = float((mates <= threshold).mean())
    assert 0.1 < expected < 0.9
    interval = fnir_intervals(result, replicates=1, seed=4)["1e-1"]
    assert interval is not None
    assert interval.low == pytest.approx(expected)


def test_a_mate_no_better_than_a_stranger_is_missed() -> None:
    # The probe of b and the non-mated probe c are the same picture, equally near to b's photo.
    result = identify(on_circle([200, 30, 40, 40], [0, 1, 1, 2]))
    assert result.split.non_mated.tolist() == [3]
    point = result.fnir_at_fpir["1e-1"]
    assert point is not None
    assert point.value == 1.0


def test_interval_of_a_share_matches_the_binomial_error_for_independent_probes() -> None:
    rng = np.random.default_rng(2)
    hits = rng.random(400) < 0.8
    interval = share_interval(hits, np.arange(400), replicates=2000)
    assert interval is not None
    half = 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 400)
    assert interval.low == pytest.approx(hits.mean() - half, abs=0.006)
    assert interval.high == pytest.approx(hits.mean() + half, abs=0.006)


def test_interval_is_wider_when_people_share_their_fate() -> None:
    rng = np.random.default_rng(2)
    people = rng.random(40) < 0.8
    apart = share_interval(np.repeat(people, 10), np.arange(400))
    together = share_interval(np.repeat(people, 10), np.repeat(np.arange(40), 10))
    assert apart is not None
    assert together is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_identification_intervals() -> None:
    several, singles = crowd(40, 2, 0.7), crowd(60, 1, 0.0, seed=8)
    sample = Sample(
        np.concatenate([several.vectors, singles.vectors]),
        np.ones(140, np.bool_),
        np.concatenate([several.identities, singles.identities + 40]),
    )
    result = identify(sample)
    ranks = rank_intervals(result)
    fnir = fnir_intervals(result)
    assert ranks[1] is not None
    assert result.rank_k[1] is not None
    assert ranks[1].low <= result.rank_k[1] <= ranks[1].high
    point, interval = result.fnir_at_fpir["1e-1"], fnir["1e-1"]
    assert point is not None
    assert interval is not None
    assert interval.low <= point.value <= interval.high
