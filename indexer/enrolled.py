"""The enrolled faces of a case: what its searches are made with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.catalog.tables import Enrolment, Face, GalleryMember, Photo
from indexer.catalog.types import stacked
from indexer.faces import face_record, quality_score
from models.calibration import Shares, shares
from models.quality import limited_of
from models.types import FloatArray


def enrolled(
    session: Session, contract_id: str, case_id: str
) -> tuple[tuple[str, ...], FloatArray, Shares]:
    """The enrolled faces of a case, oldest first, their vectors, float32 (photos, dimension), and
    what each counts in the average by its quality."""
    rows = session.execute(
        select(Face.face_id, Face.vector, Face.quality)
        .join(Enrolment, Enrolment.face_id == Face.face_id)
        .join(Photo, Photo.photo_id == Enrolment.photo_id)
        .join(
            GalleryMember,
            (GalleryMember.face_id == Face.face_id) & (GalleryMember.gallery == "cases"),
        )
        .where(
            Photo.case_id == case_id,
            GalleryMember.contract_id == contract_id,
            Face.vector.is_not(None),
        )
        .order_by(Photo.photo_id)
    ).all()
    vectors = stacked(row[1] for row in rows) if rows else np.empty((0, 0), np.float32)
    quality = np.array([quality_score(row[2]) for row in rows], np.float64)
    return tuple(row[0] for row in rows), vectors, shares(vectors, quality)


def limited_pictures(session: Session, pairs: Sequence[tuple[str, Face | None]]) -> tuple[int, ...]:
    """For each case and face of an ad: how many of the two pictures, the face's and the nearest
    photo's, are such that rates do not hold (``models.quality``). A face that is gone counts as
    none; so does the photo where the case has none under the contract of the face now."""
    people: dict[tuple[str, str], tuple[tuple[str, ...], FloatArray, Shares]] = {}
    found = []
    for case_id, face in pairs:
        if face is None:
            found.append(0)
            continue
        key = face.contract_id, case_id
        if key not in people:
            people[key] = enrolled(session, *key)
        face_ids, vectors, _ = people[key]
        photo = None
        if face_ids and face.vector is not None:
            nearest = face_ids[int((vectors @ face.vector).argmax())]
            photo = face_record(session.get_one(Face, nearest)).quality
        found.append(limited_of(photo, face_record(face).quality))
    return tuple(found)
