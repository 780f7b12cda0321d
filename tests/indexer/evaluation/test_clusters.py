"""The measuring of clusters: pairs counted by hand, made-up people, and a few real ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from indexer.evaluation.clusters import make_people, measure_clusters, render_clusters
from indexer.evaluation.photos import analyse_photos, find_photos
from indexer.evaluation.protocol import IntArray, Sample
from models.calibration import Calibration, Curve
from models.pipeline import Analyser
from models.types import FloatArray

DIMENSION = 64


def people(counts: list[int], noise: float, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Unit vectors of people with so many photos each, at random in space."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(len(counts)), counts)
    centres = rng.standard_normal((len(counts), DIMENSION))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = centres[who] + noise * rng.standard_normal((len(who), DIMENSION)) / DIMENSION**0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), who.astype(np.int64)


def sample(vectors: FloatArray, who: IntArray) -> Sample:
    return Sample(vectors, np.ones(len(who), np.bool_), who)


def calibration(nearest: float, member: float) -> Calibration:
    """One whose limits in a gallery of up to 1,000 are these."""
    points = np.array([(0.1, 1.0), (member, 2e-4), (nearest, 1e-6)]).T
    return Calibration("any", {1: Curve(points[0], points[1], points[1])})


def test_pairs_are_counted_by_hand() -> None:
    vectors, who = people([4, 3, 2, *[1] * 20], noise=0.3)
    (line,) = measure_clusters(
        sample(vectors, who), calibration(0.8, 0.7), sizes=(), made_up=(), draws=3
    )
    # 6 + 3 + 1 pairs in each of three orders of arrival, all found, nothing else.
    assert (line.precision, line.recall, line.pairs) == (1.0, 1.0, 30)
    assert (line.clusters, line.mixed) == (9, 0)
    assert (line.nearest, line.member) == (0.8, 0.7)
    assert line.close_made_up is None


def test_one_person_under_two_names_is_a_wrong_pair() -> None:
    vectors, _ = people([4], noise=0.3)
    split = np.array([0, 0, 0, 1], np.int64)
    (line,) = measure_clusters(
        sample(vectors, split), calibration(0.8, 0.7), sizes=(), made_up=(), draws=1
    )
    assert line.precision == pytest.approx(3 / 6)
    assert line.recall == 1.0
    assert (line.clusters, line.mixed) == (1, 1)
    assert line.close_real >= 0.0


def test_nothing_joins_without_a_calibration_and_faces_not_found_do_not_count() -> None:
    vectors, who = people([4, 3, *[1] * 5], noise=0.3)
    found = np.ones(len(who), np.bool_)
    found[[0, 4]] = False
    (line,) = measure_clusters(Sample(vectors, found, who), None, sizes=(), made_up=(), draws=1)
    assert (line.precision, line.recall, line.clusters) == (None, 0.0, 0)
    assert line.faces == len(who) - 2
    assert measure_clusters(sample(vectors[:1], who[:1]), None) == []


def test_made_up_people_vary_as_the_real_ones_do() -> None:
    vectors, who = people([1] * 400, noise=0.0)
    vectors[:, 0] += 0.3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = make_people(vectors, who, 3000, seed=1)
    assert made.shape == (3000, DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=0), vectors.mean(axis=0), atol=0.03)
    real, false = (np.trace(np.cov(rows.T)) for rows in (vectors, made))
    assert false == pytest.approx(real, rel=0.05)
    assert len(np.unique(made.round(4), axis=0)) == 3000


def test_whoever_joins_a_made_up_person_is_a_wrong_pair() -> None:
    vectors, who = people([1] * 30, noise=0.0)
    lines = measure_clusters(
        sample(vectors, who), calibration(0.3, 0.2), sizes=(10,), made_up=(500,), draws=1
    )
    assert [(line.faces, line.made_up) for line in lines] == [(10, 0), (30, 0), (30, 500)]
    last = lines[-1]
    assert last.precision == 0.0
    assert last.pairs > 0
    assert last.mixed == last.clusters > 0
    table = render_clusters(lines)
    assert len(table.splitlines()) == 4
    assert len({len(row) for row in table.splitlines()}) == 1


@pytest.mark.shared_data
def test_clusters_of_real_people(analyser: Analyser, shared_data: Path, tmp_path: Path) -> None:
    source = sorted((shared_data / "lfw").iterdir())
    several = [folder for folder in source if 3 <= len(list(folder.iterdir())) <= 4][:6]
    singles = [folder for folder in source if len(list(folder.iterdir())) == 1][:10]
    for folder in [*several, *singles]:
        os.symlink(folder, tmp_path / folder.name)
    faces = analyse_photos(analyser, find_photos(tmp_path))
    (line,) = measure_clusters(faces.sample, analyser.pack.calibration, sizes=(), made_up=())
    assert line.precision == 1.0
    assert line.recall is not None
    assert line.recall > 0.1
