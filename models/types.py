"""The values that pass between the stages: pixels, boxes, landmarks, faces, embeddings.

All coordinates are pixels of the *upright* image (orientation already applied),
x to the right and y down, with the centre of the top-left pixel at (0, 0).
All images are ``uint8`` arrays of shape (height, width, 3) in **RGB** order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]
"""Shape (height, width, 3), uint8, RGB."""

FloatArray = NDArray[np.float32]

LandmarkScheme = Literal["dlib5", "insightface5"]
"""Which five points, in which order.

``dlib5``: outer and inner corner of the eye on the right side of the picture, outer and
inner corner of the eye on its left side, base of the nose.
``insightface5``: left eye, right eye, nose tip, left and right corner of the mouth
(left and right as seen in the picture).
"""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle in pixels; it may reach beyond the image."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """``points``: float32 array of shape (5, 2), columns x and y, in the order of ``scheme``."""

    points: FloatArray
    scheme: LandmarkScheme


@dataclass(frozen=True, slots=True)
class Detection:
    """One face as the detector found it.

    ``score`` is the detector's own figure: larger is surer, its unit differs between packs.
    ``turn`` is the number of counter-clockwise quarter turns of the image that bring the face
    upright (0 for an upright face).
    """

    box: Box
    score: float
    turn: int = 0
    landmarks: Landmarks | None = None


@dataclass(frozen=True, slots=True)
class QualityComponent:
    """One measured property of a face, with its unit.

    ``reason`` is a sentence for the investigator when the property limits the comparison,
    otherwise ``None``. ``score`` maps ``value`` to [0, 1], 1 being no limit at all.
    """

    name: str
    value: float
    unit: str
    score: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a face can be compared: ``score`` in [0, 1] and the components behind it."""

    score: float
    components: tuple[QualityComponent, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(c.reason for c in self.components if c.reason is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """``vector``: float32 (dimension,), L2-normalised; ``contract_id`` says what made it."""

    vector: FloatArray
    contract_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one image, as ``models.pipeline.analyse`` returns it."""

    box: Box
    detection_score: float
    turn: int
    landmarks: Landmarks
    quality: Quality
    embedding: Embedding


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """Pixels of one image and what was noted while decoding it.

    ``format`` is what the bytes are (``"jpeg"``, ``"png"``, ``"webp"``, ``"avif"``, ``"heic"``,
    ``"gif"``, ``"bmp"``, ``"tiff"``), whatever the name said. ``width`` and ``height`` are those
    of ``pixels`` (upright). ``notes`` are short stable codes such as ``"trailing_data"``,
    ``"animated"`` or ``"truncated"``.
    """

    pixels: RgbImage
    format: str
    width: int
    height: int
    truncated: bool = False
    notes: tuple[str, ...] = field(default=())
