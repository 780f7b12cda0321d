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

_SAME_FACE_SAME_TURN: Final = 0.338
"""The same for boxes of one turn: what a detector tells apart, cheek to cheek, stays apart."""

_SMALLEST_BOX: Final = 80.0
"""Faces narrower than this, in pixels of the finest level, are on the edge of being found."""

_DOUBTFUL_SHARE: Final = 0.2
"""A doubtful face is kept only if it is this large, as a share of the image's longer side: among
large boxes false ones are rare, among small ones there are many."""

_NEAR_LIMIT: Final = 110.0
"""A face this wide in pixels of the finest level, or less, hints at others below its limit."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How hard to look.

    ``upsample`` fixes the scale of the finest level (1.0: the image as it is, 2.0: twice); ``None``
    chooses it by ``pixels``, the number of pixels that the finest level may have, up to twice.
    Where that finds nothing clear, or only small faces, or where a large image was shrunk a lot,
    a finer look follows: up to four times with ``fine_pixels``, and large images as they are up to
    ``native_pixels``. ``turns``: look in the three other quarter turns as well, with
    ``turned_pixels``, or ``turned_fine_pixels`` where nothing clear was found.
    """

    upsample: float | None = None
    pixels: int = 1_200_000
    fine_pixels: int = 5_000_000
    native_pixels: int = 16_000_000
    turned_pixels: int = 500_000
    turned_fine_pixels: int = 2_500_000
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
    """Look coarsely in every turn, then as finely as what was found calls for."""
    base = _scale(image, options.pixels, 2.0)
    doubtful, accepted, _ = pack.detection_scores
    upright = pack.detect(image, base, doubtful)
    by_turn = {0: [d for d in upright if d.score > accepted]}
    if options.turns:
        coarse = _turned_scale(image, options, base, by_turn[0])
        by_turn |= {turn: _look(pack, image, turn, coarse) for turn in (1, 2, 3)}
    main = max(by_turn, key=lambda turn: sum(d.score for d in by_turn[turn]))
    candidates = [d for found in by_turn.values() for d in found]
    if main != 0:
        candidates += _look(pack, image, main, base)
    finer = max(_scale(image, options.fine_pixels, 4.0), _scale(image, options.native_pixels, 1.0))
    clear = [d for d in candidates if d.score >= pack.detection_scores[2]]
    if finer > base * 1.2 and _may_hide_smaller(clear, base):
        candidates += _look(pack, image, main, finer)
        if options.turns and not clear:
            # Nothing says which way up the picture is: small faces may lie in any turn.
            turned_fine = min(finer, _scale(image, options.turned_fine_pixels, 4.0))
            for turn in by_turn.keys() - {main}:
                candidates += _look(pack, image, turn, turned_fine)
    return candidates + _doubtful(upright, candidates, image)


def _turned_scale(
    image: RgbImage, options: SearchOptions, base: float, upright: Sequence[Detection]
) -> float:
    """How finely to look in the other turns: at least so that what was found upright is seen.

    A small face that is found lying on its side needs its rival hypotheses.
    """
    coarse = _scale(image, options.turned_pixels, min(base, 1.0))
    narrowest = min((d.box.width for d in upright), default=float("inf"))
    return base if narrowest * coarse < _SMALLEST_BOX else coarse


def _doubtful(
    upright: Sequence[Detection], accepted: Sequence[Detection], image: RgbImage
) -> list[Detection]:
    """Large faces that the detector is unsure of, where no accepted one is even half as large."""
    largest = max((d.box.width for d in accepted), default=0.0)
    smallest = max(_DOUBTFUL_SHARE * max(image.shape[:2]), 2 * largest)
    return [d for d in upright if d not in accepted and d.box.width >= smallest]


def _may_hide_smaller(clear: Sequence[Detection], finest: float) -> bool:
    """Whether smaller faces are likely: nothing clear was found or only quite small faces, or the
    picture was shrunk so much that small ones could not be seen."""
    return not clear or finest < 0.5 or min(d.box.width for d in clear) * finest < _NEAR_LIMIT


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
        best, most = None, 0.0
        for group in groups:
            rival = next((other for other in group if other.turn == found.turn), None)
            overlap = float(hull_overlap(found.box, [(rival or group[0]).box])[0])
            limit = _SAME_FACE_SAME_TURN if rival else _SAME_FACE
            if overlap >= limit and overlap > most:
                best, most = group, overlap
        if best is None:
            groups.append([found])
        elif found.turn not in {other.turn for other in best}:
            best.append(found)
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
