"""Vectors as one byte a component, and how far that can move a score.

A row x is kept as ``codes = round(scale * (x - centre)) + 128``, where ``centre`` is about the
mean of the rows and ``scale`` is chosen so that nothing clips. Its decoded form is
``d = centre + (codes - 128) / scale``, and by the inequality of Cauchy and Schwarz a probe q of
length |q| sees a score that is off by at most |q| |x - d|. The centre matters: strangers' faces
point the same way (cosine about 0.85 with the default pack), and what is common to all of them
needs no codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray

CodeArray = NDArray[np.uint8]

ZERO = 128
"""The code of the centre."""

_LARGEST = 127
# A component of the sum of 64 rows is known from the centre to 64 / 256 / 2 = 0.125 either way;
# components of a unit vector of 128 or more are about 0.09 and less.
_FEW = 64
_GRAIN = 1 / 256


@dataclass(frozen=True, slots=True, eq=False)
class Quantiser:
    """``centre``: float32 (dimension,). ``scale``: steps in one unit of length."""

    centre: FloatArray
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Rows as codes: uint8 (rows, dimension), C-contiguous, perhaps a view of a file.

    ``residual``: the largest |x - d| of a row, rounded up. ``reach``: the largest |d - centre|,
    rounded up. Both are lengths in the units of the vectors.
    """

    codes: CodeArray
    quantiser: Quantiser
    residual: float
    reach: float

    def __len__(self) -> int:
        return len(self.codes)


def fitted(blocks: Iterable[FloatArray], dimension: int) -> FloatArray:
    """The centre of rows that come in blocks of float32 (n, dimension): about their mean, float32.

    It stays when a row is deleted, and must not tell what that row was: of a few rows there is
    none (zero), and of more it is so coarse that a row's own part in it drowns.
    """
    total, count = np.zeros(dimension, np.float64), 0
    for block in blocks:
        total += block.sum(axis=0, dtype=np.float64)
        count += len(block)
    if count < _FEW:
        return np.zeros(dimension, np.float32)
    centre: FloatArray = (np.rint(total / count / _GRAIN) * _GRAIN).astype(np.float32)
    return centre


def widest(blocks: Iterable[FloatArray], centre: FloatArray) -> float:
    """The largest component of any row's difference from the centre."""
    return max((float(np.abs(block - centre).max(initial=0.0)) for block in blocks), default=0.0)


def quantiser(centre: FloatArray, largest: float) -> Quantiser:
    """The finest scale at which a component of ``largest`` still has a code."""
    return Quantiser(centre, _LARGEST / max(largest, 1e-6))


def encode(rows: FloatArray, by: Quantiser) -> tuple[CodeArray, float, float]:
    """Codes of float32 (n, dimension), with the ``residual`` and the ``reach`` of these rows."""
    moved = (rows - by.centre).astype(np.float64)
    steps = np.clip(np.rint(moved * by.scale), -_LARGEST, _LARGEST)
    decoded = steps / by.scale
    residual = _longest(rows.astype(np.float64) - by.centre.astype(np.float64) - decoded)
    codes: CodeArray = (steps + ZERO).astype(np.uint8)
    return codes, residual, _longest(decoded)


def coded(rows: FloatArray) -> Codes:
    """Rows that are in memory, float32 (n, dimension), with a quantiser of their own."""
    centre = fitted([rows], rows.shape[1])
    by = quantiser(centre, widest([rows], centre))
    codes, residual, reach = encode(rows, by)
    return Codes(codes, by, residual, reach)


def _longest(rows: NDArray[np.float64]) -> float:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    # Rounded up, so that the bound holds for the figure as it is stored.
    return float(
        np.nextafter(np.float32(lengths.max(initial=0.0) * (1 + 1e-6)), np.float32(np.inf))
    )
