"""What advertisements do to photos, as named, repeatable changes of one picture.

Each takes an upright RGB picture and the face found in it when clean, and returns a new picture.
Nothing is random. Sizes that belong to the face (bar, text, cover) follow the face; blur is in
pixels of the given picture, as it would be in a scraped file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import Face, FloatArray, Landmarks, RgbImage

_NEUTRAL = (124, 124, 124)


@dataclass(frozen=True, slots=True)
class Degradation:
    """``name`` is stable (settings, JSON); ``title`` is for people."""

    name: str
    title: str
    apply: Callable[[RgbImage, Face], RgbImage]


def eyes(landmarks: Landmarks) -> tuple[FloatArray, FloatArray]:
    """Centres of the eye on the face's left and on its right as seen upright; float32 (2,) each.

    For a face that stands upright these are the picture's left and right.
    """
    points = landmarks.points
    if landmarks.scheme == "dlib5":
        return (points[2] + points[3]) / 2, (points[0] + points[1]) / 2
    return points[0], points[1]


def _rgb(image: NDArray[np.generic]) -> RgbImage:
    return np.ascontiguousarray(image, dtype=np.uint8)


def face_width(width: int) -> Callable[[RgbImage, Face], RgbImage]:
    """Shrink until the face box is ``width`` pixels wide; smaller faces stay as they are."""

    def apply(image: RgbImage, face: Face) -> RgbImage:
        scale = width / face.box.width
        if scale >= 1:
            return image.copy()
        height, across = image.shape[:2]
        size = (max(1, round(across * scale)), max(1, round(height * scale)))
        return _rgb(cv2.resize(image, size, interpolation=cv2.INTER_AREA))

    return apply


def jpeg(quality: int) -> Callable[[RgbImage, Face], RgbImage]:
    """Recompress as JPEG at ``quality`` (libjpeg's scale, 1 to 100, 4:2:0)."""

    def apply(image: RgbImage, face: Face) -> RgbImage:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise ValueError("the picture cannot be written as JPEG")
        again = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert again is not None, "what was just written can be read"
        return _rgb(cv2.cvtColor(again, cv2.COLOR_BGR2RGB))

    return apply


def mirror(image: RgbImage, face: Face) -> RgbImage:
    """Left and right exchanged."""
    return _rgb(image[:, ::-1])


def rotate(degrees: int) -> Callable[[RgbImage, Face], RgbImage]:
    """Turn counter-clockwise without a trace in the metadata.

    Quarter turns are exact; other angles grow the canvas so that nothing is cut off and fill
    the corners with neutral grey.
    """

    def apply(image: RgbImage, face: Face) -> RgbImage:
        if degrees % 90 == 0:
            return _rgb(np.rot90(image, degrees // 90))
        height, width = image.shape[:2]
        c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
        out_width, out_height = math.ceil(width * c + height * s), math.ceil(width * s + height * c)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        matrix[:, 2] += np.array([(out_width - width) / 2, (out_height - height) / 2])
        return _rgb(
            cv2.warpAffine(
                image,
                matrix,
                (out_width, out_height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=_NEUTRAL,
            )
        )

    return apply


def watermark(image: RgbImage, face: Face) -> RgbImage:
    """White text with a dark edge at half opacity, repeated along the diagonal of the picture.

    Letters are about a sixth of the face box high and rows half a face box apart, so that two
    or three rows cross every face.
    """
    size = max(face.box.width, face.box.height, 20.0)
    thickness = max(1, round(size / 52))
    edge = _diagonal_text(image, face, size, thickness + 2)
    letters = _diagonal_text(image, face, size, thickness)
    # The letters replace their own edge before both are blended with the picture.
    opacity = 0.5 * np.maximum(edge, letters)
    return _rgb(np.rint(image * (1 - opacity) + 255 * letters * opacity))


def _diagonal_text(image: RgbImage, face: Face, size: float, thickness: int) -> FloatArray:
    """How much of each pixel text covers, in [0, 1]: float32 (height, width, 1).

    Rows are laid out around the face, so that they cross every face in the same way.
    """
    height, width = image.shape[:2]
    font, text = cv2.FONT_HERSHEY_DUPLEX, "SAMPLE SAMPLE "
    scale = size / 6 / 22  # this font's capitals are 22 px high at scale 1
    (length, _), _ = cv2.getTextSize(text, font, scale, 1)
    side = math.ceil(math.hypot(height, width)) * 2
    step = size / 2
    mask = np.zeros((side, side), dtype=np.uint8)
    rows, columns = math.ceil(side / 2 / step), math.ceil(side / 2 / length) + 1
    for row in range(-rows, rows + 1):
        baseline = round(side / 2 + row * step + size / 12)
        for column in range(-columns, columns + 1):
            left = round(side / 2 + (column - 0.5 + (row % 2) / 4) * length)
            cv2.putText(mask, text, (left, baseline), font, scale, 255, thickness, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 30, 1.0)
    turn[:, 2] += np.array([face.box.centre[0] - side / 2, face.box.centre[1] - side / 2])
    covered = cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(covered[..., None] / np.float32(255), dtype=np.float32)


def _cover(
    image: RgbImage, face: Face, outline: list[tuple[float, float]], colour: tuple[int, int, int]
) -> RgbImage:
    """Fill a polygon given in the face's own frame.

    Origin between the eyes, x along the eyes to the right, y down the face; unit: the distance
    between the eyes' centres.
    """
    left, right = (e.astype(np.float64) for e in eyes(face.landmarks))
    across = right - left
    down = np.array([-across[1], across[0]])
    points = (left + right) / 2 + np.array(outline) @ np.stack([across, down])
    covered = image.copy()
    cv2.fillPoly(covered, [np.rint(points).astype(np.int32)], colour, cv2.LINE_AA)
    return covered


def eye_bar(image: RgbImage, face: Face) -> RgbImage:
    """A black bar over both eyes, as pictures are made anonymous; the brows stay half visible."""
    outline = [(-1.0, -0.28), (1.0, -0.28), (1.0, 0.28), (-1.0, 0.28)]
    return _cover(image, face, outline, (0, 0, 0))


def lower_face(image: RgbImage, face: Face) -> RgbImage:
    """Nose, mouth and chin under a flat cover with the outline of a medical mask."""
    outline = [
        (-1.05, 0.5),
        (0.0, 0.35),
        (1.05, 0.5),
        (1.0, 1.5),
        (0.45, 2.15),
        (-0.45, 2.15),
        (-1.0, 1.5),
    ]
    return _cover(image, face, outline, (170, 195, 205))


def blur(sigma: float) -> Callable[[RgbImage, Face], RgbImage]:
    """Gaussian blur; ``sigma`` in pixels of the picture."""

    def apply(image: RgbImage, face: Face) -> RgbImage:
        return _rgb(cv2.GaussianBlur(image, (0, 0), sigma))

    return apply


def dark(image: RgbImage, face: Face) -> RgbImage:
    """A quarter of the sRGB values, rounded to 8 bits: nearly black on a screen."""
    return _rgb(np.rint(image * np.float32(0.25)))


def overexposed(image: RgbImage, face: Face) -> RgbImage:
    """sRGB values doubled and raised by 40, clipped at white: skin burns out."""
    return _rgb(np.clip(image.astype(np.float32) * 2 + 40, 0, 255))


def grey(image: RgbImage, face: Face) -> RgbImage:
    """No colour (BT.601 luma in all three channels)."""
    return _rgb(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


DEGRADATIONS: dict[str, Degradation] = {
    d.name: d
    for d in (
        Degradation("face_60px", "face 60 px wide", face_width(60)),
        Degradation("face_40px", "face 40 px wide", face_width(40)),
        Degradation("jpeg_20", "JPEG quality 20", jpeg(20)),
        Degradation("mirror", "mirrored", mirror),
        Degradation("rotate_15", "turned by 15°", rotate(15)),
        Degradation("rotate_30", "turned by 30°", rotate(30)),
        Degradation("rotate_45", "turned by 45°", rotate(45)),
        Degradation("rotate_90", "turned by 90°", rotate(90)),
        Degradation("rotate_180", "turned by 180°", rotate(180)),
        Degradation("rotate_270", "turned by 270°", rotate(270)),
        Degradation("watermark", "watermark across the face", watermark),
        Degradation("eye_bar", "bar over the eyes", eye_bar),
        Degradation("lower_face", "lower face covered", lower_face),
        Degradation("blur_2", "blur, sigma 2 px", blur(2)),
        Degradation("blur_4", "blur, sigma 4 px", blur(4)),
        Degradation("dark", "dark", dark),
        Degradation("overexposed", "over-exposed", overexposed),
        Degradation("grey", "no colour", grey),
    )
}
"""All degradations by name."""

STANDARD: tuple[str, ...] = tuple(
    name for name in DEGRADATIONS if name not in ("rotate_15", "rotate_45", "rotate_270")
)
"""The ones that ``homeward evaluate --degrade`` measures unless others are named."""
