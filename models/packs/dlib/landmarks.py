"""Five landmarks from regression trees, for many faces at once, in NumPy.

The method is Kazemi and Sullivan, "One millisecond face alignment with an ensemble of regression
trees", CVPR 2014, as dlib's ``shape_predictor`` runs it: 15 cascades of 500 trees of depth 4, each
node comparing two grey pixels whose places move with the current estimate of the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.packs.dlib.format import ShapePredictor
from models.types import Box, FloatArray, RgbImage

_DEPTH: Final = 4


def grey(image: RgbImage) -> NDArray[np.uint8]:
    """dlib's grey value, (red + green + blue) // 3; uint8 of shape (height, width)."""
    total = image.sum(axis=2, dtype=np.uint16)
    return np.asarray(total // 3, dtype=np.uint8)


def _rotation_and_scale(initial: FloatArray, shapes: FloatArray) -> FloatArray:
    """Least-squares similarity from ``initial`` (5, 2) to each of ``shapes`` (F, 5, 2).

    Returns the linear parts, float32 (F, 2, 2). In the plane the least-squares similarity has a
    closed form: with centred points as complex numbers it is sum(conj(a) b) / sum(|a|^2).
    """
    a = initial - initial.mean(axis=0)
    b = shapes - shapes.mean(axis=1, keepdims=True)
    norm = float((a * a).sum())
    real = (a[None] * b).sum(axis=(1, 2)) / norm
    imag = (a[None, :, 0] * b[:, :, 1] - a[None, :, 1] * b[:, :, 0]).sum(axis=1) / norm
    linear = np.empty((len(shapes), 2, 2), dtype=np.float32)
    linear[:, 0, 0] = linear[:, 1, 1] = real
    linear[:, 0, 1], linear[:, 1, 0] = -imag, imag
    return linear


def predict(
    trees: ShapePredictor, greys: Sequence[NDArray[np.uint8]], boxes: Sequence[Box]
) -> FloatArray:
    """Landmarks of F faces: float32 (F, 5, 2), in pixels of each face's own image.

    ``greys[i]`` is the grey image (see ``grey``) in which ``boxes[i]`` lies. Pixels outside an
    image count as 0, as in dlib.
    """
    count = len(boxes)
    if count == 0:
        return np.empty((0, 5, 2), dtype=np.float32)
    origin = np.array([[b.x, b.y] for b in boxes], dtype=np.float32)
    extent = np.array([[b.width - 1, b.height - 1] for b in boxes], dtype=np.float32)
    shapes = np.repeat(trees.initial[None], count, axis=0)
    values = np.empty((count, trees.anchor.shape[1]), dtype=np.float32)
    tree_range = np.arange(trees.first.shape[1])
    faces = np.arange(count)[:, None]
    for cascade in range(len(trees.anchor)):
        linear = _rotation_and_scale(trees.initial, shapes)
        offsets = np.einsum("fij,pj->fpi", linear, trees.delta[cascade])
        places = (offsets + shapes[:, trees.anchor[cascade]]) * extent[:, None] + origin[:, None]
        pixels = np.floor(places + 0.5).astype(np.int64)
        for face, image in enumerate(greys):
            height, width = image.shape
            x, y = pixels[face, :, 0], pixels[face, :, 1]
            inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
            values[face] = np.where(
                inside, image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], 0
            )
        node = np.zeros((count, len(tree_range)), dtype=np.int64)
        for _ in range(_DEPTH):
            left = values[faces, trees.first[cascade][tree_range, node]]
            right = values[faces, trees.second[cascade][tree_range, node]]
            brighter = left - right > trees.threshold[cascade][tree_range, node]
            node = 2 * node + np.where(brighter, 1, 2)
        leaf = node - (2**_DEPTH - 1)
        step = trees.leaves[cascade][tree_range, leaf].sum(axis=1, dtype=np.float32)
        shapes = shapes + step.reshape(count, -1, 2)
    return (shapes * extent[:, None] + origin[:, None]).astype(np.float32)
