"""The study of what helps a search: planted effects are found, halves are kept apart."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from indexer.evaluation.beyond import Line, beyond_study, render_beyond
from indexer.evaluation.cache import FaceCache
from indexer.evaluation.clusters import gather
from indexer.evaluation.photos import (
    LabelledFaces,
    Photo,
    PhotoSet,
    analyse_photos,
    find_photos,
)
from indexer.evaluation.poor import AD_LIKE, degradation_of, poor_faces
from indexer.evaluation.trials import METRICS, in_first_half
from models.types import Box, Embedding, Face, FloatArray, Landmarks, Quality
from tests.indexer.evaluation.test_run import ColourAnalyser, save

DIMENSION = 24


def labelled(vectors: FloatArray, people: list[int], quality: list[float]) -> LabelledFaces:
    names = [f"person {number:03d}" for number in range(max(people) + 1)]
    photos = tuple(
        Photo(Path(f"{names[person]}/{row}.jpg"), f"{names[person]}/{row:04d}.jpg", person)
        for row, person in enumerate(people)
    )
    points = Landmarks(np.zeros((5, 2), np.float32), "dlib5")
    faces = tuple(
        Face(Box(0, 0, 9, 9), 1.0, 0, points, Quality(good), Embedding(vector, "planted"))
        for vector, good in zip(vectors, quality, strict=True)
    )
    return LabelledFaces(PhotoSet(photos, tuple(names), ()), faces, (), "planted", DIMENSION)


def planted() -> tuple[LabelledFaces, LabelledFaces]:
    """50 people with five photos, 60 with one; poor photos are noisier and say so."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(110), [5] * 50 + [1] * 60)
    clean = rng.standard_normal((110, DIMENSION))[people]
    clean += 1.0 * rng.standard_normal(clean.shape)
    poor = clean + 1.5 * rng.standard_normal(clean.shape)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (clean, poor)]
    good, bad = ([q] * len(people) for q in (0.9, 0.05))
    whose = people.tolist()
    return (
        labelled(unit[0].astype(np.float32), whose, good),
        labelled(unit[1].astype(np.float32), whose, bad),
    )


@pytest.fixture(scope="module")
def study() -> list[Line]:
    clean, poor = planted()
    return beyond_study(clean, poor, photos=(1, 2), made_up=(0, 100), replicates=60)


def line(lines: list[Line], **wanted: object) -> Line:
    fitting = [x for x in lines if all(getattr(x, k) == v for k, v in wanted.items())]
    assert len(fitting) == 1, (wanted, len(fitting))
    return fitting[0]


def test_planted_effects_are_found(study: list[Line]) -> None:
    second = [x for x in study if x.half == "second"]
    more = line(second, study="photos", photos=2, cases="clean", ads="clean")
    gain = more.gains["rank_1"]
    assert gain.difference > 0
    assert gain.difference_interval is not None
    assert gain.difference_interval.low <= gain.difference <= gain.difference_interval.high
    # A poor face beside a good photo, which says that it is poor, is better given a small say.
    beside = line(study, half="second", arm="both by quality^0", cases="clean", ads="poor")
    assert beside.photos == 2
    assert beside.gains["rank_50"].difference < 0
    # Where all photos are equally good, weights change nothing.
    alike = line(second, arm="photos by quality^0", photos=2, cases="clean", ads="clean")
    assert alike.gains["rank_1"].difference == pytest.approx(0.0)
    # Poor ads are harder than clean ones.
    served = [
        line(second, study="norms", arm="as served", photos=1, cases="clean", ads=ads)
        for ads in ("clean", "poor")
    ]
    assert served[0].gains["rank_1"].value > served[1].gains["rank_1"].value + 0.1
    perfect = "0.5 template of all the person's"
    best = line(
        second, arm=perfect, photos=1, ads="poor", counted="each", gallery=len(planted()[0].faces)
    )
    assert best.gains["rank_10"].difference > 0


def test_halves_are_kept_apart(study: list[Line]) -> None:
    clean, _ = planted()
    names = clean.photos.identity_names
    tuning = sum(in_first_half(name) for name in names[:50])
    assert 15 < tuning < 35
    for half, people in (("first", tuning), ("second", 50 - tuning)):
        served = line(
            study, half=half, study="norms", arm="as served", photos=1, cases="clean", ads="clean"
        )
        assert served.people == people
    galleries = {(x.half, x.gallery) for x in study if x.study == "norms"}
    first = sum(in_first_half(names[photo.identity]) for photo in clean.photos.photos)
    assert galleries == {("first", first), ("second", len(clean.faces))}
    crowded = {x.gallery for x in study if x.half == "second" and x.study == "clusters"}
    assert crowded == {len(clean.faces), len(clean.faces) + 100}


def test_every_line_can_be_written_and_read(study: list[Line]) -> None:
    kept = json.loads(json.dumps([x.to_json() for x in study]))
    assert {name for x in kept for name in x["gains"]} == set(METRICS)
    text = render_beyond(study)
    assert "second half, clusters, cases clean, ads poor, 2 photo(s), any face" in text
    assert text.count("as-norm 300, gallery") == 12
    assert "nothing to search for" in render_beyond([])


def test_nobody_to_search_for() -> None:
    vectors = np.eye(4, DIMENSION, dtype=np.float32)
    single = labelled(vectors, [0, 1, 2, 3], [1.0] * 4)
    assert beyond_study(single, single, replicates=5) == []


def test_clusters_are_named_by_row() -> None:
    # Above 0.995 faces are gathered without a calibration.
    vectors = np.eye(3, DIMENSION, dtype=np.float32)
    clusters = gather(vectors[[0, 1, 0]], vectors[[2, 1]], None)
    assert sorted(sorted(rows) for rows in clusters) == [[1, 3], [2, 4]]


def test_poor_versions_are_fixed_and_cached(tmp_path: Path) -> None:
    assert degradation_of("ann/1.png") == degradation_of("ann/1.png")
    assert {degradation_of(f"x/{n}.jpg") for n in range(200)} == set(AD_LIKE)
    folder = tmp_path / "people"
    save(folder, "ann/1.png", (200, 40, 40))
    save(folder, "ann/2.png", (190, 60, 60))
    save(folder, "ben/1.png", (40, 200, 40))
    save(folder, "eve/1.png", (0, 0, 0))
    analyser = ColourAnalyser()
    clean = analyse_photos(analyser, find_photos(folder))
    cache = FaceCache(tmp_path / "cache", analyser.contract_id)
    seen: list[tuple[str, int, int]] = []
    first = poor_faces(analyser, clean, cache=cache, progress=lambda *step: seen.append(step))
    assert seen == [("poor photos", 4, 4)]
    assert [face is None for face in first.faces] == [False, False, False, True]
    calls = list(analyser.calls)
    again = poor_faces(analyser, clean, cache=cache)
    assert analyser.calls == calls
    for one, other in zip(first.faces, again.faces, strict=True):
        if one is not None and other is not None:
            assert np.array_equal(one.embedding.vector, other.embedding.vector)
    kept = cv2.imread(str(folder / "ann/1.png"))
    assert kept is not None
    assert kept[0, 0].tolist() == [40, 40, 200]
