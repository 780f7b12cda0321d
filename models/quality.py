"""How well a face can be compared, measured property by property.

Each measure is simple enough to explain in court; none of them changes the pixels, and none makes
a face disappear: a poor face stays in the gallery and says why it is poor. The properties follow
the list of ISO/IEC 29794-5 (face image quality) as far as five landmarks allow. The limits were
set so that the score falls on the degraded photos on which searches miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import canonical_points, similarity
from models.types import Box, Landmarks, Quality, QualityComponent, RgbImage

_LIMITING: Final = 0.5
"""A component whose score is below this limits the comparison and says so."""

RATE_LIMITS: Final[Mapping[str, float]] = {
    "sharpness": _LIMITING,
    "exposure": _LIMITING,
    "clarity": 0.99,
}
"""Components whose score below this makes a face one that rates of clear photos do not hold for.

Measured on the default pack's photos, degraded in nine ways (``docs/accuracy.md``, "Rates on poor
photos"): strangers are alike where both faces are blurred, burnt out or covered. The clarity of a
clear face is 1, of 1 in 1,000 clear photos below .99; 30 % of the faces behind a bar and 14 % of
those behind a mask fall below .5, 96 % and 77 % below .99. Small faces, little contrast and strong
compression raise rates no more than poor photos do on average."""


def outside_rates(quality: Quality | None) -> tuple[str, ...]:
    """Which of ``RATE_LIMITS`` a face falls short of; what is not known falls short of nothing."""
    parts = () if quality is None else quality.components
    return tuple(c.name for c in parts if c.score < RATE_LIMITS.get(c.name, 0.0))


def limited_of(photo: Quality | None, face: Quality | None) -> int:
    """How many of the two faces that were compared, 0 to 2, fall short of ``RATE_LIMITS``: that in
    the nearest photo of the person, and that in the ad."""
    return sum(bool(outside_rates(quality)) for quality in (photo, face))


def assess(
    image: RgbImage, box: Box, landmarks: Landmarks, chip: RgbImage, clarity: float = 1.0
) -> Quality:
    """Measure one face.

    ``image``: the photo, uint8 RGB; ``box`` and ``landmarks`` in its pixels; ``chip``: the aligned
    crop of the face; ``clarity``: how sure the detector is, 0 (doubtful) to 1 (as for any clear
    face). The overall score is the product of the components' scores.
    """
    luma = np.asarray(cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    inner = _inner(luma)
    components = (
        _size(landmarks, chip.shape[0]),
        _sharpness(inner),
        _exposure(inner),
        _contrast(inner),
        _pose(landmarks),
        _compression(image, box),
        _completeness(image, box),
        _clarity(clarity),
    )
    score = float(np.prod([c.score for c in components]))
    return Quality(score, components)


def _ramp(value: float, bad: float, good: float) -> float:
    """0 at ``bad``, 1 at ``good``, straight between, whichever is larger."""
    return float(np.clip((value - bad) / (good - bad), 0.0, 1.0))


def _component(name: str, value: float, unit: str, score: float, reason: str) -> QualityComponent:
    return QualityComponent(
        name, round(value, 3), unit, round(score, 3), reason if score < _LIMITING else None
    )


def _inner(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of the chip, where the face is and the background is not."""
    side = luma.shape[0]
    return luma[side // 4 : side - side // 6, side // 5 : side - side // 5]


def _size(landmarks: Landmarks, chip_size: int) -> QualityComponent:
    """Width of the face in pixels of the photo (two thirds of the width of the aligned crop)."""
    matrix = similarity(landmarks.points, canonical_points(landmarks.scheme, chip_size))
    zoom = max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-6)
    width = chip_size / 1.5 / zoom
    return _component(
        "size",
        width,
        "px",
        0.1 + 0.9 * _ramp(width, 15, 60),
        "The face is small; fine features cannot be compared.",
    )


def _sharpness(inner: NDArray[np.uint8]) -> QualityComponent:
    """Energy of the Laplacian over the variance of the grey values, as a percentage.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000, normalised so
    that a low-contrast face is not taken for a blurred one.
    """
    grey = inner.astype(np.float32)
    laplacian = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 0.8), cv2.CV_32F)
    value = 100.0 * float(laplacian.var()) / (float(grey.var()) + 25.0)
    return _component(
        "sharpness",
        value,
        "% of the grey variance",
        0.1 + 0.9 * _ramp(value, 0.1, 1.0),
        "The face is blurred or was enlarged; edges and texture are missing.",
    )


