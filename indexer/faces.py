"""Between the faces of the models and the rows of the catalog."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np

from indexer.catalog.tables import Face as FaceRow
from indexer.catalog.tables import Judgement, Photo
from indexer.errors import FaceIndexInvalid, FaceTooSmall, NoFaceFound, SeveralFacesFound
from indexer.ids import random_id
from indexer.records import FaceRecord, FaceSummary
from models.types import Box, Face, Landmarks, LandmarkScheme, Quality, QualityComponent


def summaries(faces: Sequence[Face]) -> tuple[FaceSummary, ...]:
    """The faces of one image numbered in the order in which the analyser gave them."""
    return tuple(
        FaceSummary(
            face_index=index,
            box=face.box,
            detection_score=face.detection_score,
            quality=face.quality,
        )
        for index, face in enumerate(faces)
    )


def choose_face(faces: Sequence[Face], face_index: int | None, min_px: float) -> int:
    """The index of the face that is meant.

    Raises :class:`NoFaceFound`, :class:`SeveralFacesFound` (several and no index),
    :class:`FaceIndexInvalid`, :class:`FaceTooSmall` (shorter side of the box under ``min_px``).
    """
    if not faces:
        raise NoFaceFound
    if face_index is None:
        if len(faces) > 1:
            raise SeveralFacesFound(summaries(faces))
        face_index = 0
    if not 0 <= face_index < len(faces):
        raise FaceIndexInvalid(face_index, summaries(faces))
    box = faces[face_index].box
    side = min(box.width, box.height)
    if side < min_px:
        raise FaceTooSmall(side, min_px)
    return face_index


def face_row(sha256: str, contract_id: str, index: int, face: Face, *, vector: bool) -> FaceRow:
    """A new row; ``vector`` says whether the vector is kept."""
    return FaceRow(
        # Not by time: the face of an ad may be older than the ad, where a case had the photo first.
        face_id=random_id(),
        sha256=sha256,
        contract_id=contract_id,
        face_index=index,
        x=face.box.x,
        y=face.box.y,
        width=face.box.width,
        height=face.box.height,
        landmarks=[[float(x), float(y)] for x, y in face.landmarks.points],
        scheme=face.landmarks.scheme,
        turn=face.turn,
        detection_score=float(face.detection_score),
        quality=_quality_json(face.quality),
        vector=face.embedding.vector if vector else None,
    )


def face_record(row: FaceRow) -> FaceRecord:
    """The record of a row."""
    return FaceRecord(
        face_id=row.face_id,
        sha256=row.sha256,
        contract_id=row.contract_id,
        face_index=row.face_index,
        box=box_of(row),
        landmarks=Landmarks(
            np.asarray(row.landmarks, dtype=np.float32), cast("LandmarkScheme", row.scheme)
        ),
        turn=row.turn,
        detection_score=row.detection_score,
        quality=_quality(row.quality),
    )


def box_of(row: FaceRow | Judgement | Photo) -> Box:
    """Where a face lies in its picture, in pixels, as its row says."""
    return Box(row.x, row.y, row.width, row.height)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(a.right, b.right) - max(a.x, b.x)
    height = min(a.bottom, b.bottom) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.area + b.area - shared)


_NEAR_ENOUGH: Final = 0.5
"""How far apart two boxes of one face may lie (:func:`apart`), whichever detectors drew them.

On 134 faces of press and group photos, boxes of dlib's two detectors and boxes drawn as those of
WIDER-trained detectors are lay at most 0.31 apart, with an overlap down to 0.49; boxes of two
people of like size, cheek to cheek, at least 0.85."""

_LIKE_SIZE: Final = 2.5


def apart(a: Box, b: Box) -> float:
    """How far apart two boxes in one picture lie: the distance of their centres as a share of the
    smaller one's side; infinite where one is more than 2.5 times as large as the other.

    Detectors agree on where a face is and not on how much of it belongs into the box, so this
    tells faces of two packs apart better than the overlap does.
    """
    one, other = math.sqrt(max(a.area, 0.0)), math.sqrt(max(b.area, 0.0))
    if min(one, other) * _LIKE_SIZE < max(one, other) or not min(one, other) > 0:
        return math.inf
    (ax, ay), (bx, by) = a.centre, b.centre
    return math.hypot(ax - bx, ay - by) / min(one, other)


def same_place(a: Box, b: Box) -> bool:
    """Whether two boxes in one picture are of one face, read under whatever contracts."""
    return apart(a, b) < _NEAR_ENOUGH


def _quality_json(quality: Quality) -> dict[str, Any]:
    return {
        "score": _finite(quality.score),
        "components": [
            {
                "name": part.name,
                "value": _finite(part.value),
                "unit": part.unit,
                "score": _finite(part.score),
                "reason": part.reason,
            }
            for part in quality.components
        ],
    }


def _finite(value: float) -> float | None:
    # A measure that could not be taken is kept as unknown; JSON knows no NaN.
    return float(value) if math.isfinite(value) else None


def quality_score(data: dict[str, Any]) -> float:
    """The overall score among what ``Face.quality`` keeps, NaN where it is not known."""
    return _number(data["score"])


def _quality(data: dict[str, Any]) -> Quality:
    return Quality(
        score=_number(data["score"]),
        components=tuple(
            QualityComponent(
                name=part["name"],
                value=_number(part["value"]),
                unit=part["unit"],
                score=_number(part["score"]),
                reason=part["reason"],
            )
            for part in data["components"]
        ),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
