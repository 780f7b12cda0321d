"""New faces in ads against the open cases.

Which candidates are written here: those that the case's ranked list would show among its best
``LISTED`` leads now, and those whose expected number of false candidates (gallery size times the
upper bound of the false match rate at that score) is under ``EXPECTED_FALSE``. Everything else
is still found when the list is asked for, because that is an exhaustive search; what is written
early is what may be told to the case's team.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.candidates import store
from indexer.catalog.tables import Case, Face, GalleryMember, Photo
from indexer.probe import FusedFace
from indexer.workspace import Workspace
from models.calibration import fuse, template_length
from models.types import FloatArray

EXPECTED_FALSE = 1.0

_NEIGHBOURS = 200


def probe_cases(ws: Workspace, faces: Mapping[str, FloatArray]) -> int:
    """Compare ad faces (id to vector) with all open cases; returns how many candidates are new."""
    if not faces:
        return 0
    face_ids = list(faces)
    lists = ws.cases.search(np.stack([faces[face_id] for face_id in face_ids]), _NEIGHBOURS)
    near = {face_id: found.ids for face_id, found in zip(face_ids, lists, strict=True)}
    with ws.catalog.read() as session:
        cases_of = _cases_of(session, {enrolled for ids in near.values() for enrolled in ids})
        # A case is compared with the faces that it is near to, by all of its photos.
        wanted: dict[str, list[str]] = {}
        for face_id, ids in near.items():
            for case_id in {case_id for one in ids for case_id in cases_of.get(one, ())}:
                wanted.setdefault(case_id, []).append(face_id)
        people = _people(session, ws.contract_id, list(wanted))
    size = ws.ads.count()
    kept: dict[str, tuple[list[FusedFace], int]] = {}
    for case_id, person in people.items():
        found = [
            face
            for face in _fused(person.vectors, wanted[case_id], faces)
            if person.floor is None
            or face.score > person.floor
            or _rare(ws, face.score, len(person.vectors), size)
        ]
        if found:
            kept[case_id] = found, len(person.vectors)
    return _store(ws, kept) if kept else 0


def _store(ws: Workspace, kept: Mapping[str, tuple[list[FusedFace], int]]) -> int:
    fresh = 0
    with ws.catalog.write() as session:
        for case_id, (found, photos) in kept.items():
            case = session.get(Case, case_id)
            if case is not None and case.status == "open":
                fresh += len(store(session, ws.contract_id, case_id, found, photos, "watchlist"))
    return fresh


@dataclass(frozen=True, slots=True, eq=False)
class _Person:
    vectors: FloatArray
    floor: float | None


def _people(session: Session, contract_id: str, case_ids: Sequence[str]) -> dict[str, _Person]:
    vectors: dict[str, list[FloatArray]] = {}
    floors: dict[str, float | None] = {}
    for some in chunks(case_ids):
        rows = session.execute(
            select(Photo.case_id, Face.vector, Case.listed_floor)
            .join(Case, Case.case_id == Photo.case_id)
            .join(Face, Face.face_id == Photo.face_id)
            .join(
                GalleryMember,
                (GalleryMember.face_id == Photo.face_id) & (GalleryMember.gallery == "cases"),
            )
            .where(
                Photo.case_id.in_(some),
                GalleryMember.contract_id == contract_id,
                Face.vector.is_not(None),
            )
            .order_by(Photo.photo_id)
        )
        for case_id, vector, floor in rows:
            if vector is not None:
                vectors.setdefault(case_id, []).append(vector)
                floors[case_id] = floor
    return {case_id: _Person(np.stack(rows), floors[case_id]) for case_id, rows in vectors.items()}


def _fused(
    vectors: FloatArray, face_ids: Sequence[str], faces: Mapping[str, FloatArray]
) -> list[FusedFace]:
    targets = np.stack([faces[face_id] for face_id in face_ids]).astype(np.float64)
    # Rounded as the exact score of the galleries is, so that both ways give one figure.
    scores = (vectors.astype(np.float64)[:, None, :] * targets[None]).sum(axis=2)
    scores32 = scores.astype(np.float32)
    fused = fuse(scores32, template_length(vectors))
    nearest = scores32.argmax(axis=0)
    found = [
        FusedFace(face_id, float(fused[i]), int(nearest[i])) for i, face_id in enumerate(face_ids)
    ]
    return sorted(found, key=lambda face: (-face.score, face.face_id))


def _cases_of(session: Session, face_ids: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for some in chunks(face_ids):
        rows = session.execute(
            select(Photo.face_id, Photo.case_id)
            .join(Case, Case.case_id == Photo.case_id)
            .where(Photo.face_id.in_(some), Case.status == "open")
        )
        for face_id, case_id in rows:
            found.setdefault(face_id, []).append(case_id)
    return found


def _rare(ws: Workspace, score: float, photos: int, gallery_size: int) -> bool:
    if ws.calibration is None:
        return False
    return gallery_size * ws.calibration.fmr(score, photos).upper < EXPECTED_FALSE
