"""PDQ, a perceptual hash: pictures that look alike have hashes that differ in few bits.

Described in *The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm* (Meta,
2019, ``hashing.pdf`` of the ThreatExchange project). It survives another size, another encoding
and small edits; it is not made to survive crops, mirrors or an adversary, and it says nothing
about faces. How near this comes to the reference is in decision record 16.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray, RgbImage

HASH_BYTES: Final = 32

_GRID: Final = 64
_COEFFICIENTS: Final = 16
_QUALITY_DIVISOR: Final = 90
_MIN_SIDE: Final = 5
_BLOCK_PIXELS: Final = 1 << 20

_frequencies = np.arange(1, _COEFFICIENTS + 1)[:, None]
_positions = 2 * np.arange(_GRID)[None] + 1
_DCT: Final[FloatArray] = (
    np.sqrt(2 / _GRID) * np.cos(np.pi / (2 * _GRID) * _frequencies * _positions)
).astype(np.float32)
"""Rows 1 to 16 of the cosine transform of 64 values; the constant row 0 is left out."""


def pdq(image: RgbImage) -> tuple[bytes, int]:
    """The hash of an RGB picture, 32 bytes, and its quality, 0 to 100.

    The bytes are in the order in which hashes are written in hexadecimal elsewhere. Quality says
    how much there is to see: a plain area has 0, and its hash means nothing. A picture with a side
    under 5 pixels has a hash of zeros and the quality 0.
    """
    height, width = image.shape[:2]
    if min(height, width) < _MIN_SIDE:
        return bytes(HASH_BYTES), 0
    small = _downsampled(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    coefficients = _DCT @ small @ _DCT.T
    # The lower of the two middle values, so that exactly half of distinct values are above it.
    middle = np.partition(coefficients, coefficients.size // 2 - 1, axis=None)[
        coefficients.size // 2 - 1
    ]
    bits = (coefficients > middle).ravel()[::-1]
    return np.packbits(bits).tobytes(), _quality(small)


def distances(one: bytes, many: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Bits in which a hash differs from each of ``many`` (uint8, (n, 32)); shape (n,)."""
    words = np.ascontiguousarray(many).view(np.uint64)
    differing = np.bitwise_xor(np.frombuffer(one, np.uint64), words)
    counts: NDArray[np.int64] = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
    return counts


def _downsampled(grey: NDArray[np.uint8] | cv2.typing.MatLike) -> FloatArray:
    """The luminance in 64 x 64 points, blurred so that no detail between them is lost.

    Two box filters along each axis and the choice of every n-th point are linear, and so they are
    one small matrix for each axis. A part of the rows at a time bounds the memory.
    """
    height, width = grey.shape[:2]
    down, across = _weights(height), _weights(width)
    rows = max(1, _BLOCK_PIXELS // width)
    small = np.zeros((_GRID, _GRID), np.float32)
    for start in range(0, height, rows):
        part = np.asarray(grey[start : start + rows], np.float32) @ across.T
        small += down[:, start : start + rows] @ part
    return small


def _weights(length: int) -> FloatArray:
    """What each of ``length`` pixels gives to each of 64 points: float32 (64, length)."""
    window = -(-length // (2 * _GRID))
    # The window reaches one pixel further ahead than back where its size is even.
    ahead = (window + 2) // 2 - 1
    back = window - 1 - ahead
    pixels = np.arange(length)
    first, end = np.maximum(pixels - back, 0), np.minimum(pixels + ahead + 1, length)
    share = 1.0 / (end - first)
    # Each point is the mean of pixels that are means themselves; where a mean begins and where it
    # ends is noted, and running sums make the weights of it.
    points = ((np.arange(_GRID) + 0.5) * length / _GRID).astype(np.int64)
    means = points[:, None] + np.arange(-back, ahead + 1)[None]
    inside = (means >= 0) & (means < length)
    rows = np.broadcast_to(np.arange(_GRID)[:, None], means.shape)[inside]
    means = means[inside]
    weight = share[points][rows] * share[means]
    edges = np.zeros((_GRID, length + 1))
    np.add.at(edges, (rows, first[means]), weight)
    np.add.at(edges, (rows, end[means]), -weight)
    return np.cumsum(edges, axis=1)[:, :length].astype(np.float32)


def _quality(small: FloatArray) -> int:
    """Sum of the steps between neighbouring points, each in whole hundredths of the range."""
    total = 0
    for axis in (0, 1):
        steps = np.diff(small, axis=axis) * 100 / 255
        total += int(np.abs(np.trunc(steps)).sum())
    return min(100, total // _QUALITY_DIVISOR)
