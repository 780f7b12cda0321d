"""Between the rows of cases and photos and their records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import Case, Enrolment, Face, GalleryMember, Photo
from indexer.catalog.tables import Image as ImageRow
from indexer.faces import box_of
from indexer.records import CaseRecord, CaseStatus, LastSeen, Person, PhotoRecord, Purpose
from indexer.times import moment_from_text, moment_text

_PERSON: TypeAdapter[Person] = TypeAdapter(Person)
_LAST_SEEN: TypeAdapter[LastSeen] = TypeAdapter(LastSeen)


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the columns keep them; ``status`` is handled by the caller."""
    columns: dict[str, Any] = {}
    for name, value in values.items():
        if name == "person":
            columns[name] = _PERSON.dump_python(value or Person(), mode="json", exclude_none=True)
        elif name == "last_seen":
            columns[name] = None if value is None else _last_seen_json(value)
        elif name == "missing_since":
            columns[name] = moment_text(value)
        elif name == "alert_emails":
            columns[name] = list(value or ())
        elif name != "status":
            columns[name] = value
    return columns


def _last_seen_json(value: LastSeen) -> dict[str, Any]:
    data: dict[str, Any] = _LAST_SEEN.dump_python(value, mode="json", exclude_none=True)
    if value.at is not None:
        data["at"] = moment_text(value.at)
    return data


def _last_seen(data: dict[str, Any] | None) -> LastSeen | None:
    if data is None:
        return None
    return LastSeen(**{**data, "at": moment_from_text(data.get("at"))})


def photos_of(
    session: Session, contract_id: str, case_ids: Iterable[str]
) -> dict[str, tuple[PhotoRecord, ...]]:
    found: dict[str, list[PhotoRecord]] = {}
    for some in chunks(case_ids):
        faces = _enrolled_faces(session, contract_id, some)
        rows = session.execute(
            select(Photo, ImageRow.width, ImageRow.height)
            .join(ImageRow, ImageRow.sha256 == Photo.sha256)
            .where(Photo.case_id.in_(some))
            .order_by(Photo.photo_id)
        )
        for photo, width, height in rows:
            face = faces.get(photo.photo_id)
            found.setdefault(photo.case_id, []).append(
                PhotoRecord(
                    photo_id=photo.photo_id,
                    case_id=photo.case_id,
                    sha256=photo.sha256,
                    filename=photo.filename,
                    taken_on=photo.taken_on,
                    width=width,
                    height=height,
                    enrolled_face_index=photo.enrolled_face_index if face is None else face.index,
                    face_id="" if face is None else face.face_id,
                    box=box_of(photo),
                    enrolled=face is not None and face.searched,
                    job_id=photo.job_id,
                    created_at=photo.created_at,
                )
            )
    return {case_id: tuple(photos) for case_id, photos in found.items()}


@dataclass(frozen=True, slots=True)
class _EnrolledFace:
    face_id: str
    index: int
    searched: bool


def _enrolled_faces(
    session: Session, contract_id: str, case_ids: Collection[str]
) -> dict[str, _EnrolledFace]:
    """The enrolled face of each photo: under this contract, or else under another, to be shown
    only."""
    rows = session.execute(
        select(
            Photo.photo_id, Face.face_id, Face.face_index, Face.contract_id, GalleryMember.face_id
        )
        .join(Enrolment, Enrolment.photo_id == Photo.photo_id)
        .join(Face, Face.face_id == Enrolment.face_id)
        .outerjoin(
            GalleryMember,
            (GalleryMember.face_id == Face.face_id)
            & (GalleryMember.gallery == "cases")
            & (GalleryMember.contract_id == contract_id),
        )
        .where(Photo.case_id.in_(case_ids))
        .order_by(Face.contract_id)
    )
    found: dict[str, _EnrolledFace] = {}
    for photo_id, face_id, index, contract, member in rows:
        if contract == contract_id or photo_id not in found:
            found[photo_id] = _EnrolledFace(face_id, index, member is not None)
    return found


def record(row: Case, photos: tuple[PhotoRecord, ...]) -> CaseRecord:
    return CaseRecord(
        case_id=row.case_id,
        agency=row.agency,
        case_number=row.case_number,
        status=cast("CaseStatus", row.status),
        person=_PERSON.validate_python(row.person),
        missing_since=moment_from_text(row.missing_since),
        last_seen=_last_seen(row.last_seen),
        default_purpose=cast("Purpose | None", row.default_purpose),
        notes=row.notes,
        alert_expected_false=row.alert_expected_false,
        alert_budget=row.alert_budget,
        alert_emails=tuple(row.alert_emails),
        created_at=row.created_at,
        updated_at=row.updated_at,
        legal_hold=row.legal_hold,
        suspended=row.suspended,
        search_until=row.search_until,
        photos=photos,
    )
