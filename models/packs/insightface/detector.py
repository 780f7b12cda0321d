"""Faces and their five points through insightface's own ``SCRFD`` and ``Landmark``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime as ort
from insightface.app.common import Face
from insightface.model_zoo import SCRFD, Landmark

from models.packs.insightface.package import Package, Scaling
from models.types import Box, Detection, FloatArray, Landmarks, RgbImage

SIZES: Final = (128, 256, 384, 512, 640, 896, 1280, 1792, 2560)
"""Sides in pixels of the square inputs that are ever used, so that a session sees few shapes.

All are multiples of 128, the largest stride of an SCRFD detector. Memory and time grow with the
square: at 2560 a detector that takes 10 GFLOP at 640 takes 160.
"""

SHARE: Final = 0.5
"""Input pixels per pixel of the finest level asked for. That level is counted in a detector's own
pixels, and ``models.find`` counts on faces of 80 of them; SCRFD was trained on WIDER FACE down to
a few pixels and needs far fewer. At one half, a first look at an ordinary picture comes out at 640
(insightface's own default) and a finer look at twice that."""

_SLACK: Final = 0.9
"""A size this much below what was asked for will do; else the next larger one is taken."""

_COARSE: Final = (128, 640)
"""Faces that fill the frame are larger than SCRFD's largest anchors (512 pixels): the picture is
also looked at this small, with one suppression of overlaps, as insightface 2 does by default."""

_SHRINK: Final = 2.5
"""The same for a detector of one fixed size: the picture in a corner of an empty one."""

_NARROWEST: Final = 1 / 64
"""A picture with a smaller share of width to height, or the other way round, is padded with black:
its short side would have no pixel left in a small input."""

FIVE_OF_106: Final = (38, 88, 86, 52, 61)
"""Pupils, tip of the nose and corners of the mouth in the order of insightface's ``2d106det``
(the picture ``2d106markup`` of its ``alignment/coordinate_reg``)."""


def input_sizes(height: int, width: int, finest: float) -> list[int]:
    """Sides of the square inputs for a picture of ``height`` x ``width``, ascending.

    ``finest`` is the scale of the finest level, as in ``FacePack.detect``.
    """
    wanted = max(height, width) * finest * SHARE * _SLACK
    side = next((size for size in SIZES if size >= wanted), SIZES[-1])
    return sorted({side, *(size for size in _COARSE if size < side)})


class Detector:
    """Safe to share between threads: nothing in ``SCRFD`` changes but two caches that only grow,
    and those are bounded by ``SIZES``. ``graph``: a file with the nodes and inputs of the model,
    read once."""

    def __init__(self, package: Package, session: ort.InferenceSession, graph: Path) -> None:
        # Without static_shape_sessions=False, SCRFD opens one more session for each input size.
        self._scrfd = SCRFD(str(graph), session, static_shape_sessions=False)
        scale_pixels(self._scrfd, package.detector_scaling, session)
        self._fixed = package.detector_size

    @property
    def preprocessing(self) -> str:
        return preprocessing(self._scrfd)

    @property
    def looks(self) -> str:
        """How pictures are looked at, in words for the contract."""
        nms = f"overlap {self._scrfd.nms_thresh}"
        if self._fixed is not None:
            return f"{self._fixed[0]} x {self._fixed[1]} and 1/{_SHRINK} of it, {nms}"
        return f"{SIZES} x {SHARE}, with {_COARSE}, {nms}"

    def detect(self, image: RgbImage, finest: float, threshold: float) -> list[Detection]:
        """As ``FacePack.detect``; with landmarks where the detector gives key points.

        A detector of one fixed size looks at that size, whatever ``finest`` is.
        """
        pixels = bgr(_not_too_narrow(image))
        if self._fixed is None:
            height, width = image.shape[:2]
            sides = input_sizes(height, width, finest)
            boxes, points = self._scrfd.detect(
                pixels, input_size=[(side, side) for side in sides], det_thresh=threshold
            )
        else:
            boxes, points = self._detect_fixed(pixels, self._fixed, threshold)
        found = []
        for at, (x0, y0, x1, y1, score) in enumerate(boxes.astype(np.float64).tolist()):
            marks = None if points is None else np.asarray(points[at], dtype=np.float32)
            # A damaged model can give anything; what is no box in the plane is no face.
            if not (x1 > x0 and y1 > y0 and score > threshold and np.isfinite(boxes[at]).all()):
                continue
            if marks is not None and not np.isfinite(marks).all():
                continue
            landmarks = None if marks is None else Landmarks(marks, "insightface5")
            found.append(Detection(Box(x0, y0, x1 - x0, y1 - y0), score, landmarks=landmarks))
        return found

    def _detect_fixed(
        self, pixels: RgbImage, size: tuple[int, int], threshold: float
    ) -> tuple[FloatArray, FloatArray | None]:
        """Boxes (n, 5) and points (n, 5, 2) of two looks at one size, overlaps suppressed once."""
        width, height = size
        boxes, points = self._scrfd.detect(pixels, det_thresh=threshold)
        shrink = min(width / pixels.shape[1], height / pixels.shape[0]) / _SHRINK
        small = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        canvas = np.zeros((height, width, 3), dtype=np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        large, their_points = self._scrfd.detect(canvas, det_thresh=threshold)
        back = (pixels.shape[1] / small.shape[1], pixels.shape[0] / small.shape[0])
        large[:, :4] *= (*back, *back)
        boxes = np.concatenate([boxes, large])
        order = np.argsort(-boxes[:, 4], kind="stable")
        kept = order[self._scrfd.nms(boxes[order])]
        if points is None or their_points is None:
            return boxes[kept], None
        return boxes[kept], np.concatenate([points, their_points * back])[kept]


class FivePoints:
    """Five points of a detected face by the 106-point model; safe to share between threads."""

    def __init__(self, session: ort.InferenceSession, graph: Path) -> None:
        self._model = Landmark(str(graph), session)

    @property
    def preprocessing(self) -> str:
        return preprocessing(self._model)

    def find(self, images: Sequence[RgbImage], boxes: Sequence[Box]) -> list[Landmarks]:
        """The points of each box in the image at the same place of ``images``."""
        each = {id(image): image for image in images}
        pixels = {key: bgr(image) for key, image in each.items()}
        return [
            Landmarks(self._find_one(pixels[id(image)], box), "insightface5")
            for image, box in zip(images, boxes, strict=True)
        ]

    def _find_one(self, pixels: RgbImage, box: Box) -> FloatArray:
        # Landmark.get writes what it found into the face it is given: one of its own each time.
        edges = np.array([box.x, box.y, box.right, box.bottom], dtype=np.float32)
        points = self._model.get(pixels, Face(bbox=edges))
        return np.asarray(points[list(FIVE_OF_106)], dtype=np.float32)


def scale_pixels(model: SCRFD, scaling: Scaling | None, session: ort.InferenceSession) -> None:
    """Tell one of insightface's models how a manifest wants its pixels.

    The same that ``insightface.model_zoo`` does for a session that it opens itself.
    """
    if scaling is not None:
        model.input_mean, model.input_std = scaling.mean, scaling.std
        whole = session.get_inputs()[0].type == "tensor(uint8)"
        model.input_dtype = np.uint8 if whole else np.float32


def preprocessing(model: SCRFD) -> str:
    """How a model of insightface takes pixels, in words for the contract."""
    kind = np.dtype(getattr(model, "input_dtype", np.float32)).name
    return f"RGB, (pixel - {model.input_mean}) / {model.input_std}, {kind}"


def bgr(image: RgbImage) -> RgbImage:
    """The picture in the order of channels that insightface takes."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), dtype=np.uint8)


def _not_too_narrow(image: RgbImage) -> RgbImage:
    height, width = image.shape[:2]
    down = max(0, int(np.ceil(width * _NARROWEST)) - height)
    right = max(0, int(np.ceil(height * _NARROWEST)) - width)
    if not down and not right:
        return image
    return np.pad(image, ((0, down), (0, right), (0, 0)))
