"""Where and how finely faces are looked for, in which of the four turns of the picture.

Detectors know upright faces. A photo turned by a quarter or half turn without saying so is
ordinary in scraped ads, and worse than not being found: the detector often *does* find such a face
sideways, and its vector is then useless. So every image is looked at in all four turns, and what
overlaps is taken for one face with several **hypotheses** about which way up it is. The pipeline
decides between them by their embeddings (``models.pipeline``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

from models.detect import hull_overlap, turn_box, turn_image, unturn_box, unturn_points
from models.packs.base import FacePack
from models.types import Box, Detection, Landmarks, RgbImage

_SAME_FACE: Final = 0.25
"""Boxes found in different turns that overlap at least this much are one face."""

_DOUBTFUL_SHARE: Final = 0.2
"""A doubtful face is kept only if it is this large, as a share of the image's longer side: among
large boxes false ones are rare, among small ones there are many."""

_NEAR_LIMIT: Final = 120.0
"""A face this wide in pixels of the finest level, or less, hints at others below its limit."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How hard to look.

    ``upsample`` fixes the scale of the finest level (1.0: the image as it is, 2.0: twice); ``None``
    chooses it by ``pixels``, the number of pixels that the finest level may have, up to twice.
    Where that finds nothing, or only small faces, ``fine_pixels`` and up to four times are tried.
    ``turns``: look in all four quarter turns, with ``turned_pixels`` for the three others.
    """

    upsample: float | None = None
    pixels: int = 1_200_000
    fine_pixels: int = 5_000_000
    turned_pixels: int = 500_000
    turns: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class FoundFace:
    """A face with its box and landmarks in the image, and the quarter turns that right it."""

    box: Box
    score: float
    turn: int
    landmarks: Landmarks


def _scale(image: RgbImage, pixels: int, limit: float) -> float:
    """The scale at which ``image`` has ``pixels`` pixels, at most ``limit``."""
    return min(limit, sqrt(pixels / (image.shape[0] * image.shape[1])))


def find_faces(pack: FacePack, image: RgbImage, options: SearchOptions) -> list[list[FoundFace]]:
    """All faces of one image; for each its hypotheses, one for each turn in which it was found.

    The first hypothesis of a face is the one with the best detection score.
    """
    if options.upsample is not None:
        candidates = [
            found
            for turn in (range(4) if options.turns else range(1))
            for found in _look(pack, image, turn, options.upsample)
        ]
    else:
        candidates = _look_adaptively(pack, image, options)
    groups = _group(candidates)
    found = iter(_with_landmarks(pack, image, [d for group in groups for d in group]))
    return [[next(found) for _ in group] for group in groups]


def _look_adaptively(pack: FacePack, image: RgbImage, options: SearchOptions) -> list[Detection]:
    """Look coarsely in every turn, then as finely as what was found calls for in the best one."""
    base = _scale(image, options.pixels, 2.0)
    doubtful, accepted, _ = pack.detection_scores
    upright = pack.detect(image, base, doubtful)
    by_turn = {0: [d for d in upright if d.score > accepted]}
    if options.turns:
        coarse = _scale(image, options.turned_pixels, min(base, 1.0))
        by_turn |= {turn: _look(pack, image, turn, coarse) for turn in (1, 2, 3)}
    main = max(by_turn, key=lambda turn: sum(d.score for d in by_turn[turn]))
    candidates = [d for found in by_turn.values() for d in found]
    if main != 0:
        candidates += _look(pack, image, main, base)
    finer = _scale(image, options.fine_pixels, 4.0)
    if finer > base * 1.2 and _may_hide_smaller(pack, candidates, base):
        candidates += _look(pack, image, main, finer)
    return candidates + _doubtful(upright, candidates, image)


def _doubtful(
    upright: Sequence[Detection], accepted: Sequence[Detection], image: RgbImage
) -> list[Detection]:
    """Large faces that the detector is unsure of, where no accepted one is even half as large."""
    largest = max((d.box.width for d in accepted), default=0.0)
    smallest = max(_DOUBTFUL_SHARE * max(image.shape[:2]), 2 * largest)
    return [d for d in upright if d not in accepted and d.box.width >= smallest]


def _may_hide_smaller(pack: FacePack, found: Sequence[Detection], finest: float) -> bool:
    """Whether smaller faces are likely: none was found, only unclear ones, or quite small ones."""
    clear = [d for d in found if d.score >= pack.detection_scores[2]]
    return not clear or min(d.box.width for d in clear) * finest < _NEAR_LIMIT


def _look(pack: FacePack, image: RgbImage, turn: int, finest: float) -> list[Detection]:
    """Faces that are upright once the image is turned; boxes in the image as it is."""
    height, width = image.shape[:2]
    return [
        replace(found, box=unturn_box(found.box, turn, width, height), turn=turn)
        for found in pack.detect(turn_image(image, turn), finest, pack.detection_scores[1])
    ]


def _group(candidates: Sequence[Detection]) -> list[list[Detection]]:
    """Gather what overlaps, best score first; the best of each turn stays as a hypothesis."""
    groups: list[list[Detection]] = []
    for found in sorted(candidates, key=lambda d: -d.score):
        overlap = hull_overlap(found.box, [group[0].box for group in groups])
        if overlap.size == 0 or float(overlap.max()) < _SAME_FACE:
            groups.append([found])
            continue
        group = groups[int(overlap.argmax())]
        if found.turn not in {other.turn for other in group}:
            group.append(found)
    return groups


def _with_landmarks(pack: FacePack, image: RgbImage, found: Sequence[Detection]) -> list[FoundFace]:
    height, width = image.shape[:2]
    turned = {turn: turn_image(image, turn) for turn in {d.turn for d in found}}
    landmarks = pack.landmarks(
        [turned[d.turn] for d in found],
        [replace(d, box=turn_box(d.box, d.turn, width, height)) for d in found],
    )
    return [
        FoundFace(
            d.box,
            d.score,
            d.turn,
            Landmarks(unturn_points(points.points, d.turn, width, height), points.scheme),
        )
        for d, points in zip(found, landmarks, strict=True)
    ]
