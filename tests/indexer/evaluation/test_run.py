"""The whole evaluation on small folders of flat colours, with an analyser that reads colours.

The analyser below is exact and simple, so that every figure can be told in advance; the real one
is measured in ``test_real.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from indexer.evaluation.degrade import STANDARD
from indexer.evaluation.photos import (
    EvaluationImpossible,
    analyse_photos,
    centre_face,
    find_photos,
)
from indexer.evaluation.plots import write_plots
from indexer.evaluation.report import render_table
from indexer.evaluation.run import evaluate, sample_probes, study_quality
from models.types import Box, Embedding, Face, Landmarks, Quality, RgbImage


class ColourAnalyser:
    """One face per picture, its vector the direction of the mean colour; none in a black one."""

    contract_id = "colour-1"
    dimension = 3

    def __init__(self) -> None:
        self.calls: list[int] = []

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        self.calls.append(len(images))
        return [self._faces(image) for image in images]

    def _faces(self, image: RgbImage) -> list[Face]:
        colour = image.reshape(-1, 3).mean(axis=0)
        if colour.max() < 10:
            return []
        height, width = image.shape[:2]
        vector = (colour / np.linalg.norm(colour)).astype(np.float32)
        points = np.array([[40, 20], [30, 20], [10, 20], [20, 20], [25, 35]], np.float32)
        return [
            Face(
                Box(0, 0, width, height),
                1.0,
                0,
                Landmarks(points, "dlib5"),
                Quality(float(colour.max()) / 255),
                Embedding(vector, self.contract_id),
            )
        ]


def save(folder: Path, name: str, colour: Sequence[int]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((64, 50, 3), list(colour)[::-1], np.uint8)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two people with two photos, three single ones; one of the latter a black picture."""
    folder = tmp_path / "people"
    save(folder, "ann/1.png", (200, 20, 20))
    save(folder, "ann/2.png", (210, 25, 20))
    save(folder, "ben/1.png", (20, 200, 20))
    save(folder, "ben/2.png", (20, 30, 200))  # looks like dan
    save(folder, "cleo/1.png", (100, 100, 100))
    save(folder, "dan/1.png", (20, 20, 200))
    save(folder, "eve/1.png", (0, 0, 0))
    return folder


def test_figures_of_a_small_folder(people: Path) -> None:
    report = evaluate(ColourAnalyser(), people, replicates=20)
    result = report.to_json()
    assert result["images"] == 7
    assert result["identities"] == 5
    assert result["failure_to_enroll"] == pytest.approx(1 / 7, abs=1e-6)
    assert result["failures"] == {"not_found": ["eve/1.png"], "unreadable": []}
    assert result["genuine_pairs"] == 2
    assert result["impostor_pairs"] == 19
    assert result["impostor_pairs_compared"] == 13
    # Gallery: ann, ben, cleo and eve (first and third single); dan is the non-mated probe.
    assert (result["gallery"], result["mated_probes"], result["non_mated_probes"]) == (4, 2, 1)
    assert result["rank_1"] == 0.5  # ann; ben's second photo is nearer to cleo, then to ann
    assert result["rank_5"] == 1.0
    assert result["tar_at_fmr"]["1e-2"] == 0.5
    assert result["contract_id"] == "colour-1"
    assert result["closest_impostors"][0]["first"] == "ben/2.png"
    assert result["closest_impostors"][0]["second"] == "dan/1.png"
    assert result["seconds"] >= 0


def test_json_has_the_names_of_the_contract_and_is_json(people: Path) -> None:
    result = json.loads(json.dumps(evaluate(ColourAnalyser(), people).to_json(), allow_nan=False))
    assert {
        "images", "identities", "failure_to_enroll", "genuine_pairs", "impostor_pairs",
        "tar_at_fmr", "eer", "rank_1", "rank_5", "rank_10", "rank_50", "fnir_at_fpir",
        "contract_id", "seconds",
    } <= set(result)  # fmt: skip
    assert set(result["tar_at_fmr"]) == {"1e-2", "1e-3", "1e-4", "1e-5"}
    assert set(result["fnir_at_fpir"]) == {"1e-1", "1e-2"}


def test_unreadable_files_are_counted_and_named(people: Path) -> None:
    (people / "ann" / "3.jpg").write_bytes(b"not a picture")
    (people / "ann" / "notes.txt").write_text("no photo")
    (people / "ann" / ".hidden.jpg").write_bytes(b"")
    (people / "loose.jpg").write_bytes(b"")
    report = evaluate(ColourAnalyser(), people, replicates=20)
    result = report.to_json()
    assert result["images"] == 8
    assert [item["name"] for item in result["failures"]["unreadable"]] == ["ann/3.jpg"]
    assert result["failures"]["unreadable"][0]["code"] == "unsupported_format"
    assert result["ignored_files"] == ["ann/notes.txt", "loose.jpg"]
    assert result["genuine_pairs"] == 4
    assert result["rank_50"] == pytest.approx(2 / 3, abs=1e-6)  # the unreadable probe is a miss
    assert "2 photos, 1 of them unreadable" in render_table(report)


def test_a_lost_gallery_photo_is_a_miss(people: Path) -> None:
    save(people, "ann/1.png", (0, 0, 0))
    assert evaluate(ColourAnalyser(), people, replicates=20).to_json()["rank_50"] == 0.5


