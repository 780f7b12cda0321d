"""The watch in both directions: new faces in ads against the open cases, a case against the ads.

Whichever of the two comes second finds the other: each is in its gallery before it probes the
other one, and a view of a gallery catches up before it answers.

Which candidates are written here: those that the case's ranked list would show among its best
``LISTED`` leads now, and those that its team is told of (``indexer.alerting``). Everything else
is still found when the list is asked for, because that is an exhaustive search.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer.alerting import base_limit, is_told, raise_alerts
from indexer.audit.chain import record
from indexer.batches import chunks
from indexer.candidates import LISTED, rank, store
from indexer.catalog.tables import Case, Enrolment, Face, GalleryMember, Photo
from indexer.enrolled import enrolled
from indexer.faces import quality_score
from indexer.kept_faces import compared_size, mode_of
from indexer.probe import FusedFace
from indexer.searchable import clock, is_searchable, require_searchable, searchable
from indexer.searches import purpose_of
from indexer.vectors.base import Neighbours
from indexer.workspace import Workspace
from models.calibration import Shares, fuse, shares
from models.types import FloatArray

_NEIGHBOURS = 200
_FUSION_GAIN = 0.15
"""How far the fused score of several photos may lie above the best single cosine: half of what the
average gains. Photos of one person with cosines of 0.3 among them gain 0.11 at four photos that
weigh the same, and less where they do not."""
_CASES_AT_ONCE = 10
"""Cases whose candidates are written in one transaction: other writers wait that long."""


def probe_ads(ws: Workspace, case_id: str) -> int:
    """Compare an open case with all ads, keep its best leads, raise the alerts that are due.

    Returns how many alerts were raised. Raises :class:`CaseNotFound`, :class:`CaseClosed`,
    :class:`ApprovalRequired`.
    """
    with ws.catalog.read() as session:
        limit = base_limit(ws, require_searchable(session, case_id))
        face_ids, vectors, joined = enrolled(session, ws.contract_id, case_id)
    size = compared_size(ws)
    photos = len(face_ids)
    count = LISTED
    while True:
        ranking = rank(ws, case_id, vectors, joined, count)
        heads = ranking.heads()
        # Wider as long as the last one that came is still to be told.
        if len(heads) < count or not is_told(ws, heads[-1].score, photos, size, limit):
            break
        count *= 4
    if not ranking.faces:
        return 0
    with ws.catalog.write() as session:
        case = require_searchable(session, case_id)
        if not _all_enrolled(session, case_id, face_ids):
            return 0
        store(session, ws, case_id, ranking.faces, photos, "ranking")
        told = [
            face.face_id for face in ranking.faces if is_told(ws, face.score, photos, size, limit)
        ]
        return len(raise_alerts(session, ws, case, told, size))


def probe_cases(ws: Workspace, faces: Mapping[str, FloatArray]) -> int:
    """Compare ad faces (id to vector) with all open cases; returns how many candidates are new."""
    size = compared_size(ws)
    kept = _kept(ws, faces, size)
    return _store(ws, kept, size) if kept else 0


def wanted_faces(ws: Workspace, faces: Mapping[str, FloatArray]) -> set[str]:
    """Which of the faces (any key to vector) would become candidates of open cases now."""
    kept = _kept(ws, faces, compared_size(ws))
    return {face.face_id for found, _ in kept.values() for face in found}


def _kept(
    ws: Workspace, faces: Mapping[str, FloatArray], size: int
) -> dict[str, tuple[list[FusedFace], list[str]]]:
    """For each open case the faces that its list or its team is to have, and its photos' faces."""
    if not faces:
        return {}
    face_ids = list(faces)
    lists = _near_cases(ws, np.stack([faces[face_id] for face_id in face_ids]), size)
    near = {face_id: found.ids for face_id, found in zip(face_ids, lists, strict=True)}
    with ws.catalog.read() as session:
        cases_of = _cases_of(session, {enrolled for ids in near.values() for enrolled in ids})
        # A case is compared with the faces that it is near to, by all of its photos.
        wanted: dict[str, list[str]] = {}
        for face_id, ids in near.items():
            for case_id in {case_id for one in ids for case_id in cases_of.get(one, ())}:
                wanted.setdefault(case_id, []).append(face_id)
        people = _people(session, ws, list(wanted))
    kept: dict[str, tuple[list[FusedFace], list[str]]] = {}
    for case_id, person in people.items():
        found = [
            face
            for face in _fused(person, wanted[case_id], faces)
            if person.floor is None
            or face.score > person.floor
            or is_told(ws, face.score, len(person.vectors), size, person.limit)
        ]
        if found:
            kept[case_id] = found, person.face_ids
    return kept


def _near_cases(ws: Workspace, probes: FloatArray, size: int) -> list[Neighbours]:
    """The enrolled faces near to each probe: all of those that an alert may come of, and, where
    faces that are near to nobody are not kept, all that a case's list would show it for: nobody
    finds it when the list is asked for."""
    count = _NEIGHBOURS
    with ws.catalog.read() as session:
        own = session.scalar(
            select(func.max(Case.alert_expected_false)).where(searchable(clock(session)))
        )
        floor = _lowest_floor(session) if mode_of(session, ws) == "transient" else None
    limit = max(own or 0.0, ws.options.alert_expected_false)
    while True:
        lists = ws.cases.search(probes, count)
        best = max(
            (float(found.scores[-1]) for found in lists if len(found) == count), default=None
        )
        if best is None:
            return lists
        fused = min(1.0, best + _FUSION_GAIN)
        listed = floor is not None and fused > floor
        if not listed and not is_told(ws, fused, 1, size, limit):
            return lists
        count *= 4


