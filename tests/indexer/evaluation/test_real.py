"""The evaluation with the real default pack."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.evaluation.calibrate import calibrate
from indexer.evaluation.degrade import DEGRADATIONS
from indexer.evaluation.photos import centre_face
from indexer.evaluation.run import evaluate
from models.calibration import Calibration
from models.pipeline import Analyser
from models.types import RgbImage


def test_degradations_of_a_real_face_order_as_expected(
    analyser: Analyser, astronaut: RgbImage
) -> None:
    clean = analyser.analyse([astronaut])[0][0]

    def likeness(name: str) -> float:
        picture = DEGRADATIONS[name].apply(astronaut, clean)
        height, width = picture.shape[:2]
        face = centre_face(analyser.analyse([picture])[0], width, height)
        return -1.0 if face is None else float(face.embedding.vector @ clean.embedding.vector)

    mirrored, barred = likeness("mirror"), likeness("eye_bar")
    assert mirrored > 0.98
    assert barred < mirrored
    assert likeness("lower_face") < mirrored


@pytest.mark.shared_data
def test_people_of_the_shared_photos(analyser: Analyser, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "lfw"
    several = [p for p in sorted(source.iterdir()) if 2 <= len(list(p.iterdir())) <= 3][:10]
    singles = [p for p in sorted(source.iterdir()) if len(list(p.iterdir())) == 1][:10]
    for folder in [*several, *singles]:
        os.symlink(folder, tmp_path / folder.name)
    report = evaluate(analyser, tmp_path, degrade=["mirror"], replicates=50)
    result = report.to_json()
    assert result["identities"] == 20
    assert (result["gallery"], result["non_mated_probes"]) == (15, 5)
    assert result["failure_to_enroll"] == 0
    assert result["rank_5"] >= 0.9
    assert result["eer"] < 0.1
    assert result["degraded"][0]["rank_5"] >= 0.9

    calibration = calibrate(report.faces, source="twenty people", replicates=20)
    calibration.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    assert loaded.contract_id == analyser.contract_id
    low, high = loaded.fmr(0.5), loaded.fmr(0.999)
    assert low.value > 0.5
    assert not high.resolved
    # Nothing was seen in 190 pairs of people.
    assert high.upper == pytest.approx(1 - 0.025 ** (1 / 190), rel=1e-6)
