"""Calibration and the study of fusion rules, on samples that can be worked out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import models.packs
from indexer.evaluation.binomial import clopper_pearson_upper
from indexer.evaluation.calibrate import (
    ENROLLED_NEEDED,
    calibrate,
    measure_curves,
    render_calibration,
    small_sample,
)
from indexer.evaluation.fusion import RULES, fusion_study, render_fusion
from indexer.evaluation.photos import EvaluationImpossible, LabelledFaces, Photo, PhotoSet
from indexer.evaluation.protocol import Sample
from models.calibration import Calibration
from models.types import Box, Embedding, Face, Landmarks, Quality

SHIPPED = Path(models.packs.__file__).parent / "dlib" / "calibration.json"


def labelled(
    vectors: NDArray[np.floating], identities: list[int], lost: tuple[int, ...] = ()
) -> Sample:
    found = np.array([row not in lost for row in range(len(identities))])
    return Sample(vectors.astype(np.float32), found, np.array(identities, dtype=np.int64))


def crowd(sizes: list[int], noise: float, seed: int = 0, dimension: int = 16) -> Sample:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), dimension))
    vectors = np.repeat(centres, sizes, axis=0)
    vectors = vectors + noise * rng.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return labelled(vectors, np.repeat(np.arange(len(sizes)), sizes).tolist())


def faces_of(sample: Sample) -> LabelledFaces:
    whose = sample.identities.tolist()
    photos = tuple(Photo(Path(f"{row}.jpg"), f"{row}.jpg", who) for row, who in enumerate(whose))
    points = Landmarks(np.zeros((5, 2), np.float32), "dlib5")
    faces = tuple(
        Face(Box(0, 0, 9, 9), 1.0, 0, points, Quality(0.5), Embedding(vector, "planted"))
        for vector in sample.vectors
    )
    names = tuple(f"person {number}" for number in range(max(whose) + 1))
    return LabelledFaces(PhotoSet(photos, names, ()), faces, (), "planted", len(sample.vectors[0]))


def fmr_by_definition(sample: Sample, score: float, photos: int) -> float:
    """Ordered pairs of people, every set of photos (small samples only: one set per person)."""
    shares = []
    for person in range(sample.identity_count):
        own = np.flatnonzero(sample.identities == person)[:photos]
        if len(own) < photos:
            continue
        for other in range(sample.identity_count):
            if other == person:
                continue
            faces = sample.vectors[sample.identities == other]
            person_vectors = sample.vectors[own]
            average = (np.sqrt(sample.quality[own])[:, None] * person_vectors).sum(axis=0)
            cosines = person_vectors @ faces.T
            joined = (cosines.max(axis=0) + average @ faces.T / np.linalg.norm(average)) / 2
            shares.append((joined >= score).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("photos", [1, 2])
def test_rates_follow_the_definition(photos: int) -> None:
    sizes = [photos] * 60
    sample = crowd(sizes, 0.5)
    quality = np.random.default_rng(3).uniform(0.01, 1, len(sample.identities))
    sample = replace(sample, quality=quality)
    curves, made_of = measure_curves(sample, photo_counts=(photos,), replicates=20)
    curve = curves[photos]
    assert made_of[photos].person_pairs == 60 * 59
    checked = 0
    for index in range(0, len(curve.score), 7):
        if curve.fmr[index] > 0:
            score = float(curve.score[index])
            assert curve.fmr[index] == pytest.approx(fmr_by_definition(sample, score, photos))
            checked += 1
    assert checked > 5


def test_somebody_with_many_photos_weighs_no_more_than_others() -> None:
    # Two people on one spot, one of them with 40 photos, and 99 others far from everyone.
    vectors = np.concatenate([np.eye(101)[:1].repeat(41, axis=0), np.eye(101)[1:100]])
    sample = labelled(vectors, [0] * 40 + [1, *range(2, 101)])
    curves, _ = measure_curves(sample, photo_counts=(1,), replicates=20)
    curve = curves[1]
    at = int(np.searchsorted(curve.score, 0.5))
    # One of 5,050 pairs of people is too few for an estimate, and the bound counts it as one.
    assert curve.fmr[at] == 0.0
    assert curve.upper[at] < 40 / (140 * 139 / 2)
    assert curve.upper[at] >= clopper_pearson_upper(1, 5050)


def test_bounds_lie_above_rates_and_both_fall() -> None:
    curves, _ = measure_curves(crowd([3] * 60, 0.8), replicates=50)
    assert sorted(curves) == [1, 2, 3]  # nobody has four photos
    for curve in curves.values():
        assert np.all(np.diff(curve.score) > 0)
        assert np.all(curve.upper >= curve.fmr)
        assert np.all(np.diff(curve.upper) <= 0)
        assert np.all(curve.upper > 0)
        assert np.all(np.diff(curve.fmr) <= 1e-12)
        assert curve.fmr[-1] == 0.0


def test_no_estimate_below_thirty_pairs_of_people() -> None:
    sample = crowd([1] * 40, 0.0)
    curves, _ = measure_curves(sample, photo_counts=(1,), replicates=20)
    cosines = (sample.vectors @ sample.vectors.T)[np.triu_indices(40, 1)]
    for score, rate, upper in zip(curves[1].score, curves[1].fmr, curves[1].upper, strict=True):
        events = int((cosines >= score).sum())
        assert (rate > 0) == (events >= 30)
        assert upper >= clopper_pearson_upper(events, 780) - 1e-12
    assert events == 0
    assert upper == pytest.approx(1 - 0.025 ** (1 / 780), rel=1e-6)


def test_a_curve_does_not_rest_on_a_few_people() -> None:
    # One person with four photos beside strangers with one each: many pairs, and one person.
    few = crowd([4] * (ENROLLED_NEEDED - 1) + [1] * 40, 0.5)
    assert sorted(measure_curves(few, replicates=10)[0]) == [1]
    enough = crowd([4] * ENROLLED_NEEDED + [1] * 40, 0.5)
    curves, sizes = measure_curves(enough, replicates=10)
    assert sorted(curves) == [1, 2, 3, 4]
    assert {sizes[n].enrolled_people for n in (2, 3, 4)} == {ENROLLED_NEEDED}
    # A photo without a face is none.
    lost = labelled(enough.vectors, enough.identities.tolist(), lost=(0,))
    assert sorted(measure_curves(lost, replicates=10)[0]) == [1, 2, 3]


def test_counts_of_photos_without_a_curve_are_named_and_rated_by_a_smaller_one() -> None:
    sample = crowd([3] * 30 + [4] * 5 + [1] * 110, 0.5)
    made = calibrate(faces_of(sample), source="made", replicates=10)
    assert made.provenance["left_out"] == {"4": 5}
    assert set(made.provenance["samples"]) == {"1", "2", "3"}
    told = small_sample(made)
    assert "fewer than 30 people have enough photos (5 have 4)" in told
    score = float(made.curves[3].score[100])
    assert made.fmr(score, 4).upper == pytest.approx(2 * made.fmr(score, 3).upper)
    more = calibrate(faces_of(crowd([4] * 142, 0.5)), source="made", replicates=10)
    assert more.provenance["left_out"] == {}
    assert small_sample(more) == ""


def test_the_calibration_that_is_shipped_rests_on_enough_people() -> None:
    shipped = Calibration.load(SHIPPED)
    assert sorted(shipped.curves) == [1, 2, 3, 4]
    samples = shipped.provenance["samples"]
    assert [samples[str(n)]["enrolled_people"] >= ENROLLED_NEEDED for n in (2, 3, 4)] == [True] * 3


def test_faces_that_were_not_found_take_no_part() -> None:
    sample = crowd([1] * 41, 0.0)
    less = labelled(sample.vectors, list(range(41)), lost=(40,))
    short = labelled(sample.vectors[:40], list(range(40)))
    with_gap, _ = measure_curves(less, photo_counts=(1,), replicates=10)
    without, _ = measure_curves(short, photo_counts=(1,), replicates=10)
    assert_allclose(with_gap[1].fmr, without[1].fmr)


def test_clopper_pearson_against_known_values() -> None:
    assert clopper_pearson_upper(0, 10) == pytest.approx(1 - 0.025**0.1)
    assert clopper_pearson_upper(1, 10) == pytest.approx(0.44502, abs=1e-5)
    assert clopper_pearson_upper(10, 10) == 1.0


def test_calibration_of_one_person_is_refused() -> None:
    with pytest.raises(EvaluationImpossible):
        measure_curves(crowd([3], 0.1))


def test_table_of_a_calibration_names_what_is_beyond_the_sample() -> None:
    curves, _ = measure_curves(crowd([1] * 40, 0.0), photo_counts=(1,), replicates=10)
    table = render_calibration(Calibration("test-1", curves))
    assert "test-1" in table
    assert "1e-03 is beyond this sample" in table


def test_rules_lie_between_mean_and_max() -> None:
    vectors = np.eye(3, dtype=np.float32)[:2]
    cosines = np.array([[0.9, 0.1, 0.5], [0.3, 0.2, 0.5]], dtype=np.float32)
    quality = np.array([1.0, 0.25])
    joined = {name: rule(vectors, cosines, quality) for name, rule in RULES.items()}
    assert_allclose(joined["max"], [0.9, 0.2, 0.5])
    assert_allclose(joined["mean"], [0.6, 0.15, 0.5])
    assert_allclose(joined["template"], np.array([1.2, 0.3, 1.0]) / math.sqrt(2), rtol=1e-6)
    assert_allclose(joined["max_template"], (joined["max"] + joined["template"]) / 2)
    by_quality = np.array([1.05, 0.2, 0.75]) / math.sqrt(1.25)
    assert_allclose(joined["served"], (joined["max"] + by_quality) / 2, rtol=1e-6)
    # log((exp(50 * 0.9) + exp(50 * 0.3)) / 2) / 50, the second term being nothing
    assert joined["lse_50"][0] == pytest.approx(0.9 - math.log(2) / 50, abs=1e-6)
    assert joined["lse_50"][2] == pytest.approx(0.5)


def test_more_photos_find_more_people() -> None:
    study = fusion_study(crowd([5] * 60, 1.4, dimension=24), draws=5)
    one = study[0]
    assert (one.photos, one.rule, one.people, one.trials) == (1, "-", 60, 300)
    mean_of_three = next(r for r in study if r.photos == 3 and r.rule == "mean")
    assert mean_of_three.rank_1 > one.rank_1 + 0.05
    assert one.rank_1_interval is not None
    assert one.rank_1_interval.low <= one.rank_1 <= one.rank_1_interval.high
    assert "60 people" in render_fusion(study)


def test_study_needs_people_with_enough_photos() -> None:
    assert fusion_study(crowd([3, 3], 0.1), photo_counts=(1, 2, 3)) == []
