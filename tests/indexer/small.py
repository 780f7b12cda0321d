"""A small analyser for pictures that the tests draw: every coloured block is a face.

Real bytes are decoded and real vectors compared; only the networks are replaced, because these
tests are about what is kept, not about who looks like whom. Red and green of a block say which
person it is, blue is the photo: the same person in two photos scores about 0.8, two people
about 0. Bright greys are background, in a pattern that follows from the blocks: two pictures with
other blocks are no near-duplicates of each other, unless they are drawn on the same scene.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from models.types import (
    Box,
    Embedding,
    Face,
    FloatArray,
    Landmarks,
    Quality,
    QualityComponent,
    RgbImage,
)

DIMENSION = 32
CONTRACT = "small-0123456789ab"
BACKGROUND = 121
"""Greys from here on are no face; blocks have a darker red and green."""
POISON = (255, 0, 255)
"""A block of this colour makes the analysis fail."""

Colour = tuple[int, int, int]
Block = tuple[int, int, int, Colour]
"""x, y, side in pixels, colour."""


class SmallAnalyser:
    def __init__(self, contract_id: str = CONTRACT) -> None:
        self.contract_id = contract_id
        self.dimension = DIMENSION
        self.images = 0
        self.largest_batch = 0
        self._lock = threading.Lock()

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        with self._lock:
            self.images += len(images)
            self.largest_batch = max(self.largest_batch, len(images))
        return [self._faces(image) for image in images]

    def crop(self, image: RgbImage, landmarks: Landmarks, size: int = 224) -> RgbImage:
        x, y = landmarks.points.min(axis=0).astype(int)
        right, bottom = landmarks.points.max(axis=0).astype(int)
        part = np.ascontiguousarray(image[y : bottom + 1, x : right + 1])
        return np.asarray(cv2.resize(part, (size, size)), dtype=np.uint8)

    def _faces(self, image: RgbImage) -> list[Face]:
        plain = (image.max(axis=2) == image.min(axis=2)) & (image[..., 0] >= BACKGROUND)
        mask = (~plain).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        faces = []
        for x, y, width, height, _ in stats[1:count]:
            red, green, blue = (int(v) for v in image[y + height // 2, x + width // 2])
            colour = (red, green, blue)
            if colour == POISON:
                raise RuntimeError("the network fell over")
            corners = [[x, y], [x + width, y], [x, y + height], [x + width, y + height]]
            points = np.array([*corners, [x + width / 2, y + height / 2]], np.float32)
            faces.append(
                Face(
                    box=Box(float(x), float(y), float(width), float(height)),
                    detection_score=1.5,
                    turn=0,
                    landmarks=Landmarks(points, "dlib5"),
                    quality=Quality(
                        0.5, (QualityComponent("size", float(width), "px", 0.5, "small"),)
                    ),
                    embedding=Embedding(vector_of(colour), self.contract_id),
                )
            )
        return sorted(faces, key=lambda f: (-f.box.area, f.box.x))


class OtherAnalyser(SmallAnalyser):
    """Another model: it does not see some blocks at all (``blind``), takes some for others
    (``takes``: colour to the colour whose vector it gives), and draws its boxes ``shift`` pixels
    to the right."""

    def __init__(
        self,
        contract_id: str,
        *,
        takes: Mapping[Colour, Colour] | None = None,
        blind: Collection[Colour] = (),
        shift: float = 0.0,
    ) -> None:
        super().__init__(contract_id)
        self._takes = dict(takes or {})
        self._blind = frozenset(blind)
        self._shift = shift

    def _faces(self, image: RgbImage) -> list[Face]:
        found = []
        for face in super()._faces(image):
            x, y = (int(v) for v in face.landmarks.points[4])
            seen = (int(image[y, x, 0]), int(image[y, x, 1]), int(image[y, x, 2]))
            if seen in self._blind:
                continue
            box = face.box
            vector = vector_of(self._takes.get(seen, seen))
            found.append(
                replace(
                    face,
                    box=Box(box.x + self._shift, box.y, box.width, box.height),
                    embedding=Embedding(vector, self.contract_id),
                )
            )
        return found


class JudgingAnalyser(SmallAnalyser):
    """Gives the faces of some colours a quality of their own."""

    def __init__(self, qualities: Mapping[Colour, Quality]) -> None:
        super().__init__()
        self._qualities = dict(qualities)

    def _faces(self, image: RgbImage) -> list[Face]:
        found = []
        for face in super()._faces(image):
            x, y = (int(v) for v in face.landmarks.points[4])
            seen = (int(image[y, x, 0]), int(image[y, x, 1]), int(image[y, x, 2]))
            found.append(replace(face, quality=self._qualities.get(seen, face.quality)))
        return found


def vector_of(colour: tuple[int, int, int]) -> FloatArray:
    """The vector of a block: who it is from red and green, the photo from blue."""
    red, green, blue = colour
    person = np.random.default_rng([red, green]).standard_normal(DIMENSION)
    photo = np.random.default_rng([red, green, blue]).standard_normal(DIMENSION)
    vector = person / np.linalg.norm(person) + 0.5 * photo / np.linalg.norm(photo)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def picture(
    *blocks: Block, size: tuple[int, int] = (200, 160), salt: int = 0, scene: int | None = None
) -> bytes:
    """PNG bytes of blocks on a background; ``salt`` changes the bytes but no pixel.

    ``scene`` names the background; without it, it follows from the blocks.
    """
    pixels = background(size, scene if scene is not None else hash(blocks))
    for x, y, side, colour in blocks:
        pixels[y : y + side, x : x + side] = colour
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1 + salt % 9, dpi=(72 + salt, 72))
    return out.getvalue()


def background(size: tuple[int, int], scene: int) -> RgbImage:
    """A pattern of bright greys, uint8 (height, width, 3), another one for each ``scene``."""
    cells = np.random.default_rng(abs(scene)).integers(BACKGROUND, 256, (12, 12), np.uint8)
    grey = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST)
    return np.repeat(grey[..., None], 3, axis=2)


def face_picture(person: int, photo: int = 0, *, salt: int = 0) -> bytes:
    """A picture of one person (0 to 39,999); ``photo`` tells two photos of them apart."""
    return picture((40, 30, 80, colour(person, photo)), salt=salt)


def colour(person: int, photo: int = 0) -> tuple[int, int, int]:
    return 1 + person % 120, 1 + person // 120, photo % 120
