"""Turns of pictures, points and boxes, and the thinning of overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.detect import (
    hull_overlap,
    thin,
    turn_box,
    turn_image,
    turn_points,
    unturn_box,
    unturn_points,
)
from models.types import Box, Detection

sides = st.integers(1, 40)
turns = st.integers(0, 3)


@given(sides, sides, turns, st.data())
def test_points_follow_the_picture(width: int, height: int, turn: int, data: st.DataObject) -> None:
    image = np.arange(width * height, dtype=np.int64).reshape(height, width, 1)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    turned = turn_image(image.repeat(3, axis=2).astype(np.uint8), turn)
    points = np.array([[x, y]], dtype=np.float32)
    (tx, ty) = turn_points(points, turn, width, height)[0].astype(int)
    assert turned[ty, tx, 0] == np.uint8(image[y, x, 0] % 256)
    assert (
        unturn_points(turn_points(points, turn, width, height), turn, width, height) == points
    ).all()


@given(sides, sides, turns, st.integers(-5, 40), st.integers(-5, 40), sides, sides)
def test_boxes_follow_the_picture(
    width: int, height: int, turn: int, x: int, y: int, w: int, h: int
) -> None:
    box = Box(x, y, w, h)
    turned = turn_box(box, turn, width, height)
    assert unturn_box(turned, turn, width, height) == box
    pixels = np.array([[x, y], [x + w - 1, y + h - 1]], dtype=np.float32)
    moved = turn_points(pixels, turn, width, height)
    assert (turned.x, turned.y) == (moved[:, 0].min(), moved[:, 1].min())
    assert turned.right == moved[:, 0].max() + 1


def test_hull_overlap() -> None:
    box = Box(0, 0, 10, 10)
    others = [box, Box(5, 0, 10, 10), Box(20, 20, 5, 5)]
    assert hull_overlap(box, others) == pytest.approx([1.0, 50 / 150, 0.0])
    assert hull_overlap(box, []).size == 0


def test_thinning_keeps_the_best_of_what_overlaps() -> None:
    weak = Detection(Box(1, 0, 10, 10), 0.5)
    strong = Detection(Box(0, 0, 10, 10), 0.9)
    apart = Detection(Box(30, 0, 10, 10), 0.1)
    assert thin([weak, apart, strong], 0.34) == [strong, apart]
