"""Enrolling stored photos of a case: when it is opened again, and under another contract."""

from __future__ import annotations

from contextlib import closing, suppress

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer import images, queue
from indexer.audit.chain import record
from indexer.cases import require_open
from indexer.catalog.tables import Case, Enrolment, GalleryMember, Job, Photo
from indexer.errors import ApprovalRequired, CaseClosed, CaseNotFound
from indexer.faces import apart, box_of, same_place
from indexer.galleries import add_faces
from indexer.generations.rows import is_active, require_live
from indexer.generations.work import share_case
from indexer.images import Analysed
from indexer.kept_faces import ask, compared_size
from indexer.records import Failure, JobRecord
from indexer.searches import purpose_of
from indexer.trials import analyse_one_by_one
from indexer.watchlist import probe_ads
from indexer.withheld import checks
from indexer.workspace import Workspace
from models.types import Box


def probe_case(ws: Workspace, job: JobRecord) -> None:
    """Compare a case with the ads, and its photos with the lists of hashes."""
    with ws.catalog.read() as session:
        own = session.scalars(select(Photo.sha256).where(Photo.case_id == job.subject_id)).all()
    checks.check(ws, own)
    alerts = _probe(ws, job.subject_id)
    with ws.catalog.write() as session:
        _note_probe(ws, session, job, alerts)
        row = session.get(Job, job.job_id)
        if alerts is not None and row is not None and "photo_id" not in row.payload:
            ask(session, ws, job.subject_id)
        queue.finish(session, ws.runner_id, job.job_id)


def _probe(ws: Workspace, case_id: str) -> int | None:
    """How many alerts a search of the ads raised; None where there was none."""
    # Without the case, once it is closed, and while it is suspended nobody is looked for; an
    # approval queues the search anew.
    with suppress(CaseNotFound, CaseClosed, ApprovalRequired):
        return probe_ads(ws, case_id)
    return None


def _note_probe(ws: Workspace, session: Session, job: JobRecord, alerts: int | None) -> None:
    """Record that a case was searched for by a job, in the transaction that ends it."""
    case = session.get(Case, job.subject_id)
    if alerts is None or case is None:
        return
    record(
        session,
        "search.watch",
        subject=("job", job.job_id),
        case_id=case.case_id,
        purpose=purpose_of(case),
        details={
            "gallery_size": compared_size(ws),
            "contract_id": ws.contract_id,
            "alerts": alerts,
            "agency": case.agency,
        },
    )


def enrol_case(ws: Workspace, job: JobRecord) -> None:
    """Enrol those photos of an open case that are not in the gallery under the contract of this
    view; where that one is in use, compare the case with the ads. A job for the contract in use
    has the other generations do so after."""
    with ws.catalog.read() as session:
        by_sha = _photos_outside(session, ws.contract_id, job.subject_id)
    failures: list[Failure] = []
    analyse = analyse_one_by_one if job.alone else images.analyse_stored
    with closing(analyse(ws, list(by_sha))) as results:
        for at, one in enumerate(results, start=1):
            sha256 = one.item if isinstance(one, Failure) else one.sha256
            with ws.catalog.write() as session:
                require_live(session, ws.contract_id)
                try:
                    require_open(session, job.subject_id)
                except (CaseNotFound, CaseClosed):
                    break
                failure = _enrol(session, ws.contract_id, by_sha[sha256], one)
                if failure is not None:
                    failures.append(failure)
                queue.advance(session, ws.runner_id, job.job_id, at)
    with ws.catalog.read() as session:
        active = is_active(session, ws.contract_id)
    alerts = _probe(ws, job.subject_id) if active else None
    with ws.catalog.write() as session:
        _note_probe(ws, session, job, alerts)
        if active:
            ask(session, ws, job.subject_id)
        if job.kind == "enrol_case":
            # Only now is it known under which contract it was done, and which others there are.
            share_case(session, ws.contract_id, job.subject_id, max(1, len(by_sha)))
        queue.finish(session, ws.runner_id, job.job_id, failures)


def _photos_outside(session: Session, contract_id: str, case_id: str) -> dict[str, str]:
    """Photos of a case that are not in the gallery under the contract: SHA-256 to id."""
    inside = (
        select(Enrolment.photo_id)
        .join(GalleryMember, GalleryMember.face_id == Enrolment.face_id)
        .where(
            Enrolment.photo_id == Photo.photo_id,
            Enrolment.contract_id == contract_id,
            GalleryMember.gallery == "cases",
            GalleryMember.contract_id == contract_id,
        )
    )
    rows = session.execute(
        select(Photo.sha256, Photo.photo_id)
        .where(Photo.case_id == case_id, ~inside.exists())
        .order_by(Photo.photo_id)
    )
    return {row.sha256: row.photo_id for row in rows}


def _enrol(
    session: Session, contract_id: str, photo_id: str, one: Analysed | Failure
) -> Failure | None:
    """Enrol the face that lies where the chosen face of the photo lay, or note why not."""
    photo = session.get(Photo, photo_id)
    if photo is None:
        return None
    if isinstance(one, Failure):
        failure = Failure(item=photo_id, code=one.code, detail=one.detail)
        _note(session, contract_id, photo_id, None, failure.code)
        return failure
    box = box_of(photo)
    chosen = _nearest(one, box)
    if chosen is None:
        _note(session, contract_id, photo_id, None, "no_face_found")
        return Failure(
            item=photo_id,
            code="no_face_found",
            detail="The enrolled face was not found again in the photo; enrol the photo anew.",
        )
    rows = images.store_faces(session, contract_id, one.sha256, one.faces, keep={chosen})
    face_id = rows[chosen].face_id
    _note(session, contract_id, photo_id, face_id, None)
    add_faces(session, "cases", contract_id, [face_id])
    return None


def _nearest(one: Analysed, box: Box) -> int | None:
    """The number of the face that lies nearest to the box, where it is the same face."""
    best = min(range(len(one.faces)), key=lambda i: apart(one.faces[i].box, box), default=None)
    return best if best is not None and same_place(one.faces[best].box, box) else None


def _note(
    session: Session, contract_id: str, photo_id: str, face_id: str | None, code: str | None
) -> None:
    key = (Enrolment.photo_id == photo_id, Enrolment.contract_id == contract_id)
    session.execute(delete(Enrolment).where(*key))
    session.add(Enrolment(photo_id=photo_id, contract_id=contract_id, face_id=face_id, code=code))
    session.flush()
