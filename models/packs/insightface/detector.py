"""Faces and their five points through insightface's own ``SCRFD`` and ``Landmark``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime as ort
from insightface.app.common import Face
from insightface.model_zoo import SCRFD, Landmark
from numpy.typing import NDArray

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

_LONG: Final = 2.5
"""A picture is long where its sides differ by more than this. In a square of at most 2560 pixels
its short side has less than half of what was asked for; so it is cut into tiles instead."""

_SEEN_WHOLE: Final = 32
"""Faces of this many pixels in a look at the whole picture need not fit into a tile: SCRFD finds
far smaller ones (``SHARE``)."""

_HEIGHT: Final = 1.4
"""The length of a face that is as wide as a long picture, in widths; none is longer."""

_AT_EDGE: Final = 2.0
"""A box that ends this near to the cut edge of a tile, in pixels of the input, is a part of a face
that the next tile holds as a whole."""

_LARGE: Final = 256
"""Where a tile may hold faces of more pixels of the input than this, half of SCRFD's largest
anchors, it is looked at coarsely as well."""

_SHRINK: Final = 2.5
"""The same for a detector of one fixed size: the picture in a corner of an empty one."""

_NARROWEST: Final = 1 / 64
"""A picture with a smaller share of width to height, or the other way round, is padded with black:
its short side would have no pixel left in a small input."""

_Found = tuple[FloatArray, FloatArray | None]
"""Boxes with scores (n, 5) and points (n, 5, 2), where the detector gives any."""

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


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a long picture is looked at: as a whole, and finely in tiles along its long side.

    ``whole``, ``sides``: sides in pixels of the square inputs for the whole and for each tile.
    ``starts``: where each tile begins on the long side; ``length``: its extent there, both in
    pixels of the picture. ``edge``: see ``_AT_EDGE``, in pixels of the picture.
    """

    whole: tuple[int, ...]
    sides: tuple[int, ...]
    starts: tuple[int, ...]
    length: int
    edge: float

    def holds(self, start: int, low: FloatArray, high: FloatArray) -> NDArray[np.bool_]:
        """Which boxes from ``low`` to ``high``, (n,), in the tile at ``start`` end inside it, and
        not at an edge where the picture goes on."""
        first = start == self.starts[0]
        last = start == self.starts[-1]
        inside = first | (low > self.edge)
        return np.asarray(inside & (last | (high < self.length - self.edge)), dtype=np.bool_)


def tiles(height: int, width: int, finest: float) -> Tiles | None:
    """The tiles for a picture of ``height`` x ``width``; ``None`` where one square does.

    Any face lies in one tile as a whole or is seen in the look at the whole picture: tiles overlap
    by the largest face that is too small for that look.
    """
    short, long = sorted((height, width))
    scale = finest * SHARE
    if long <= short * _LONG or long * scale * _SLACK <= SIZES[-1]:
        return None
    edge = _AT_EDGE / scale
    # As large a look at the whole as at a tile: it costs little more, and tiles overlap less.
    whole = sorted({*_COARSE, max(_COARSE[-1], input_sizes(short, 2 * short, finest)[-1])})
    overlap = min(long * _SEEN_WHOLE / whole[-1], short * _HEIGHT) + 2 * edge
    length = min(long, int(np.ceil(short + overlap)))
    sides = input_sizes(short, length, finest)
    taken = sides[-1] / length
    step = length - overlap
    count = 1 + int(np.ceil((long - length) / step))
    starts = np.linspace(0, long - length, count).round().astype(int)
    return Tiles(
        whole=tuple(whole),
        sides=tuple(sides) if overlap * taken > _LARGE else (sides[-1],),
        starts=tuple(starts.tolist()),
        length=length,
        edge=edge,
    )


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
        tiled = f"tiles over {SIZES[-1]} from {_LONG}, {_SEEN_WHOLE} x {_HEIGHT}"
        return f"{SIZES} x {SHARE}, with {_COARSE}, {tiled}, {nms}"

    def detect(self, image: RgbImage, finest: float, threshold: float) -> list[Detection]:
        """As ``FacePack.detect``; with landmarks where the detector gives key points.

        A detector of one fixed size looks at that size, whatever ``finest`` is. Any other looks at
        a long picture in tiles (:func:`tiles`).
        """
        pixels = bgr(_not_too_narrow(image))
        height, width = image.shape[:2]
        if self._fixed is not None:
            boxes, points = self._detect_fixed(pixels, self._fixed, threshold)
        elif (plan := tiles(height, width, finest)) is not None:
            boxes, points = self._detect_long(pixels, plan, threshold)
        else:
            boxes, points = self._look(pixels, input_sizes(height, width, finest), threshold)
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

    def _detect_fixed(self, pixels: RgbImage, size: tuple[int, int], threshold: float) -> _Found:
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
        if their_points is not None:
            their_points = their_points * back
        return self._thinned([(boxes, points), (large, their_points)])

    def _look(self, pixels: RgbImage, sides: Sequence[int], threshold: float) -> _Found:
        found: _Found = self._scrfd.detect(
            pixels, input_size=[(side, side) for side in sides], det_thresh=threshold
        )
        return found

    def _detect_long(self, pixels: RgbImage, plan: Tiles, threshold: float) -> _Found:
        """As :meth:`_look`, in tiles along the longer side, overlaps suppressed once over all."""
        upright = pixels.shape[0] >= pixels.shape[1]
        looks = [self._look(pixels, plan.whole, threshold)]
        for start in plan.starts:
            stop = start + plan.length
            tile = pixels[start:stop] if upright else pixels[:, start:stop]
            boxes, points = self._look(np.ascontiguousarray(tile), plan.sides, threshold)
            along = int(upright)
            whole = plan.holds(start, boxes[:, along], boxes[:, along + 2])
            shift = np.array([0, start] if upright else [start, 0], dtype=np.float32)
            boxes[:, :4] += np.tile(shift, 2)
            looks.append((boxes[whole], None if points is None else points[whole] + shift))
        return self._thinned(looks)

    def _thinned(self, looks: Sequence[_Found]) -> _Found:
        """What several looks at one picture found, best first, overlaps suppressed once."""
        boxes = np.concatenate([found for found, _ in looks])
        order = np.argsort(-boxes[:, 4], kind="stable")
        kept = order[self._scrfd.nms(boxes[order])]
        marks = [points for _, points in looks if points is not None]
        return boxes[kept], np.concatenate(marks)[kept] if len(marks) == len(looks) else None


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
