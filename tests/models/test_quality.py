"""Each property of quality falls when that property is spoilt, and says why."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from models.align import aligned_crop
from models.pipeline import Analyser
from models.quality import assess
from models.types import Box, Face, Landmarks, Quality, QualityComponent, RgbImage
from tests.conftest import jpeg

Spoil = Callable[[RgbImage], RgbImage]


def component(quality: Quality, name: str) -> QualityComponent:
    return next(c for c in quality.components if c.name == name)


def measure(image: RgbImage, face: Face) -> Quality:
    """The quality of a face known from the clean photo, in a spoilt version of it."""
    scale = image.shape[0] / 512
    box = Box(*(v * scale for v in (face.box.x, face.box.y, face.box.width, face.box.height)))
    points = ((face.landmarks.points + 0.5) * scale - 0.5).astype(np.float32)
    landmarks = Landmarks(points, face.landmarks.scheme)
    return assess(image, box, landmarks, aligned_crop(image, landmarks, 150))


def shrink(image: RgbImage) -> RgbImage:
    return np.asarray(cv2.resize(image, None, fx=0.35, fy=0.35, interpolation=cv2.INTER_AREA))


def blur(image: RgbImage) -> RgbImage:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 4))


def burn(image: RgbImage) -> RgbImage:
    return np.asarray(np.clip(image.astype(np.float32) * 2.2 + 60, 0, 255), dtype=np.uint8)


def darken(image: RgbImage) -> RgbImage:
    return np.asarray(image * 0.08, dtype=np.uint8)


def fade(image: RgbImage) -> RgbImage:
    return np.asarray(image * 0.09 + 120, dtype=np.uint8)


def compress(image: RgbImage) -> RgbImage:
    import io

    with Image.open(io.BytesIO(jpeg(image, 4))) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("size", shrink, "small"),
        ("sharpness", blur, "blurred"),
        ("exposure", burn, "white"),
        ("exposure", darken, "black"),
        ("contrast", fade, "contrast"),
        ("compression", compress, "compression"),
    ],
)
def test_spoilt_properties_limit_and_say_so(
    analyser: Analyser, astronaut: RgbImage, name: str, spoil: Spoil, reason: str
) -> None:
    face = analyser.analyse([astronaut])[0][0]
    clean = component(measure(astronaut, face), name)
    assert clean.reason is None
    quality = measure(np.ascontiguousarray(spoil(astronaut)), face)
    spoilt = component(quality, name)
    assert spoilt.score < 0.5 <= clean.score
    assert spoilt.reason is not None
    assert reason in spoilt.reason
    assert spoilt.reason in quality.reasons
    assert quality.score < 0.5


def test_a_good_photo_has_no_reasons(analyser: Analyser, astronaut: RgbImage) -> None:
    face = analyser.analyse([astronaut])[0][0]
    assert face.quality.reasons == ()
    assert face.quality.score > 0.8


def test_turned_heads_show_in_the_pose(analyser: Analyser, group_photo: RgbImage) -> None:
    """Of the six people, two look to the side."""
    faces = analyser.analyse([group_photo])[0]
    values = sorted(component(f.quality, "pose").value for f in faces)
    assert values[3] < 20 < 30 < values[4]


def test_every_component_has_a_unit_and_a_bounded_score(
    analyser: Analyser, group_photo: RgbImage
) -> None:
    for face in analyser.analyse([group_photo])[0]:
        for part in face.quality.components:
            assert part.unit
            assert 0.0 <= part.score <= 1.0
            assert np.isfinite(part.value)
