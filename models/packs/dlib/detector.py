"""The mmod face detector on separate pyramid levels."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import onnxruntime as ort

from models.detect import thin
from models.runtime import loud, shrinking
from models.types import Box, Detection, RgbImage

WINDOW: Final = 80
"""Side in pixels of the box that the network looks for on one level."""

STRIDE: Final = 8
CELL_ORIGIN: Final = 14
"""Output cell (c, r) stands for the window whose centre is pixel (8 c + 14, 8 r + 14).

Of its 80 pixels dlib puts 39 before that pixel and 40 after it.
"""

NMS_OVERLAP: Final = 0.3382761351109955
"""From the model file: boxes that overlap more are the same face."""

MEAN_COLOUR: Final = (123, 117, 104)
"""What surrounds a level: the mean colour, which is 0 to the network."""


def level_scales(width: int, height: int, finest: float, step: float) -> list[float]:
    """The scales at which an image is searched, finest first.

    The last level is the one on which a face as large as the whole image fits the window.
    """
    scales = []
    scale = finest
    longest = max(width, height)
    while True:
        scales.append(scale)
        if longest * scale <= WINDOW * 1.1:
            return scales
        scale *= step


class MmodDetector:
    """Upright faces of one image; thread-safe.

    ``step`` is the ratio between neighbouring levels. ``border`` is the width in pixels of the
    mean colour around each level, so that faces cut by the edge of the image can be found; as
    11 + 8 n it puts the cells where dlib has them.
    """

    def __init__(
        self, session: ort.InferenceSession, *, step: float = 0.68, border: int = 43
    ) -> None:
        self._session = session
        # Levels come in every size.
        self._run_options = shrinking(session)
        self._step = step
        self._border = border

    def detect(self, image: RgbImage, finest: float, threshold: float = 0.0) -> list[Detection]:
        """Faces whose side is at least about 70 / ``finest`` pixels, best score first."""
        height, width = image.shape[:2]
        found: list[Detection] = []
        source = image
        for scale in level_scales(width, height, finest, self._step):
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            shrinks = size[0] < source.shape[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            level = np.asarray(cv2.resize(source, size, interpolation=how), dtype=np.uint8)
            if shrinks or scale <= 1.0:
                source = level
            found += self._level(level, width / size[0], height / size[1], threshold)
        return thin(found, NMS_OVERLAP)

    def _level(
        self, level: RgbImage, grow_x: float, grow_y: float, threshold: float
    ) -> list[Detection]:
        border = self._border
        canvas = cv2.copyMakeBorder(
            level, border, border, border, border, cv2.BORDER_CONSTANT, value=MEAN_COLOUR
        )
        pixels = {"pixels": np.asarray(canvas)[None]}
        with loud(self._session):
            scores = self._session.run(["scores"], pixels, self._run_options)[0][0]
        rows, columns = np.nonzero(scores > threshold)
        return [
            Detection(
                Box(
                    float((column * STRIDE + CELL_ORIGIN - border - WINDOW / 2 + 1) * grow_x),
                    float((row * STRIDE + CELL_ORIGIN - border - WINDOW / 2 + 1) * grow_y),
                    float(WINDOW * grow_x),
                    float(WINDOW * grow_y),
                ),
                float(scores[row, column]),
            )
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
