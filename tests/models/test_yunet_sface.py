"""YuNet and SFace through OpenCV's own classes, on small models of the same shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import PackDigestMismatch, PackError, PackMissing, ProviderUnavailable
from models.find import SearchOptions
from models.packs.base import PackInfo
from models.packs.known import KNOWN
from models.packs.yunet_sface.pack import (
    DETECTION_SCORES,
    YunetSfacePack,
    find_files,
    load,
)
from models.pipeline import Analyser, AnalysisOptions
from models.runtime import RuntimeOptions
from models.types import Box, Detection, FloatArray, RgbImage
from tests.models.opencv_models import planted, sface, write_folder, yunet

INFO = KNOWN["yunet-sface"].info
RUNTIME = RuntimeOptions(threads=1)


def pinned(folder: Path, **others: str) -> PackInfo:
    files = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return replace(INFO, digests={**files, **others})


def opened(folder: Path) -> YunetSfacePack:
    return load(folder, info=pinned(folder), runtime=RUNTIME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("zoo") / "files")


@pytest.fixture(scope="module")
def small(folder: Path) -> YunetSfacePack:
    return opened(folder)


def by_opencv(folder: Path, image: RgbImage, threshold: float) -> FloatArray:
    """Rows of 15 from OpenCV's class used directly, best score first."""
    detector = cv2.FaceDetectorYN.create(
        str(find_files(folder)[0]), "", image.shape[1::-1], threshold
    )
    rows = detector.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    assert rows is not None
    return np.asarray(rows[np.argsort(-rows[:, 14], kind="stable")], dtype=np.float32)


def row_of(found: Detection) -> FloatArray:
    assert found.landmarks is not None
    box = found.box
    values = [box.x, box.y, box.width, box.height, *found.landmarks.points.ravel(), found.score]
    return np.array(values, dtype=np.float32)


def test_faces_are_those_of_opencv(folder: Path, small: YunetSfacePack) -> None:
    image = planted(300, 250, (32, 32, 32), (160, 96, 64), (200, 200, 16))
    found = small.detect(image, 1.0, 0.3)
    direct = by_opencv(folder, image, 0.3)
    assert len(found) == len(direct) >= 3
    np.testing.assert_array_equal(np.stack([row_of(f) for f in found]), direct)


def test_a_file_that_states_one_size_is_run_at_any(tmp_path: Path, small: YunetSfacePack) -> None:
    fixed = opened(write_folder(tmp_path / "fixed", detector=yunet(fixed=640)))
    for size in ((300, 200), (97, 41), (260, 300)):
        image = planted(*size, (0, 0, 32))
        rows = [row_of(f) for f in fixed.detect(image, 1.0, 0.3)]
        assert rows
        np.testing.assert_array_equal(rows, [row_of(f) for f in small.detect(image, 1.0, 0.3)])


def test_the_threshold_of_a_call_counts(small: YunetSfacePack) -> None:
    image = planted(200, 200, (64, 64, 32))
    assert small.detect(image, 1.0, 0.3)
    assert small.detect(image, 1.0, 0.9999) == []
    assert small.detect(image, 1.0, 0.3)


def test_a_face_that_fills_a_large_picture_is_found(small: YunetSfacePack) -> None:
    # The widest box at the finest level is 128 px; this face is four times as wide.
    image = planted(1024, 768, (512, 384, 128))
    widest = max(found.box.width for found in small.detect(image, 1.0, 0.3))
    assert widest == pytest.approx(512, rel=0.02)


def test_small_faces_come_with_a_finer_level(small: YunetSfacePack) -> None:
    image = planted(120, 120, (60, 60, 4))
    assert small.detect(image, 1.0, 0.3) == []
    found = small.detect(image, 4.0, 0.3)
    assert found[0].box.centre == pytest.approx((62, 62), abs=1)


def test_crops_and_vectors_are_those_of_opencv(folder: Path, small: YunetSfacePack) -> None:
    recogniser = cv2.FaceRecognizerSF.create(str(find_files(folder)[1]), "")
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    rows = by_opencv(folder, planted(320, 240, (96, 64, 64)), 0.3)
    found = small.detect(planted(320, 240, (96, 64, 64)), 1.0, 0.3)
    chips = []
    for mark, row in zip(small.landmarks([image] * len(found), found), rows, strict=True):
        chip = small.align(image, mark, 1.0)
        direct = recogniser.alignCrop(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), row)
        np.testing.assert_array_equal(chip[:, :, ::-1], direct)
        chips.append(chip)
    vectors = small.embed(chips)
    assert vectors.shape == (len(chips), 128) and vectors.dtype == np.float32
    for chip, vector in zip(chips, vectors, strict=True):
        np.testing.assert_array_equal(
            recogniser.feature(np.ascontiguousarray(chip[:, :, ::-1])).ravel(), vector
        )
    assert small.embed([]).shape == (0, 128)


