"""What is queued so that every generation receives what one of them has just received."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import queue
from indexer.catalog.tables import Job
from indexer.generations.rows import others


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
