"""Cases and their photos: who is missing, and which face in which photo is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer import approvals, audit, images, queue, removals
from indexer.acting import note
from indexer.agencies import ensure_agency
from indexer.batches import chunks
from indexer.blobs import sha256_hex, short_name
from indexer.case_rows import columns, photos_of, record
from indexer.catalog.tables import Candidate, Case, Enrolment, Face, GalleryMember, Photo
from indexer.catalog.tables import Image as ImageRow
from indexer.errors import (
    CaseClosed,
    CaseNotFound,
    DuplicateCaseNumber,
    PhotoAlreadyEnrolled,
    PhotoNotFound,
)
from indexer.faces import choose_face
from indexer.galleries import add_faces, drop_idle_vectors, refresh_faces, remove_faces
from indexer.generations.rows import require_live
from indexer.generations.work import share_case
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.kept_faces import ask, ask_tidy
from indexer.leads import drop_empty_leads
from indexer.purges import record_purge
from indexer.records import (
    CaseInput,
    CaseRecord,
    CaseStatus,
    Page,
    PhotoReceipt,
    PhotoRecord,
)
from indexer.room import deletes, require_room
from indexer.times import utc_now
from indexer.withheld import rows as withheld
from indexer.workspace import Workspace
from models.types import DecodedImage
from models.types import Face as FoundFace

_CHANGEABLE = {field.name for field in fields(CaseInput)} | {"status"}


# --- cases -----------------------------------------------------------------------------------


def create_case(ws: Workspace, case: CaseInput) -> CaseRecord:
    """Open a case. Raises :class:`DuplicateCaseNumber` within its agency."""
    now = utc_now()
    row = Case(
        case_id=new_id(),
        agency=case.agency,
        case_number=case.case_number,
        status="open",
        legal_hold=False,
        created_at=now,
        updated_at=now,
        **columns(
            {
                "person": case.person,
                "missing_since": case.missing_since,
                "last_seen": case.last_seen,
                "default_purpose": case.default_purpose,
                "notes": case.notes,
                "alert_expected_false": case.alert_expected_false,
                "alert_budget": case.alert_budget,
                "alert_emails": case.alert_emails,
            }
        ),
    )
    with ws.catalog.write() as session:
        _refuse_duplicate(session, case.agency, case.case_number)
        ensure_agency(session, case.agency)
        approvals.begin(row, required=ws.options.approval_required)
        session.add(row)
        session.flush()
        audit.record(
            session,
            "case.create",
            subject=("case", row.case_id),
            case_id=row.case_id,
            details={"agency": row.agency},
        )
        return record(row, ())


def get_case(ws: Workspace, case_id: str) -> CaseRecord:
    """One case with its photos. Raises :class:`CaseNotFound`."""
    with ws.catalog.read() as session:
        return _load(session, ws.contract_id, case_id)


def find_case(ws: Workspace, case_number: str, agency: str = "") -> CaseRecord:
    """The case with this number in the agency. Raises :class:`CaseNotFound`."""
    with ws.catalog.read() as session:
        case_id = session.scalar(
            select(Case.case_id).where(Case.agency == agency, Case.case_number == case_number)
        )
        if case_id is None:
            raise CaseNotFound(case_number)
        return _load(session, ws.contract_id, case_id)


def list_cases(
    ws: Workspace,
    *,
    limit: int = 50,
    cursor: str | None = None,
    status: CaseStatus | None = None,
    agency: str | None = None,
    text: str | None = None,
    within: str | None = None,
) -> Page[CaseRecord]:
    """Cases with their photos, newest first; ``text`` is looked for in the case number.

    ``agency`` is a wish; ``within`` the agency of who asks, beyond which nothing is listed.

    Raises :class:`InvalidCursor`.
    """
    query = select(Case).order_by(Case.case_id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Case.case_id < decode_cursor(cursor))
    if status is not None:
        query = query.where(Case.status == status)
    if agency is not None:
        query = query.where(Case.agency == agency)
    if within is not None:
        query = query.where(Case.agency == within)
    if text:
        query = query.where(Case.case_number.icontains(text, autoescape=True))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        shown = rows[:limit]
        photos = photos_of(session, ws.contract_id, [row.case_id for row in shown])
        items = tuple(record(row, photos.get(row.case_id, ())) for row in shown)
    more = len(rows) > limit
    note(cases=[item.case_id for item in items])
    return Page(items, encode_cursor(items[-1].case_id) if more else None)


def update_case(
    ws: Workspace, case_id: str, changes: Mapping[str, Any], *, actor: str = "system"
) -> CaseRecord:
    """Change fields of :class:`CaseInput` or ``status``; ``person`` and ``last_seen`` are
    replaced whole.

    Found or closed: its vectors and unreviewed candidates are gone from every search when this
    returns. Open again: a job enrols the stored photos anew. Raises :class:`CaseNotFound`,
    :class:`DuplicateCaseNumber`, ``ValueError`` for another key or value.
    """
    unknown = set(changes) - _CHANGEABLE
    if unknown:
        raise ValueError(f"no such field of a case: {', '.join(sorted(unknown))}")
    status = changes.get("status")
    if "status" in changes and status not in ("open", "found", "closed"):
        raise ValueError("status is one of open, found, closed")
    # What is withdrawn from search is withdrawn even where the disk is full.
    change = deletes(_change) if status in ("found", "closed") else _change
    return change(ws, case_id, changes, actor)


def _change(ws: Workspace, case_id: str, changes: Mapping[str, Any], actor: str) -> CaseRecord:
    status = changes.get("status")
    withdrawn = False
    with ws.catalog.write() as session:
        row = session.get(Case, case_id)
        if row is None:
            raise CaseNotFound(case_id)
        agency = changes.get("agency", row.agency)
        number = changes.get("case_number", row.case_number)
        if (agency, number) != (row.agency, row.case_number):
            _refuse_duplicate(session, agency, number)
            ensure_agency(session, agency)
        before = row.alert_expected_false
        for name, value in columns(changes).items():
            setattr(row, name, value)
        if status is not None and status != row.status:
            if row.status == "open":
                _withdraw(ws, session, row, actor)
                approvals.end(session, row)
                audit.record(
                    session,
                    "case.end",
                    subject=("case", case_id),
                    case_id=case_id,
                    details={"status": status, "agency": row.agency},
                )
                withdrawn = True
            elif status == "open":
                approvals.begin(row, required=ws.options.approval_required)
                photos = session.scalars(select(Photo.photo_id).where(Photo.case_id == case_id))
                if total := len(photos.all()):
                    # It hands on to the other generations.
                    queue.enqueue(session, "enrol_case", case_id, total=total)
            row.status = status
        if row.status == "open" and (row.alert_expected_false or 0.0) > (before or 0.0):
            # More is to be told now, of what is stored too.
            queue.enqueue(session, "probe_case", case_id)
        row.updated_at = utc_now()
        session.flush()
        audit.record(
            session,
            "case.update",
            subject=("case", case_id),
            case_id=case_id,
            details={"fields": sorted(changes), "status": row.status},
        )
        _refresh_tags(session, case_id)
        record = _load(session, ws.contract_id, case_id)
    if withdrawn:
        removals.finish_if_possible(ws)
    return record


def _refresh_tags(session: Session, case_id: str) -> None:
    """Log the enrolled faces of a case anew, under every contract, where their tags changed."""
    rows = session.execute(
        select(Enrolment.contract_id, Enrolment.face_id)
        .join(Photo, Photo.photo_id == Enrolment.photo_id)
        .where(Photo.case_id == case_id, Enrolment.face_id.is_not(None))
    ).all()
    for contract in {row.contract_id for row in rows}:
        own = [row.face_id for row in rows if row.contract_id == contract]
        refresh_faces(session, "cases", contract, [face_id for face_id in own if face_id])


def _withdraw(ws: Workspace, session: Session, case: Case, actor: str) -> None:
    """Take a case that is found or closed out of every search."""
    # Under every contract: an older generation of vectors must not outlive the search either.
    faces = session.execute(
        select(Face.face_id, Face.contract_id, Face.sha256)
        .join(Photo, Photo.sha256 == Face.sha256)
        .join(
            GalleryMember,
            (GalleryMember.face_id == Face.face_id) & (GalleryMember.gallery == "cases"),
        )
        .where(Photo.case_id == case.case_id)
        .distinct()
    ).all()
    kept = set(
        session.scalars(
            select(Enrolment.face_id)
            .join(Photo, Photo.photo_id == Enrolment.photo_id)
            .join(Case, Case.case_id == Photo.case_id)
            .where(
                Photo.sha256.in_({sha256 for _, _, sha256 in faces}),
                Photo.case_id != case.case_id,
                Case.status == "open",
            )
        )
    )
    leaving = [(face_id, contract) for face_id, contract, _ in faces if face_id not in kept]
    for contract in {contract for _, contract in leaving}:
        remove_faces(session, "cases", contract, [f for f, c in leaving if c == contract])
    vectors = drop_idle_vectors(session, [face_id for face_id, _ in leaving])
    candidates = session.scalars(
        select(Candidate.candidate_id).where(
            Candidate.case_id == case.case_id, Candidate.status == "unreviewed"
        )
    ).all()
    for some in chunks(candidates):
        session.execute(delete(Candidate).where(Candidate.candidate_id.in_(some)))
    drop_empty_leads(session, [case.case_id])
    removals.request(session, [])
    ask_tidy(session, ws, case.case_id)
    record_purge(
        session,
        actor,
        "case_withdrawn",
        case.case_id,
        {"vectors": vectors, "candidates": len(candidates)},
    )


def _refuse_duplicate(session: Session, agency: str, case_number: str) -> None:
    existing = session.scalar(
        select(Case.case_id).where(Case.agency == agency, Case.case_number == case_number)
    )
    if existing is not None:
        raise DuplicateCaseNumber(case_number, existing)


# --- photos ----------------------------------------------------------------------------------


def add_photo(
    ws: Workspace,
    case_id: str,
    data: bytes,
    *,
    filename: str | None = None,
    face_index: int | None = None,
    taken_on: date | None = None,
) -> PhotoReceipt:
    """Enrol one face of a photo in an open case and queue the search of the ads for it.

    ``face_index`` says which face is the missing person where there are several (numbered by
    area, largest first, then left to right). The same bytes again give the photo that is there;
    one whose face another model did not find again is enrolled anew.
    Where anything is refused, nothing is kept. Raises :class:`CaseNotFound`,
    :class:`CaseClosed`, ``ImageRejected``, :class:`NoFaceFound`, :class:`SeveralFacesFound`,
    :class:`FaceIndexInvalid`, :class:`FaceTooSmall`, :class:`PhotoAlreadyEnrolled`,
    :class:`StorageLow`, :class:`GenerationDropped`.
    """
    sha256 = sha256_hex(data)
    with ws.catalog.read() as session:
        require_open(session, case_id)
        known = _known_photo(session, ws, case_id, sha256, face_index)
    if known is not None:
        return known
    require_room(ws)
    image, faces = images.examine(ws, data)
    chosen = choose_face(faces, face_index, ws.options.min_face_px)
    ws.blobs.put(data)
    with removals.discard_if_refused(ws, [sha256]), ws.catalog.write() as session:
        require_live(session, ws.contract_id)
        require_open(session, case_id)
        known = _known_photo(session, ws, case_id, sha256, face_index)
        if known is not None:
            return known
        if not ws.blobs.has(sha256):
            # Another owner of the same bytes was forgotten since they were put.
            ws.blobs.put(data)
        withheld.arrived(session, ws, [sha256])
        return _enrol(
            session, ws, case_id, sha256, len(data), image, faces, chosen, filename, taken_on
        )


def _enrol(
    session: Session,
    ws: Workspace,
    case_id: str,
    sha256: str,
    size: int,
    image: DecodedImage,
    faces: list[FoundFace],
    chosen: int,
    filename: str | None,
    taken_on: date | None,
) -> PhotoReceipt:
    images.ensure_row(session, sha256, size, image)
    rows = images.store_faces(session, ws.contract_id, sha256, faces, keep={chosen})
    face = rows[chosen]
    before = session.scalar(select(Photo).where(Photo.case_id == case_id, Photo.sha256 == sha256))
    photo = before or Photo(
        photo_id=new_id(),
        case_id=case_id,
        sha256=sha256,
        filename=short_name(filename),
        taken_on=taken_on,
        created_at=utc_now(),
    )
    # One that is there could not be enrolled, since its face was not found again.
    photo.enrolled_face_index = face.face_index
    photo.x, photo.y, photo.width, photo.height = face.x, face.y, face.width, face.height
    photo.job_id = queue.enqueue(session, "probe_case", case_id, photo_id=photo.photo_id)
    # Where faces of ads are not kept, the search is over once their pictures were read again.
    photo.job_id = ask(session, ws, case_id) or photo.job_id
    session.add(photo)
    session.flush()
    session.merge(
        Enrolment(
            photo_id=photo.photo_id,
            contract_id=ws.contract_id,
            face_id=face.face_id,
            code=None,
        )
    )
    session.flush()
    add_faces(session, "cases", ws.contract_id, [face.face_id])
    share_case(session, ws.contract_id, case_id, 1)
    audit.record(
        session,
        "photo.add",
        subject=("photo", photo.photo_id),
        case_id=case_id,
        details={
            "faces": len(faces),
            "face_index": face.face_index,
            "contract_id": ws.contract_id,
            "job_id": photo.job_id,
        },
    )
    return _receipt(session, ws.contract_id, photo, created=before is None)


def _known_photo(
    session: Session, ws: Workspace, case_id: str, sha256: str, face_index: int | None
) -> PhotoReceipt | None:
    row = session.scalar(select(Photo).where(Photo.case_id == case_id, Photo.sha256 == sha256))
    if row is None or _not_enrolled(session, ws.contract_id, row):
        return None
    enrolled = _enrolled_index(session, ws.contract_id, row)
    if face_index is not None and face_index != enrolled:
        raise PhotoAlreadyEnrolled(row.photo_id, enrolled)
    return _receipt(session, ws.contract_id, row, created=False)


def _not_enrolled(session: Session, contract_id: str, row: Photo) -> bool:
    """Whether the face of a photo was looked for under this contract and not found."""
    found = session.get(Enrolment, (row.photo_id, contract_id))
    return found is not None and found.face_id is None


def _enrolled_index(session: Session, contract_id: str, row: Photo) -> int:
    """The number of the enrolled face as the analysis under this contract numbers them."""
    found = session.scalar(
        select(Face.face_index)
        .join(Enrolment, Enrolment.face_id == Face.face_id)
        .where(Enrolment.photo_id == row.photo_id, Enrolment.contract_id == contract_id)
    )
    return row.enrolled_face_index if found is None else found


def _receipt(session: Session, contract_id: str, row: Photo, *, created: bool) -> PhotoReceipt:
    image = session.get_one(ImageRow, row.sha256)
    return PhotoReceipt(
        photo_id=row.photo_id,
        job_id=row.job_id or "",
        sha256=row.sha256,
        width=image.width,
        height=image.height,
        faces=images.faces_in(session, contract_id, [row.sha256]).get(row.sha256, ()),
        enrolled_face_index=_enrolled_index(session, contract_id, row),
        created=created,
        notes=tuple(image.notes),
    )


def get_photo(ws: Workspace, case_id: str, photo_id: str) -> PhotoRecord:
    """One photo. Raises :class:`CaseNotFound`, :class:`PhotoNotFound`."""
    for photo in get_case(ws, case_id).photos:
        if photo.photo_id == photo_id:
            return photo
    raise PhotoNotFound(photo_id)


def require_open(session: Session, case_id: str) -> Case:
    """The row of an open case. Raises :class:`CaseNotFound`, :class:`CaseClosed`."""
    row = session.get(Case, case_id, populate_existing=True)
    if row is None:
        raise CaseNotFound(case_id)
    if row.status != "open":
        raise CaseClosed(case_id, row.status)
    return row


def _load(session: Session, contract_id: str, case_id: str) -> CaseRecord:
    row = session.get(Case, case_id)
    if row is None:
        raise CaseNotFound(case_id)
    return record(row, photos_of(session, contract_id, [case_id]).get(case_id, ()))
