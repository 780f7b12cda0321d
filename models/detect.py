"""Detection, common to all packs: quarter turns of pictures and boxes, and thinning of overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.types import Box, Detection, FloatArray, RgbImage


def turn_image(image: RgbImage, turns: int) -> RgbImage:
    """The image turned counter-clockwise by ``turns`` quarter turns (a contiguous copy)."""
    return np.ascontiguousarray(np.rot90(image, turns % 4)) if turns % 4 else image


def unturn_points(points: FloatArray, turns: int, width: int, height: int) -> FloatArray:
    """Points (n, 2) of the turned image, brought back to the image of ``width`` x ``height``."""
    x, y = points[:, 0], points[:, 1]
    match turns % 4:
        case 0:
            back = (x, y)
        case 1:
            back = (width - 1 - y, x)
        case 2:
            back = (width - 1 - x, height - 1 - y)
        case _:
            back = (y, height - 1 - x)
    return np.stack(back, axis=1).astype(np.float32)


def turn_points(points: FloatArray, turns: int, width: int, height: int) -> FloatArray:
    """Points (n, 2) of the image of ``width`` x ``height`` as they lie in the turned image."""
    if turns % 2:
        return unturn_points(points, -turns, height, width)
    return unturn_points(points, turns, width, height)


def turn_box(box: Box, turns: int, width: int, height: int) -> Box:
    """A box of the image of ``width`` x ``height`` as it lies in the turned image."""
    corners = np.array([[box.x, box.y], [box.right, box.bottom]], dtype=np.float32)
    # Box edges lie on the pixel grid's lines, not on pixel centres: shift by half a pixel.
    (x0, y0), (x1, y1) = turn_points(corners - 0.5, turns, width, height) + 0.5
    return Box(
        float(min(x0, x1)),
        float(min(y0, y1)),
        box.height if turns % 2 else box.width,
        box.width if turns % 2 else box.height,
    )


def unturn_box(box: Box, turns: int, width: int, height: int) -> Box:
    """A box of the turned image, brought back to the image of ``width`` x ``height``."""
    if turns % 2:
        return turn_box(box, -turns, height, width)
    return turn_box(box, -turns, width, height)


def hull_overlap(box: Box, others: Sequence[Box]) -> FloatArray:
    """Intersection over the area of the enclosing box, as dlib measures overlap: float32 (n,)."""
    if not others:
        return np.empty(0, dtype=np.float32)
    edges = np.array([(o.x, o.y, o.right, o.bottom) for o in others], dtype=np.float64)
    inner_w = np.minimum(edges[:, 2], box.right) - np.maximum(edges[:, 0], box.x)
    inner_h = np.minimum(edges[:, 3], box.bottom) - np.maximum(edges[:, 1], box.y)
    outer_w = np.maximum(edges[:, 2], box.right) - np.minimum(edges[:, 0], box.x)
    outer_h = np.maximum(edges[:, 3], box.bottom) - np.minimum(edges[:, 1], box.y)
    inner = np.clip(inner_w, 0, None) * np.clip(inner_h, 0, None)
    return np.asarray(inner / np.maximum(outer_w * outer_h, 1e-9), dtype=np.float32)


def thin(detections: Sequence[Detection], overlap: float) -> list[Detection]:
    """Greedy non-maximum suppression by descending score; ``overlap`` as in ``hull_overlap``."""
    kept: list[Detection] = []
    for found in sorted(detections, key=lambda d: -d.score):
        if not kept or float(hull_overlap(found.box, [k.box for k in kept]).max()) <= overlap:
            kept.append(found)
    return kept
