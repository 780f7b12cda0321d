"""The converted models against dlib itself, on real faces.

dlib is a development dependency for these tests and the benchmark; nothing else needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
import pytest

from models.align import aligned_crop
from models.detect import hull_overlap
from models.packs.dlib import files
from models.packs.dlib.build import Artifacts, load_artifacts
from models.packs.dlib.detector import MmodDetector
from models.packs.dlib.landmarks import grey, predict
from models.runtime import RuntimeOptions, open_session
from models.types import Box, Landmarks, RgbImage


@pytest.fixture(scope="module")
def artifacts(pack: object, pack_cache: Path) -> Artifacts:
    return load_artifacts(pack_cache / "dlib")


@pytest.fixture(scope="module")
def scene(group_photo: RgbImage) -> RgbImage:
    """The group picture, made smaller so that dlib needs seconds rather than minutes."""
    return np.asarray(cv2.resize(group_photo, (900, 623), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def dlib_boxes(scene: RgbImage) -> list[tuple[Box, float]]:
    detector = dlib.cnn_face_detection_model_v1(str(files.source_folder() / files.DETECTOR))
    return [
        (
            Box(d.rect.left(), d.rect.top(), d.rect.width(), d.rect.height()),
            float(d.confidence),
        )
        for d in detector(scene, 0)
    ]


def rectangle(box: Box) -> Any:
    return dlib.rectangle(
        int(box.x), int(box.y), int(box.x + box.width - 1), int(box.y + box.height - 1)
    )


def shape_points(shape: Any) -> np.ndarray:
    return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float32)


def test_detections_box_for_box(
    artifacts: Artifacts, scene: RgbImage, dlib_boxes: list[tuple[Box, float]]
) -> None:
    """With dlib's own pyramid step and border: the same faces, and on the finest level, where
    both look at the very same pixels, the same boxes and scores."""
    detector = MmodDetector(
        open_session(artifacts.detector, RuntimeOptions(threads=1)), step=5 / 6, border=11
    )
    ours = detector.detect(scene, 1.0)
    assert len(dlib_boxes) == len(ours) == 6
    same_level = 0
    for box, confidence in dlib_boxes:
        overlap = hull_overlap(box, [d.box for d in ours])
        nearest = ours[int(overlap.argmax())]
        assert float(overlap.max()) > 0.75
        if box.width == 80 and nearest.box.width == 80:
            same_level += 1
            assert nearest.box == box
            assert nearest.score == pytest.approx(confidence, abs=2e-3)
    assert same_level >= 4


def test_default_levels_find_the_same_faces(
    artifacts: Artifacts, scene: RgbImage, dlib_boxes: list[tuple[Box, float]]
) -> None:
    ours = MmodDetector(open_session(artifacts.detector, RuntimeOptions(threads=1))).detect(
        scene, 1.0
    )
    assert len(ours) == len(dlib_boxes)
    for box, _ in dlib_boxes:
        assert float(hull_overlap(box, [d.box for d in ours]).max()) > 0.5


def test_landmarks(
    artifacts: Artifacts, scene: RgbImage, dlib_boxes: list[tuple[Box, float]]
) -> None:
    """dlib rounds its points to whole pixels; ours lie within that rounding."""
    predictor = dlib.shape_predictor(str(files.source_folder() / files.LANDMARKS))
    boxes = [box for box, _ in dlib_boxes]
    ours = predict(artifacts.trees, [grey(scene)] * len(boxes), boxes)
    for box, points in zip(boxes, ours, strict=True):
        theirs = shape_points(predictor(scene, rectangle(box)))
        assert np.abs(points - theirs).max() <= 0.51


def test_chips(scene: RgbImage, dlib_boxes: list[tuple[Box, float]]) -> None:
    predictor = dlib.shape_predictor(str(files.source_folder() / files.LANDMARKS))
    for box, _ in dlib_boxes:
        shape = predictor(scene, rectangle(box))
        theirs = dlib.get_face_chip(scene, shape, 150, 0.25).astype(np.int16)
        ours = aligned_crop(scene, Landmarks(shape_points(shape), "dlib5"), 150).astype(np.int16)
        inner = np.abs(ours - theirs)[20:-20, 20:-20]
        assert inner.mean() < 2.0


def test_embeddings(
    artifacts: Artifacts, scene: RgbImage, dlib_boxes: list[tuple[Box, float]]
) -> None:
    """On the same pixels the embeddings are dlib's own to 1e-5."""
    predictor = dlib.shape_predictor(str(files.source_folder() / files.LANDMARKS))
    recogniser = dlib.face_recognition_model_v1(str(files.source_folder() / files.EMBEDDER))
    chips = [
        dlib.get_face_chip(scene, predictor(scene, rectangle(box)), 150, 0.25)
        for box, _ in dlib_boxes
    ]
    theirs = np.array([np.array(recogniser.compute_face_descriptor(chip)) for chip in chips])
    session = open_session(artifacts.embedder, RuntimeOptions(threads=1))
    ours = session.run(["embedding"], {"pixels": np.stack(chips)})[0]
    assert ours.shape == (6, 128)
    assert np.abs(ours - theirs).max() < 1e-5