def test_crops_come_from_pictures_longer_than_opencv_takes(small: YunetSfacePack) -> None:
    near = planted(300, 64, (20, 16, 32))
    long = np.full((64, 40_000, 3), 110, dtype=np.uint8)
    long[:, -300:] = near
    mark = small.landmarks([near], small.detect(near, 1.0, 0.3)[:1])[0]
    moved = type(mark)(mark.points + np.array([39_700, 0], np.float32), mark.scheme)
    difference = small.align(long, moved, 1.0).astype(int) - small.align(near, mark, 1.0)
    assert np.abs(difference).max() <= 2


def test_detections_of_another_pack_are_refused(small: YunetSfacePack) -> None:
    stray = Detection(Box(0, 0, 10, 10), 1.0)
    with pytest.raises(PackError, match="landmarks"):
        small.landmarks([planted(50, 50)], [stray])


def test_the_pipeline_finds_planted_faces(small: YunetSfacePack) -> None:
    image = planted(320, 240, (32, 64, 64), (192, 128, 64))
    options = AnalysisOptions(SearchOptions(upsample=1.0))
    found = Analyser(small, options).analyse([image, planted(64, 64)])
    assert found[1] == []
    middles = sorted(face.box.centre for face in found[0])
    for middle in ((64, 96), (224, 160)):
        near = [m for m in middles if np.hypot(m[0] - middle[0], m[1] - middle[1]) < 40]
        assert near, middle
    for face in found[0]:
        assert face.embedding.contract_id == small.contract.id
        assert np.linalg.norm(face.embedding.vector) == pytest.approx(1, abs=1e-5)
        assert face.landmarks.scheme == "insightface5"


def test_threads_share_one_pack(small: YunetSfacePack) -> None:
    pictures = [planted(120 + 40 * n, 100 + 24 * n, (32, 32, 32 + 8 * n)) for n in range(8)]

    def look(image: RgbImage) -> list[list[float]]:
        found = small.detect(image, 1.0, 0.3)
        marks = small.landmarks([image] * len(found), found)
        vectors = small.embed([small.align(image, mark, 1.0) for mark in marks])
        return [*(list(map(float, row_of(f))) for f in found), *vectors.tolist()]

    alone = [look(image) for image in pictures]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert list(threads.map(look, pictures)) == alone


def test_what_made_a_vector_is_in_the_contract(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", recogniser=sface(seed=8))
    assert opened(folder).contract.id == opened(folder).contract.id
    assert opened(folder).contract.id != opened(other).contract.id
    assert opened(folder).contract.dimension == 128
    assert opened(folder).calibration is None
    assert list(DETECTION_SCORES) == sorted(DETECTION_SCORES)


def test_it_runs_on_the_processor_only(folder: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="cuda") as caught:
        load(folder, info=pinned(folder), runtime=RuntimeOptions(provider="cuda"))
    assert "HOMEWARD_PROVIDER" in caught.value.remedy


def test_other_bytes_are_refused(folder: Path) -> None:
    wrong = pinned(folder, **{"face_recognition_sface_2021dec.onnx": "0" * 64})
    with pytest.raises(PackDigestMismatch, match="sface_2021dec"):
        load(folder, info=wrong, runtime=RUNTIME)


@pytest.mark.parametrize(
    "files",
    [
        {"detector": b"no model"},
        {"recogniser": b"\x08\x07"},
        {"detector": sface(), "recogniser": yunet()},
        {"recogniser": sface(dimension=64)},
    ],
    ids=["no detector", "no recogniser", "exchanged", "other dimension"],
)
def test_models_that_are_no_such_models_are_refused(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    folder = write_folder(tmp_path / "files", **files)
    with pytest.raises(PackError) as caught:
        opened(folder)
    assert caught.value.remedy


def test_both_files_are_needed_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "files")
    (folder / "yunet_second.onnx").write_bytes(yunet())
    with pytest.raises(PackMissing, match="2 files"):
        find_files(folder)
    (folder / "yunet_second.onnx").unlink()
    (folder / "face_detection_yunet_2023mar.onnx").unlink()
    with pytest.raises(PackMissing, match="0 files"):
        find_files(folder)
    (folder / "yunet.onnx").symlink_to(folder / "face_recognition_sface_2021dec.onnx")
    with pytest.raises(PackError, match="link"):
        find_files(folder)
