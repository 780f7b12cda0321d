"""Trials and ways of scoring, on vectors that can be followed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from indexer.evaluation.arms import (
    cluster_template,
    joined,
    moments,
    normalised,
    penalised_by_quality,
    weighted_by_quality,
)
from indexer.evaluation.protocol import NO_RANK
from indexer.evaluation.trials import (
    METRICS,
    FaceRows,
    Material,
    Outcome,
    Search,
    Trial,
    best_mates,
    compare,
    draw_trials,
    in_first_half,
    metric_draws,
    run_trials,
)
from models.calibration import fuse, shares
from models.types import FloatArray


def rows(vectors: FloatArray, quality: float | list[float] = 1.0) -> FaceRows:
    count = len(vectors)
    return FaceRows(
        vectors,
        np.ones(count, np.bool_),
        np.broadcast_to(np.asarray(quality, np.float64), (count,)).copy(),
    )


def at(*degrees: float) -> FloatArray:
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def crowd(sizes: list[int], noise: float = 0.7, seed: int = 0) -> Material:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    vectors = rng.standard_normal((len(sizes), 16))[people]
    vectors = vectors + noise * rng.standard_normal(vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    faces = rows(vectors.astype(np.float32), rng.uniform(0.1, 1.0, len(people)).tolist())
    return Material(faces, faces, people)


def test_a_trial_by_hand() -> None:
    # Person 0 at 0 degrees; their face in an ad at 30; strangers at 20, 60, 90; one not found.
    faces = rows(at(0, 30, 10, 20, 60, 90, 1))
    faces.found[6] = False
    material = Material(faces, faces, np.array([0, 0, 0, 1, 2, 3, 4], np.int64))
    trial = Trial(0, np.array([0]), np.array([1]))
    outcome = run_trials(material, [trial], joined)
    # The person's third face, nearer than any other, is not in the gallery.
    assert (outcome.rank.tolist(), outcome.strangers.tolist()) == ([2], [3])
    assert_allclose(outcome.score, [math.cos(math.radians(30))], rtol=1e-6)
    assert_allclose(outcome.tail, [[math.cos(math.radians(20))]], rtol=1e-6)
    hidden = FaceRows(faces.vectors, faces.found.copy(), faces.quality)
    hidden.found[1] = False
    lost = run_trials(Material(faces, hidden, material.people), [trial], joined)
    assert (lost.rank[0], lost.score[0]) == (NO_RANK, -math.inf)


def test_the_best_face_counts_where_any_is_asked_for() -> None:
    faces = rows(at(0, 30, 10, 20, 0))
    material = Material(faces, faces, np.array([0, 0, 0, 1, 2], np.int64))
    trials = [Trial(0, np.array([0]), np.array([1, 2])), Trial(1, np.array([3]), np.array([3]))]
    each = run_trials(material, trials, joined)
    assert each.rank.tolist() == [3, 2, 1]
    assert best_mates(each, trials).rank.tolist() == [2, 1]


def test_thresholds_and_weights_by_definition() -> None:
    # Two people: one with three searches that all succeed, one with a single search that fails.
    outcome = Outcome(
        person=np.array([0, 0, 0, 1]),
        rank=np.array([1, 1, 1, 20]),
        score=np.array([0.9, 0.9, 0.9, 0.5], np.float32),
        searched=np.array([0, 0, 0, 1]),
        tail=np.array([[0.8, 0.1], [0.4, 0.1], [0.4, 0.1], [0.7, 0.6]], np.float32),
        strangers=np.array([1000, 1000, 1000, 1000]),
    )
    both = dict(
        zip(METRICS, metric_draws(outcome, np.array([[1, 1]]), np.array([0, 1]))[0], strict=True)
    )
    assert both["rank_1"] == both["rank_10"] == pytest.approx(0.5)
    assert both["rank_50"] == pytest.approx(1.0)
    # 2,000 strangers weighted: at 1e-3 two may pass; 0.8 counts a third, 0.7 and 0.6 one each.
    assert both["tar_1e-3"] == pytest.approx(0.5)
    first = metric_draws(outcome, np.array([[2, 0]]), np.array([0, 1]))[0]
    assert first[METRICS.index("rank_1")] == pytest.approx(1.0)
    second = metric_draws(outcome, np.array([[0, 2]]), np.array([0, 1]))[0]
    # One search without the person: no stranger may be above the limit, so 0.5 is not enough.
    assert second[METRICS.index("found_at_fpir_1e-1")] == 0.0


def test_a_difference_is_paired_and_knows_its_sign() -> None:
    material = crowd([4] * 30 + [1] * 60, noise=1.1)
    everyone = np.ones(len(material.people), np.bool_)
    trials = draw_trials(material, everyone, 2)
    assert len({trial.person for trial in trials}) == 30
    for trial in trials:
        assert len(set(trial.enrolled) | set(trial.mates)) == 3
    baseline = run_trials(material, trials, joined)
    same = compare(baseline, run_trials(material, trials, lambda s: joined(s) + np.float32(0.25)))
    for gain in same.values():
        assert gain.difference == 0.0
        assert gain.difference_interval is not None
        assert gain.difference_interval.low == gain.difference_interval.high == 0.0
    turned = compare(baseline, run_trials(material, trials, lambda s: -joined(s)))["rank_10"]
    assert turned.difference < 0
    assert turned.difference_interval is not None
    assert turned.difference_interval.high < 0


def test_fewer_photos_are_the_first_of_more() -> None:
    material = crowd([5] * 10)
    everyone = np.ones(len(material.people), np.bool_)
    three = draw_trials(material, everyone, 3, more_than=3)
    one = draw_trials(material, everyone, 1, more_than=3)
    assert [trial.mates.tolist() for trial in one] == [trial.mates.tolist() for trial in three]
    assert all(a.enrolled[0] == b.enrolled[0] for a, b in zip(one, three, strict=True))


def test_halves_are_fixed_and_about_even() -> None:
    names = [f"person {number}" for number in range(1000)]
    first = [in_first_half(name) for name in names]
    assert 440 < sum(first) < 560
    assert in_first_half("Ann") == in_first_half("Ann")


def test_moments_of_the_highest() -> None:
    mean, spread = moments(np.array([[1.0, 4.0, 2.0, -np.inf]], np.float32), 2)
    assert (mean[0], spread[0]) == (3.0, 1.0)
    mean, spread = moments(np.array([[1.0, 4.0, 1.0, -np.inf]], np.float32), None)
    assert (mean[0], spread[0]) == (2.0, pytest.approx(math.sqrt(2)))


def search_for(material: Material, enrolled: list[int]) -> Search:
    vectors = material.cases.vectors[enrolled]
    return Search(
        vectors,
        material.cases.quality[enrolled],
        vectors @ material.ads.vectors.T,
        material.ads.found.copy(),
    )


def test_norms_by_hand() -> None:
    faces = rows(at(0, 30, 60, 90))
    material = Material(faces, faces, np.arange(4, dtype=np.int64))
    search = search_for(material, [0])
    cohort = np.array([False, False, True, True])
    by_case = normalised(material, cohort, top=None, side="case")(search)
    # The cohort scores cos 60 = 0.5 and cos 90 = 0: mean and spread 0.25.
    assert_allclose(by_case, (search.cosines[0] - 0.25) / 0.25, atol=1e-5)
    by_face = normalised(material, cohort, top=1, side="face", scaled=False)(search)
    cos = [math.cos(math.radians(d)) for d in range(0, 91, 30)]
    # The nearest of the cohort: 60 degrees away, 30, then the other member (never itself).
    nearest = [cos[2], cos[1], cos[1], cos[1]]
    assert_allclose(by_face, search.cosines[0] - np.array(nearest, np.float32), atol=1e-6)
    both = normalised(material, cohort, top=None, scaled=False)(search)
    parts = [normalised(material, cohort, top=None, side=s, scaled=False) for s in ("case", "face")]
    assert_allclose(both, (parts[0](search) + parts[1](search)) / 2, atol=1e-6)


def test_the_norm_of_a_case_keeps_the_order_of_its_list() -> None:
    material = crowd([3] * 40)
    cohort = material.people % 2 == 0
    search = search_for(material, [0, 1])
    before = joined(search)
    after = normalised(material, cohort, top=20, side="case")(search)
    order = np.argsort(before, kind="stable")
    assert np.all(np.diff(after[order]) >= 0)
    by_face = normalised(material, cohort, top=20, side="face")(search)
    assert np.any(np.diff(by_face[order]) < 0)


def test_weights_by_quality() -> None:
    faces = rows(at(0, 40, 80), [1.0, 0.25, 1.0])
    material = Material(faces, faces, np.array([0, 0, 1], np.int64))
    search = search_for(material, [0, 1])
    plain = fuse(search.cosines, shares(search.vectors, np.ones(2)))
    assert_allclose(weighted_by_quality(0.0)(search), plain, atol=1e-6)
    assert_allclose(weighted_by_quality(0.5)(search), joined(search))
    # With weights 1 and 1/4 the average stands at atan2(sin 40 / 4, 1 + cos 40 / 4).
    angle = math.degrees(
        math.atan2(math.sin(math.radians(40)) / 4, 1 + math.cos(math.radians(40)) / 4)
    )
    expected = (math.cos(math.radians(40)) + math.cos(math.radians(80 - angle))) / 2
    assert weighted_by_quality(1.0)(search)[2] == pytest.approx(expected, abs=1e-6)
    raised = Search(search.vectors, search.quality, search.cosines + 0.01, search.present)
    assert np.all(weighted_by_quality(2.0)(raised) > weighted_by_quality(2.0)(search))
    lacking = penalised_by_quality(material, 0.1)(search)
    assert_allclose(lacking, joined(search) - np.array([0, 0.075, 0], np.float32), atol=1e-6)


def test_photos_that_say_truly_that_they_are_bad_are_better_given_a_small_say() -> None:
    good = crowd([5] * 40, noise=0.9)
    noise = np.random.default_rng(3).standard_normal(good.cases.vectors.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    bad = np.arange(len(noise)) % 2 == 0
    count = len(noise)
    cases = rows(noise.astype(np.float32), [0.02] * count).where(
        bad, rows(good.cases.vectors, [1.0] * count)
    )
    material = Material(cases, good.ads, good.people)
    trials = draw_trials(material, np.ones(count, np.bool_), 4)
    alike = run_trials(material, trials, weighted_by_quality(0.0))
    gain = compare(alike, run_trials(material, trials, joined))["rank_10"]
    assert gain.difference_interval is not None
    assert gain.difference_interval.low > 0


def test_a_template_speaks_for_its_cluster() -> None:
    faces = rows(at(0, 20, 60, 80))
    material = Material(faces, faces, np.array([0, 1, 1, 2], np.int64))
    search = search_for(material, [0])
    together = cluster_template(material, [np.array([1, 2])], 1.0)(search)
    cos = [math.cos(math.radians(d)) for d in (0, 40, 40, 80)]
    assert_allclose(together, cos, atol=1e-6)
    half = cluster_template(material, [np.array([1, 2])], 0.5)(search)
    assert_allclose(half, (together + joined(search)) / 2, atol=1e-6)
    assert_allclose(cluster_template(material, [], 1.0)(search), joined(search), atol=1e-6)
