"""Degradations do what their names say, at the face, and the same every time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from skimage.data import astronaut

from indexer.evaluation.degrade import DEGRADATIONS, STANDARD, eyes
from models.types import Box, Embedding, Face, Landmarks, Quality, RgbImage

# Measured by eye in the picture: corners of the eyes and the base of the nose.
LANDMARKS = Landmarks(
    np.array([[252, 107], [236, 108], [194, 113], [209, 111], [222, 139]], np.float32), "dlib5"
)
FACE = Face(
    box=Box(170, 63, 104, 104),
    detection_score=1.0,
    turn=0,
    landmarks=LANDMARKS,
    quality=Quality(1.0),
    embedding=Embedding(np.zeros(128, np.float32), "test"),
)


@pytest.fixture(scope="module")
def picture() -> RgbImage:
    return np.asarray(astronaut())  # type: ignore[no-untyped-call]


def apply(name: str, picture: RgbImage) -> RgbImage:
    return DEGRADATIONS[name].apply(picture, FACE)


@pytest.mark.parametrize("name", list(DEGRADATIONS))
def test_each_is_repeatable_and_leaves_the_original_alone(name: str, picture: RgbImage) -> None:
    before = picture.copy()
    first, second = apply(name, picture), apply(name, picture)
    assert_array_equal(first, second)
    assert_array_equal(picture, before)
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert first.shape != picture.shape or not np.array_equal(first, picture)


def test_standard_names_exist() -> None:
    assert set(STANDARD) < set(DEGRADATIONS)
    assert {"mirror", "rotate_30", "rotate_90", "rotate_180", "eye_bar"} < set(STANDARD)


@pytest.mark.parametrize(("name", "width"), [("face_60px", 60), ("face_40px", 40)])
def test_face_width(name: str, width: int, picture: RgbImage) -> None:
    small = apply(name, picture)
    assert small.shape[1] == round(512 * width / 104)
    already = cv2.resize(picture, (100, 100))
    assert_array_equal(
        DEGRADATIONS[name].apply(np.asarray(already, np.uint8), _face_of(width - 5)), already
    )


def _face_of(width: int) -> Face:
    return Face(Box(0, 0, width, width), 1.0, 0, LANDMARKS, Quality(1.0), FACE.embedding)


def test_mirror_and_quarter_turns_lose_nothing(picture: RgbImage) -> None:
    assert_array_equal(apply("mirror", apply("mirror", picture)), picture)
    assert_array_equal(apply("rotate_90", picture)[0, 0], picture[0, -1])
    assert_array_equal(apply("rotate_180", picture)[0, 0], picture[-1, -1])
    assert_array_equal(apply("rotate_270", apply("rotate_90", picture)), picture)


def test_rotation_grows_the_canvas_and_keeps_the_centre(picture: RgbImage) -> None:
    turned = apply("rotate_30", picture[:400])
    assert turned.shape == (603, 644, 3)  # 400 cos 30 + 512 sin 30 by 512 cos 30 + 400 sin 30
    assert_allclose(turned[0, 0], 124)
    back = cv2.warpAffine(turned, cv2.getRotationMatrix2D((321.5, 301), -30, 1.0), (644, 603))[
        301 - 100 : 301 + 100, 322 - 100 : 322 + 100
    ]
    middle = picture[200 - 100 : 200 + 100, 256 - 100 : 256 + 100]
    assert np.abs(back.astype(int) - middle).mean() < 8


def test_covers_hide_what_they_name_and_nothing_else(picture: RgbImage) -> None:
    bar, lower = apply("eye_bar", picture), apply("lower_face", picture)
    for x, y in LANDMARKS.points[:4].astype(int):
        assert_array_equal(bar[y, x], (0, 0, 0))
        assert_array_equal(lower[y, x], picture[y, x])
    for x, y in ((222, 80), (222, 130)):  # forehead and bridge of the nose
        assert_array_equal(bar[y, x], picture[y, x])
    nose = tuple(LANDMARKS.points[4].astype(int)[::-1])
    assert_array_equal(bar[nose], picture[nose])
    assert np.abs(lower[nose].astype(int) - picture[nose]).max() > 20
    mouth = (158, 225)
    assert_array_equal(lower[mouth], lower[nose])
    for changed in (bar, lower):
        touched = np.any(changed != picture, axis=2)
        assert 0.2 < touched.sum() / FACE.box.area < 0.75
        assert not touched[300:].any()


def test_covers_follow_a_turned_face(picture: RgbImage) -> None:
    # The landmarks of the same face after a quarter turn counter-clockwise: (x, y) to (y, 511 - x).
    points = np.stack([LANDMARKS.points[:, 1], 511 - LANDMARKS.points[:, 0]], axis=1)
    turned = Face(
        Box(63, 511 - 274, 104, 104),
        1.0,
        1,
        Landmarks(points, "dlib5"),
        Quality(1.0),
        FACE.embedding,
    )
    sideways = DEGRADATIONS["lower_face"].apply(apply("rotate_90", picture), turned)
    expected = np.rot90(apply("lower_face", picture))
    assert (np.abs(sideways.astype(int) - expected).max(axis=2) > 8).mean() < 0.001


def test_watermark_crosses_the_face_and_lets_it_through(picture: RgbImage) -> None:
    marked = apply("watermark", picture)
    box = FACE.box
    inside = (slice(int(box.y), int(box.bottom)), slice(int(box.x), int(box.right)))
    touched = np.any(marked[inside] != picture[inside], axis=2).mean()
    assert 0.2 < touched < 0.7
    # Half opaque: every pixel stays between half way to black and half way to white.
    before = picture.astype(int)
    assert np.all(marked <= (before + 255) / 2 + 1)
    assert np.all(marked >= before / 2 - 1)


def test_tone(picture: RgbImage) -> None:
    assert apply("dark", picture).max() == 64
    bright = apply("overexposed", picture)
    assert (bright == 255).mean() > (picture == 255).mean() + 0.2
    greyed = apply("grey", picture)
    assert_array_equal(greyed[..., 0], greyed[..., 2])


def test_blur_and_compression_lose_detail_in_order(picture: RgbImage) -> None:
    def detail(image: RgbImage) -> float:
        return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())

    assert detail(apply("blur_4", picture)) < detail(apply("blur_2", picture)) / 2
    assert detail(apply("blur_2", picture)) < detail(picture) / 4
    change = np.abs(apply("jpeg_20", picture).astype(int) - picture).mean()
    assert 1 < change < 12


def test_eyes_of_both_schemes() -> None:
    left, right = eyes(LANDMARKS)
    assert_allclose(left, [201.5, 112])
    assert_allclose(right, [244, 107.5])
    points = np.array([[1, 2], [3, 4], [0, 0], [0, 0], [0, 0]], np.float32)
    left, right = eyes(Landmarks(points, "insightface5"))
    assert left.tolist() == [1, 2]
    assert right.tolist() == [3, 4]