def test_folders_that_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(EvaluationImpossible, match="not a folder"):
        find_photos(tmp_path / "absent")
    (tmp_path / "loose.jpg").write_bytes(b"")
    with pytest.raises(EvaluationImpossible, match="no photos"):
        find_photos(tmp_path)
    with pytest.raises(EvaluationImpossible, match="rotate_31"):
        evaluate(ColourAnalyser(), tmp_path, degrade=["rotate_31"])


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    for number in range(70):
        save(tmp_path, f"p{number:02}/1.png", (100 + number, 50, 50))
    analyser = ColourAnalyser()
    seen: list[tuple[str, int, int]] = []
    faces = analyse_photos(
        analyser, find_photos(tmp_path), progress=lambda *step: seen.append(step)
    )
    assert sum(analyser.calls) == 70
    assert max(analyser.calls) <= 16
    assert seen[-1] == ("photos", 70, 70)
    reds = [face.embedding.vector[0] for face in faces.faces if face is not None]
    assert len(reds) == 70
    assert np.all(np.diff(reds) > 0)


def test_cache_spares_the_analyser_and_changes_nothing(people: Path, tmp_path: Path) -> None:
    first, second = ColourAnalyser(), ColourAnalyser()
    fresh = evaluate(first, people, cache_dir=tmp_path / "cache", replicates=20).to_json()
    again = evaluate(second, people, cache_dir=tmp_path / "cache", replicates=20).to_json()
    assert sum(first.calls) == 7
    assert second.calls == []
    for result in (fresh, again):
        del result["seconds"], result["seconds_by_stage"]
    assert fresh == again
    for entry in (tmp_path / "cache" / "colour-1").iterdir():
        entry.write_text("{")
    third = ColourAnalyser()
    evaluate(third, people, cache_dir=tmp_path / "cache", replicates=20)
    assert sum(third.calls) == 7


def test_degraded_probes(people: Path) -> None:
    report = evaluate(ColourAnalyser(), people, degrade=["mirror", "grey"], replicates=20)
    mirror, grey = report.to_json()["degraded"]
    assert (mirror["name"], mirror["probes"], mirror["people"]) == ("mirror", 2, 2)
    assert mirror["rank_1"] == 0.5
    assert mirror["share_of_clean"] == 1.0
    # Clean, mirrored and grey: two probes each, of which one, one and two missed.
    assert (report.quality.probes, report.quality.misses) == (6, 4)
    assert grey["rank_1"] == 0.0  # without colour everyone looks like cleo
    assert grey["share_of_clean"] == 0.0
    assert "mirrored" in render_table(report)


def test_a_probe_lost_by_its_degradation_is_a_miss(people: Path) -> None:
    save(people, "ann/2.png", (30, 3, 3))  # a quarter of it is black to the analyser
    [dark] = evaluate(ColourAnalyser(), people, degrade=["dark"], replicates=20).degraded
    assert dark.failure_to_enroll == 0.5
    assert dark.rank_k[50] == 0.5


def test_probes_are_drawn_by_whole_people(tmp_path: Path) -> None:
    for person in range(12):
        for photo in range(4):
            save(tmp_path, f"p{person:02}/{photo}.png", (20 * person + 10, 200 - photo, 90))
    report = evaluate(ColourAnalyser(), tmp_path, degrade=["mirror"], degrade_probes=10)
    assert report.degraded[0].probes == 12  # four people with three probes each
    chosen = sample_probes(report.identification, 10, seed=0)
    people = report.identification.mated_identity[chosen]
    assert np.bincount(people, minlength=12).tolist().count(3) == 4
    assert chosen.tolist() == sample_probes(report.identification, 10, seed=0).tolist()
    assert chosen.tolist() != sample_probes(report.identification, 10, seed=1).tolist()
    assert len(sample_probes(report.identification, None, seed=0)) == 36


def test_the_face_nearest_the_centre_is_taken() -> None:
    def face(x: float, y: float, size: float) -> Face:
        landmarks = Landmarks(np.zeros((5, 2), np.float32), "dlib5")
        embedding = Embedding(np.zeros(3, np.float32), "colour-1")
        return Face(Box(x, y, size, size), 1.0, 0, landmarks, Quality(1.0), embedding)

    corner, near, large = face(0, 0, 50), face(45, 40, 20), face(16, 16, 70)
    assert centre_face([corner, near, large], 100, 100) is large  # centre 51, 51
    assert centre_face([corner, near], 100, 100) is near
    assert centre_face([], 100, 100) is None


def test_quality_study_by_hand() -> None:
    quality = np.array([0.1, 0.2, 0.2, 0.9])
    study = study_quality(quality, np.array([True, False, True, False]))
    assert study.area == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert sum(b.misses for b in study.bins) == study.misses == 2
    assert study_quality(quality, np.zeros(4, np.bool_)).area is None


def test_plots_are_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for person in range(40):
        colour = rng.integers(40, 200, 3)
        for photo in range(2 if person % 2 else 1):
            tint = np.clip(colour + rng.integers(-25, 25, 3), 0, 255)
            save(tmp_path / "faces", f"p{person:02}/{photo}.png", tuple(int(c) for c in tint))
    report = evaluate(ColourAnalyser(), tmp_path / "faces", degrade=STANDARD, replicates=20)
    written = write_plots(report, tmp_path / "plots")
    assert {path.name for path in written} == {
        "det.png", "cmc.png", "scores.png", "quality.png", "degraded.png",
    }  # fmt: skip
    for path in written:
        image = cv2.imread(str(path))
        assert image is not None
        assert image.shape[1] == 1120
        assert (image < 250).mean() > 0.005


def test_plots_of_next_to_nothing(people: Path, tmp_path: Path) -> None:
    for extra in ("ben/2.png", "ann/2.png"):
        (people / extra).unlink()
    report = evaluate(ColourAnalyser(), people)
    assert report.to_json()["rank_1"] is None
    assert write_plots(report, tmp_path / "plots") == []
    assert "-" in render_table(report)
