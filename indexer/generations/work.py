"""What is queued for generations: what one has received goes to all, and searches start anew."""

from __future__ import annotations

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from indexer import queue
from indexer.catalog.tables import Case, Job, Photo
from indexer.generations.rows import others
from indexer.searchable import clock, searchable


def share_images(
    session: Session, contract_id: str, ad_id: str, capture_id: str, total: int
) -> None:
    """Have the other generations read the images of a capture, in the caller's transaction:
    whoever stores under one contract sees here which others there are at that very moment."""
    for other in others(session, contract_id):
        queue.enqueue(
            session,
            "embed_images",
            ad_id,
            total=total,
            contract_id=other.contract_id,
            capture_id=capture_id,
        )


def share_case(session: Session, contract_id: str, case_id: str, total: int) -> None:
    """Have the other generations enrol the photos of a case, in the caller's transaction."""
    for other in others(session, contract_id):
        queued = session.scalar(
            select(Job.job_id)
            .where(
                Job.kind == "embed_case",
                Job.subject_id == case_id,
                Job.contract_id == other.contract_id,
                Job.state == "queued",
            )
            .limit(1)
        )
        if queued is None:
            queue.enqueue(
                session, "embed_case", case_id, total=total, contract_id=other.contract_id
            )


def start_anew(session: Session) -> None:
    """Search for every case that may be searched once more, in the caller's transaction: another
    model answers, or its scores are worth something else. What cases knew of scores holds no
    longer."""
    session.execute(update(Case).values(listed_floor=None))
    queued = exists().where(
        Job.kind == "probe_case", Job.subject_id == Photo.case_id, Job.state == "queued"
    )
    searched = (
        select(Photo.case_id)
        .join(Case, Case.case_id == Photo.case_id)
        .where(searchable(clock(session)), ~queued)
        .group_by(Photo.case_id)
        .order_by(func.max(Photo.photo_id).desc())
    )
    for case_id in session.scalars(searched).all():
        queue.enqueue(session, "probe_case", case_id)
