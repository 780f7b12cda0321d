"""Aligned face crops: a similarity transform from landmarks to a canonical face."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray, Landmarks, LandmarkScheme, RgbImage

_DLIB5: Final = np.array(
    [
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    ],
    dtype=np.float64,
)
"""dlib's mean face, in the unit square of a chip without padding (``get_face_chip_details``)."""

_ARCFACE5: Final = (
    np.array(
        [
            (38.2946, 51.6963),
            (73.5318, 51.5014),
            (56.0252, 71.7366),
            (41.5493, 92.3655),
            (70.7299, 92.2041),
        ],
        dtype=np.float64,
    )
    / 112.0
)
"""The usual ArcFace template for a 112 x 112 crop, as a share of its side."""

_DLIB_PADDING: Final = 0.25

_COLLAPSED: Final = 1e-9
"""Landmarks whose transform shrinks the image to less than this area are no face."""


def canonical_points(scheme: LandmarkScheme, size: int) -> NDArray[np.float64]:
    """Where the landmarks belong in an aligned crop of ``size`` x ``size`` pixels: (5, 2).

    For ``dlib5`` the chip has the padding of 0.25 that dlib's recogniser was trained with, and
    half a pixel is taken off because dlib puts the chip's corners, not its pixels' centres, there.
    """
    if scheme == "dlib5":
        return (_DLIB5 + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING) * size - 0.5
    return _ARCFACE5 * size


def similarity(
    source: FloatArray | NDArray[np.float64], target: FloatArray | NDArray[np.float64]
) -> NDArray[np.float64]:
    """The least-squares similarity transform from ``source`` to ``target``, both (n, 2).

    Returns a (2, 3) float64 matrix for ``cv2.warpAffine``. Umeyama, "Least-squares estimation of
    transformation parameters between two point patterns", IEEE PAMI 13(4), 1991; in the plane and
    without reflection it has the closed form used here.
    """
    src = np.asarray(source, dtype=np.float64)
    src_mean, dst_mean = src.mean(axis=0), target.mean(axis=0)
    a, b = src - src_mean, target - dst_mean
    norm = max(float((a * a).sum()), 1e-12)
    real = float((a * b).sum()) / norm
    imag = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / norm
    linear = np.array([[real, -imag], [imag, real]])
    return np.column_stack([linear, dst_mean - linear @ src_mean])


def aligned_crop(
    image: RgbImage, landmarks: Landmarks, size: int, *, scale: float = 1.0
) -> RgbImage:
    """The face turned upright in a ``size`` x ``size`` crop: uint8 RGB (size, size, 3).

    Parts outside the image are black, and so is the crop of landmarks that fall into one point.
    Where the face is more than twice too large, the image part is shrunk by averaging first, so
    that no detail aliases. ``scale`` above 1 shows more around the face.
    """
    target = canonical_points(landmarks.scheme, size)
    if scale != 1.0:
        middle = (size - 1) / 2
        target = (target - middle) / scale + middle
    matrix = _to_crop(landmarks, target)
    if not abs(np.linalg.det(matrix[:, :2])) > _COLLAPSED:
        return np.zeros((size, size, 3), dtype=np.uint8)
    zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    part, offset = _region(image, matrix, size)
    if part.size == 0:
        return np.zeros((size, size, 3), dtype=np.uint8)
    matrix[:, 2] += matrix[:, :2] @ offset
    if zoom < 0.5:
        height, width = part.shape[:2]
        new = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        part = np.asarray(cv2.resize(part, new, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        grow_x, grow_y = width / new[0], height / new[1]
        # Pixel centres: x_old = (x_new + 0.5) * grow - 0.5
        matrix[:, 2] += matrix[:, :2] @ np.array([0.5 * grow_x - 0.5, 0.5 * grow_y - 0.5])
        matrix[:, 0] *= grow_x
        matrix[:, 1] *= grow_y
    crop = cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)


def _to_crop(landmarks: Landmarks, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transform from the image to the crop, (2, 3), as each scheme's own library fits it.

    Both fit in the least-squares sense, but dlib from the crop to the image (its
    ``chip_details``) and insightface from the image to the crop; where a turned head does not fit
    exactly, the two differ in scale.
    """
    if landmarks.scheme == "insightface5":
        return similarity(landmarks.points, target)
    return np.asarray(cv2.invertAffineTransform(similarity(target, landmarks.points)))


def _region(
    image: RgbImage, matrix: NDArray[np.float64], size: int
) -> tuple[RgbImage, NDArray[np.float64]]:
    """The part of the image that the crop looks at, and its top-left corner (x, y)."""
    inverse = np.linalg.inv(matrix[:, :2])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
    seen = (corners - matrix[:, 2]) @ inverse.T
    height, width = image.shape[:2]
    margin = 4
    left, top = np.clip(np.floor(seen.min(axis=0)) - margin, 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(seen.max(axis=0)) + margin, 0, [width, height]).astype(int)
    return image[top:bottom, left:right], np.array([left, top], dtype=np.float64)
