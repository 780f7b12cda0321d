"""Ways to score a search beyond the joined cosine: norms, weights by quality, cluster templates.

Each is an ``Arm`` of ``trials``. What was tuned, on which people, and what came out is in
``docs/accuracy.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from indexer.evaluation.protocol import BoolArray, DoubleArray, IntArray
from indexer.evaluation.trials import Arm, Material, Search
from models.calibration import fuse, shares
from models.types import FloatArray

Side = Literal["case", "face", "both"]

_BLOCK = 256


def joined(search: Search) -> FloatArray:
    """As served: half the best photo's cosine, half that to the average by quality."""
    return fuse(search.cosines, shares(search.vectors, search.quality))


def best_photo(search: Search) -> FloatArray:
    """The cosine of the nearest photo alone."""
    highest: FloatArray = search.cosines.max(axis=0)
    return highest


def average_photo(search: Search) -> FloatArray:
    """The cosine to the average of all photos, by quality, alone."""
    served = shares(search.vectors, search.quality)
    return np.asarray(served.weights @ search.cosines / served.length, dtype=np.float32)


def moments(scores: FloatArray, top: int | None) -> tuple[DoubleArray, DoubleArray]:
    """Mean and standard deviation of the ``top`` highest scores of each row (of all with
    ``None``): float64 (rows,) each. ``-inf`` stands for a comparison that does not take part."""
    ordered = -np.sort(-scores.astype(np.float64), axis=1)
    if top is not None:
        ordered = ordered[:, :top]
    taking_part = np.isfinite(ordered)
    count = np.maximum(taking_part.sum(axis=1), 1)
    mean = np.where(taking_part, ordered, 0.0).sum(axis=1) / count
    spread = np.where(taking_part, ordered - mean[:, None], 0.0)
    return mean, np.sqrt((spread**2).sum(axis=1) / count)


def normalised(
    material: Material,
    cohort: BoolArray,
    *,
    top: int | None,
    side: Side = "both",
    scaled: bool = True,
) -> Arm:
    """The joined score, normalised against the faces ``cohort`` (bool (n,)) among the ads.

    ``side``: from what the case scores with the cohort (z-norm), from what the ad's face does
    (t-norm), or the mean of both (s-norm). With ``top``, only the highest cohort scores of either
    count (adaptive: as-norm; Matejka et al., "Analysis of score normalization in multilingual
    speaker recognition", Interspeech 2017). ``scaled``: divide by the standard deviation; without,
    only the mean is taken off.

    An ad's face is never in its own cohort; others of its person may be, where the cohort holds
    them, as they would be in a real gallery.
    """
    ads = material.ads
    members = np.flatnonzero(cohort & ads.found)
    face_mean, face_spread = np.zeros(len(cohort)), np.ones(len(cohort))
    if side != "case":
        for start in range(0, len(cohort), _BLOCK):
            rows = np.arange(start, min(len(cohort), start + _BLOCK))
            scores = ads.vectors[rows] @ ads.vectors[members].T
            scores[rows[:, None] == members[None, :]] = -np.inf
            face_mean[rows], face_spread[rows] = moments(scores, top)

    def arm(search: Search) -> FloatArray:
        scores = joined(search).astype(np.float64)
        sides = []
        if side != "face":
            inside = members[search.present[members]]
            mean, spread = moments(scores[None, inside].astype(np.float32), top)
            sides.append((scores - mean[0]) / (max(spread[0], 1e-6) if scaled else 1.0))
        if side != "case":
            sides.append((scores - face_mean) / (np.maximum(face_spread, 1e-6) if scaled else 1.0))
        return np.asarray(np.mean(sides, axis=0), dtype=np.float32)

    return arm


def weighted_by_quality(power: float) -> Arm:
    """The joined score with another power of the quality than is served; 0: all photos alike."""

    def arm(search: Search) -> FloatArray:
        return fuse(search.cosines, shares(search.vectors, search.quality, power))

    return arm


def penalised_by_quality(material: Material, penalty: float) -> Arm:
    """The joined score less ``penalty`` times what the ad's face lacks in quality."""
    lack = penalty * (1.0 - np.nan_to_num(material.ads.quality))

    def arm(search: Search) -> FloatArray:
        return np.asarray(joined(search) - lack, dtype=np.float32)

    return arm


def cluster_template(material: Material, clusters: Sequence[IntArray], share: float) -> Arm:
    """The joined score of a face mixed with that of its cluster's template.

    ``clusters``: rows of ads that are thought to show one unknown person; a face in none is its
    own template. The template is the L2-normalised sum of the cluster's vectors, and has
    ``share`` of the say.
    """
    vectors = material.ads.vectors
    templates = vectors.copy()
    for rows in clusters:
        total = vectors[rows].sum(axis=0)
        templates[rows] = total / np.linalg.norm(total)

    def arm(search: Search) -> FloatArray:
        served = shares(search.vectors, search.quality)
        together = fuse(search.vectors @ templates.T, served)
        return np.asarray((1.0 - share) * joined(search) + share * together, dtype=np.float32)

    return arm