def _exposure(inner: NDArray[np.uint8]) -> QualityComponent:
    """Share of the face's pixels that are neither black (< 20) nor white (> 245), in percent."""
    usable = 100.0 * float(((inner >= 20) & (inner <= 245)).mean())
    dark = float(inner.mean()) < 110
    return _component(
        "exposure",
        usable,
        "% of pixels",
        0.1 + 0.9 * _ramp(usable, 40, 90),
        "Much of the face is black." if dark else "Much of the face is burnt out to white.",
    )


def _contrast(inner: NDArray[np.uint8]) -> QualityComponent:
    """Standard deviation of the face's grey values, in grey levels of 0 to 255."""
    value = float(inner.std())
    return _component(
        "contrast",
        value,
        "grey levels",
        0.1 + 0.9 * _ramp(value, 4, 22),
        "The face has very little contrast.",
    )


def _pose(landmarks: Landmarks) -> QualityComponent:
    """Where the nose stands between the eyes: 0 in the middle, 50 under an eye, in percent.

    Measured along the line of the eyes as a share of their distance. It grows as the head turns
    to the side; it is no angle, because five points cannot tell one.
    """
    points = landmarks.points.astype(np.float64)
    if landmarks.scheme == "dlib5":
        right, left, nose = points[0:2].mean(axis=0), points[2:4].mean(axis=0), points[4]
    else:
        left, right, nose = points[0], points[1], points[2]
    line = right - left
    length = max(float(np.hypot(*line)), 1e-6)
    value = 100.0 * abs(float((nose - (left + right) / 2) @ line) / length**2)
    return _component(
        "pose",
        value,
        "% of the eye distance",
        0.1 + 0.9 * _ramp(value, 60, 20),
        "The head is turned to the side.",
    )


def _compression(image: RgbImage, box: Box) -> QualityComponent:
    """How much stronger steps are on the 8-pixel grid of JPEG than beside it, as a ratio.

    Wang, Bovik and Evans, "Blind measurement of blocking artifacts in images", ICIP 2000, in its
    simplest form: mean absolute step across block borders over the mean of all other steps.
    """
    height, width = image.shape[:2]
    left, right = max(0, int(box.x)), min(width, int(box.right))
    top, bottom = max(0, int(box.y)), min(height, int(box.bottom))
    part = image[top:bottom, left:right]
    if part.shape[0] < 24 or part.shape[1] < 24:
        value = 1.0
    else:
        grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32)
        ratios = []
        for steps, start in (
            (np.abs(np.diff(grey, axis=1)).mean(axis=0), left),
            (np.abs(np.diff(grey, axis=0)).mean(axis=1), top),
        ):
            on_grid = (np.arange(len(steps)) + start) % 8 == 7
            beside = float(steps[~on_grid].mean())
            ratios.append((float(steps[on_grid].mean()) + 0.5) / (beside + 0.5))
        value = float(np.mean(ratios))
    return _component(
        "compression",
        value,
        "ratio",
        0.1 + 0.9 * _ramp(value, 3.0, 1.5),
        "Strong compression has replaced fine features by blocks.",
    )


def _completeness(image: RgbImage, box: Box) -> QualityComponent:
    """Share of the face's box that lies inside the photo, in percent."""
    height, width = image.shape[:2]
    seen_x = max(0.0, min(width, box.right) - max(0.0, box.x))
    seen_y = max(0.0, min(height, box.bottom) - max(0.0, box.y))
    value = 100.0 * seen_x * seen_y / max(box.area, 1e-6)
    return _component(
        "completeness",
        value,
        "% of the box",
        0.1 + 0.9 * _ramp(value, 40, 90),
        "Part of the face lies outside the picture.",
    )


def _clarity(clarity: float) -> QualityComponent:
    """How sure the detector is of the face, in percent of the way from doubtful to clear.

    The honest stand-in for a measure of occlusion: bars, masks and watermarks lower it, and so do
    over-exposure and heavy blur. What exactly hides the face it cannot tell.
    """
    return _component(
        "clarity",
        100.0 * float(np.clip(clarity, 0.0, 1.0)),
        "% of a clear face",
        0.1 + 0.9 * _ramp(clarity, 0.0, 1.0),
        "The face is partly covered or hard to make out.",
    )
