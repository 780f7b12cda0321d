"""Similarity transforms and aligned crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.align import aligned_crop, canonical_points, similarity
from models.types import Landmarks, RgbImage


@given(st.floats(0.1, 10), st.floats(-180, 180), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_recovered(scale: float, degrees: float, dx: float, dy: float) -> None:
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    source = canonical_points("dlib5", 150)
    target = source @ linear.T + [dx, dy]
    found = similarity(source, target)
    assert found[:, :2] == pytest.approx(linear, abs=1e-6)
    assert found[:, 2] == pytest.approx([dx, dy], abs=1e-4)


@pytest.mark.parametrize("scheme", ["dlib5", "insightface5"])
def test_landmarks_in_place_leave_the_picture_alone(scheme: str, astronaut: RgbImage) -> None:
    size = 150
    picture = np.ascontiguousarray(astronaut[60 : 60 + size, 140 : 140 + size])
    points = canonical_points(scheme, size).astype(np.float32)  # type: ignore[arg-type]
    crop = aligned_crop(picture, Landmarks(points, scheme), size)  # type: ignore[arg-type]
    assert np.abs(crop.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_large_faces_are_shrunk_without_aliasing(factor: int, astronaut: RgbImage) -> None:
    """A face enlarged by an integer factor gives nearly the crop of the original."""
    points = canonical_points("dlib5", 80) + np.array([175, 70])
    small = aligned_crop(astronaut, Landmarks(points.astype(np.float32), "dlib5"), 75)
    large = np.asarray(
        cv2.resize(astronaut, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8
    )
    grown = ((points + 0.5) * factor - 0.5).astype(np.float32)
    from_large = aligned_crop(large, Landmarks(grown, "dlib5"), 75)
    difference = np.abs(from_large.astype(int) - small.astype(int))
    assert difference.mean() < 4.0


def test_a_face_outside_the_picture_is_black(astronaut: RgbImage) -> None:
    points = canonical_points("dlib5", 100).astype(np.float32) + np.float32(2000)
    assert not aligned_crop(astronaut, Landmarks(points, "dlib5"), 64).any()


def test_collapsed_landmarks_do_not_crash(astronaut: RgbImage) -> None:
    points = np.full((5, 2), 100, dtype=np.float32)
    crop = aligned_crop(astronaut, Landmarks(points, "insightface5"), 64)
    assert crop.shape == (64, 64, 3)


def test_scale_shows_more(astronaut: RgbImage) -> None:
    points = Landmarks(canonical_points("dlib5", 100).astype(np.float32) + np.float32(150), "dlib5")
    near = aligned_crop(astronaut, points, 100)
    far = aligned_crop(astronaut, points, 100, scale=2.0)
    shrunk = cv2.resize(near, (50, 50), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(far[25:75, 25:75].astype(int) - shrunk).mean() < 12