def _lowest_floor(session: Session) -> float:
    """The score above which a face may be shown in the list of some case that is searched for."""
    photo = select(Photo.photo_id).where(Photo.case_id == Case.case_id)
    rows = session.scalars(
        select(Case.listed_floor).where(searchable(clock(session)), photo.exists()).distinct()
    ).all()
    # A list that is not full takes in anybody.
    return min((-1.0 if floor is None else floor for floor in rows), default=1.0)


def _store(ws: Workspace, kept: Mapping[str, tuple[list[FusedFace], list[str]]], size: int) -> int:
    fresh = 0
    for some in chunks(kept, _CASES_AT_ONCE):
        with ws.catalog.write() as session:
            for case_id in some:
                found, enrolled_ids = kept[case_id]
                case = session.get(Case, case_id)
                if case is None or not is_searchable(case, clock(session)):
                    continue
                if not _all_enrolled(session, case_id, enrolled_ids):
                    continue
                new = store(session, ws, case_id, found, len(enrolled_ids), "watchlist")
                raised = raise_alerts(session, ws, case, [face.face_id for face in found], size)
                fresh += len(new)
                if new or raised:
                    record(
                        session,
                        "search.watch",
                        subject=("case", case_id),
                        case_id=case_id,
                        purpose=purpose_of(case),
                        details={
                            "gallery_size": size,
                            "contract_id": ws.contract_id,
                            "candidates": len(new),
                            "alerts": len(raised),
                            "agency": case.agency,
                        },
                    )
    return fresh


def _all_enrolled(session: Session, case_id: str, face_ids: Collection[str]) -> bool:
    """Whether none of these photos was forgotten since it was compared: what it found, perhaps a
    stranger, must not come after it. Whoever forgets one queues a search with those left."""
    now = session.scalars(
        select(Enrolment.face_id)
        .join(Photo, Photo.photo_id == Enrolment.photo_id)
        .where(Photo.case_id == case_id)
    )
    return set(now).issuperset(face_ids)


@dataclass(frozen=True, slots=True, eq=False)
class _Person:
    face_ids: list[str]
    vectors: FloatArray
    joined: Shares
    floor: float | None
    limit: float


def _people(session: Session, ws: Workspace, case_ids: Sequence[str]) -> dict[str, _Person]:
    found: dict[str, dict[str, tuple[FloatArray, float]]] = {}
    cases: dict[str, Case] = {}
    for some in chunks(case_ids):
        rows = session.execute(
            select(Case, Face.face_id, Face.vector, Face.quality)
            .join(Photo, Photo.case_id == Case.case_id)
            .join(Enrolment, Enrolment.photo_id == Photo.photo_id)
            .join(Face, Face.face_id == Enrolment.face_id)
            .join(
                GalleryMember,
                (GalleryMember.face_id == Face.face_id) & (GalleryMember.gallery == "cases"),
            )
            .where(
                Photo.case_id.in_(some),
                GalleryMember.contract_id == ws.contract_id,
                Face.vector.is_not(None),
            )
            .order_by(Photo.photo_id)
        )
        for case, face_id, vector, quality in rows:
            if vector is not None:
                photos = found.setdefault(case.case_id, {})
                photos[face_id] = vector, quality_score(quality)
                cases[case.case_id] = case
    people = {}
    for case_id, photos in found.items():
        vectors = np.stack([vector for vector, _ in photos.values()])
        joined = shares(vectors, np.array([quality for _, quality in photos.values()]))
        case = cases[case_id]
        people[case_id] = _Person(
            list(photos), vectors, joined, case.listed_floor, base_limit(ws, case)
        )
    return people


def _fused(
    person: _Person, face_ids: Sequence[str], faces: Mapping[str, FloatArray]
) -> list[FusedFace]:
    targets = np.stack([faces[face_id] for face_id in face_ids]).astype(np.float64)
    # Rounded as the exact score of the galleries is, so that both ways give one figure.
    scores = (person.vectors.astype(np.float64)[:, None, :] * targets[None]).sum(axis=2)
    scores32 = scores.astype(np.float32)
    fused = fuse(scores32, person.joined)
    nearest = scores32.argmax(axis=0)
    found = [
        FusedFace(face_id, float(fused[i]), int(nearest[i])) for i, face_id in enumerate(face_ids)
    ]
    return sorted(found, key=lambda face: (-face.score, face.face_id))


def _cases_of(session: Session, face_ids: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    now = clock(session)
    for some in chunks(face_ids):
        rows = session.execute(
            select(Face.face_id, Photo.case_id)
            .join(Enrolment, Enrolment.face_id == Face.face_id)
            .join(Photo, Photo.photo_id == Enrolment.photo_id)
            .join(Case, Case.case_id == Photo.case_id)
            .where(Face.face_id.in_(some), searchable(now))
        )
        for face_id, case_id in rows:
            found.setdefault(face_id, []).append(case_id)
    return found
