"""PDQ against answers of the reference implementation (pdqhash 0.2.8), and what it is good for."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from models.pdq import distances, pdq
from models.types import RgbImage
from tests.models.images import textured

Edit = Callable[[RgbImage], RgbImage]


def resized(image: RgbImage, width: int, height: int) -> RgbImage:
    # Nearest, so that the pixels are the same whatever computes them.
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return np.ascontiguousarray(image[rows][:, columns])


EDITS: dict[str, Edit] = {
    "whole": lambda image: image,
    "half": lambda image: resized(image, image.shape[1] // 2, image.shape[0] // 2),
    "odd": lambda image: resized(image, 333, 517),
    "wide": lambda image: resized(image, 1400, 300),
    "small": lambda image: resized(image, 64, 64),
    "tiny": lambda image: resized(image, 40, 23),
    "flipped": lambda image: np.ascontiguousarray(image[::-1]),
    "part": lambda image: np.ascontiguousarray(image[20:-37, 11:-60]),
    "dark": lambda image: (image // 3).astype(np.uint8),
    "flat": lambda image: (image // 12 + 100).astype(np.uint8),
}

# "picture edit": hash and quality as the reference gives them.
KNOWN = {
    "astronaut whole": ("2d6b1af3a956c529e79ca3d2526fa834d4196c81cedd04de0a26b855fc99b724", 100),
    "astronaut half": ("4d6b1af3ad56cf29c79ca352506fa83494196c899edd04de0a26b855fc99b724", 100),
    "astronaut odd": ("652f5af3a856c529679ca3d6526ba836d4196c81c6dd04de2826f855fc99b724", 100),
    "astronaut wide": ("2d0f5af3a856c529479cabd6566ba834d4196c81cefd04de0826f855fc99b724", 100),
    "astronaut small": ("e50f5af3a8568569678ca3d6576ba836d4196c89c6dd04de2826b855ec99b3a4", 100),
    "astronaut tiny": ("e51fd8ab3a54054843a9abdc53bba974d41a6489e7fd045e2826dc4dfc19b3a4", 100),
    "astronaut flipped": ("2d0fa50ca8763296c79c5429566bd7c994199376ceddfb210a2607aafc9948db", 100),
    "astronaut part": ("8f285ab1bd72628eb78d71cecc631435ae48b245d7640f6e54b2cc31ee49a996", 100),
    "astronaut dark": ("2d6b1af3a956c529e79ca3d2526fa834d4196c81cedd04de0a26b855fc99b724", 100),
    "astronaut flat": ("2d6f1af3a956c529e79ca3d2506fa834d4196c81cedd04de0a26b855fc99b724", 38),
    "group whole": ("2cb358b6baec3e14528ce25265bb4308b9e35c4362b1fd48180fc39d2bfc14ff", 100),
    "group half": ("2cb358b6aaec3f14520ce25261bb4308b9e34c4b62b1fd48980fc39d2bfc34ff", 100),
    "group odd": ("2cb358b69aecbf145a0ce65261bb4308b9e34c4b62b17d48980fc39d2bfc10ff", 100),
    "group wide": ("2cb358b69aeebf155a0ce25261bb4308b9e34c4362b17d48980fc39d2bfc10ff", 100),
    "group small": ("24935c929aeebe355a0cc25270bb630cbdf34c4362b37fe8980bc39d0bfc007f", 100),
    "group tiny": ("b4f07c9f5ab68eb54ea6de54b292428e85c5d84266b377f09c07c39b09a010ff", 100),
    "group flipped": ("2cb3a7498aacc1eb420c1dad61bbbcf7b9e3a3bc62b102b7180f3c622bfceb00", 100),
    "group part": ("3473ac1b4b2c97452808614ab1fba3addde3aceb223173209c0fc39d15f41cff", 100),
    "group dark": ("2cb358b6baec3e14528ce25265bb4308b9e35c4362b1fd48180fc39d2bfc14ff", 100),
    "group flat": ("2cb358b6baec3e14520ce25265bb4308b9e35c4362b1fd48180fc39d2bfc34ff", 37),
}


def bits_apart(one: bytes, other: bytes) -> int:
    return int(distances(one, np.frombuffer(other, np.uint8)[None])[0])


@pytest.mark.parametrize("name", KNOWN)
def test_the_reference_gives_the_same(
    name: str, astronaut: RgbImage, group_photo: RgbImage
) -> None:
    picture, edit = name.split()
    value, quality = pdq(EDITS[edit]({"astronaut": astronaut, "group": group_photo}[picture]))
    expected, expected_quality = KNOWN[name]
    # The reference sums in another order; a coefficient at the median may fall to its other side.
    assert bits_apart(value, bytes.fromhex(expected)) <= 2
    assert abs(quality - expected_quality) <= 1


def test_copies_are_near_and_other_pictures_far(astronaut: RgbImage, group_photo: RgbImage) -> None:
    original, _ = pdq(astronaut)
    for quality in (30, 90):
        _, data = cv2.imencode(".jpg", astronaut, [cv2.IMWRITE_JPEG_QUALITY, quality])
        again = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        assert bits_apart(original, pdq(again)[0]) <= 10
    smaller = cv2.resize(astronaut, (200, 200), interpolation=cv2.INTER_AREA)
    assert bits_apart(original, pdq(np.asarray(smaller, np.uint8))[0]) <= 16
    assert bits_apart(original, pdq(group_photo)[0]) > 80
    assert bits_apart(original, pdq(np.ascontiguousarray(astronaut[:, ::-1]))[0]) > 80


def test_half_of_the_bits_are_set(astronaut: RgbImage) -> None:
    assert sum(byte.bit_count() for byte in pdq(astronaut)[0]) == 128


@pytest.mark.parametrize("shape", [(1, 1), (4, 900), (5, 5), (8, 800), (800, 8), (63, 65)])
def test_any_size_has_a_hash(shape: tuple[int, int]) -> None:
    value, quality = pdq(np.full((*shape, 3), 90, np.uint8))
    assert len(value) == 32
    assert quality == 0


def test_large_pictures_are_read_in_parts() -> None:
    # Above a million pixels the rows are taken a part at a time; the sum must be the whole.
    large = np.asarray(textured(160, 120).resize((2400, 1800)))
    half = np.asarray(cv2.resize(large, (1200, 900), interpolation=cv2.INTER_AREA), np.uint8)
    assert pdq(large)[1] == pdq(half)[1]
    assert bits_apart(pdq(large)[0], pdq(half)[0]) <= 10


def test_distances_count_differing_bits() -> None:
    rng = np.random.default_rng(3)
    many = rng.integers(0, 256, (50, 32), np.uint8)
    one = many[7].copy()
    one[3] ^= 0b1011
    found = distances(one.tobytes(), many)
    expected = np.unpackbits(many ^ one, axis=1).sum(axis=1)
    np.testing.assert_array_equal(found, expected)
    assert found[7] == 3
    assert distances(one.tobytes(), many[:0]).shape == (0,)
