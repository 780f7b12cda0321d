"""How far the ads are compared with a case."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from indexer.catalog.tables import Capture, Job
from indexer.kept_faces import ADS
from indexer.records import SearchState
from indexer.times import utc_now


def search_state(session: Session, contract_id: str, case_id: str, enrolled: int) -> SearchState:
    """How far the ads are compared with a case of which ``enrolled`` photos can be searched.

    ``not_searched`` while there is none (no photo yet, or none under the present contract),
    ``searching`` while one is still being searched for; otherwise every ad received before
    ``up_to`` is in.
    """
    own = session.scalar(
        select(Job.job_id)
        .where(
            Job.state.in_(("queued", "running")),
            or_(
                and_(
                    Job.subject_id == case_id,
                    Job.kind.in_(("probe_case", "enrol_case", "read_again")),
                ),
                # All faces are to be kept again, and are not yet.
                and_(Job.subject_id == ADS, Job.kind == "read_again"),
            ),
        )
        .limit(1)
    )
    # Faces that are still read for the generation in use, say one that was never completed.
    behind = session.scalar(
        select(Job.job_id)
        .where(
            Job.state.in_(("queued", "running")),
            Job.contract_id == contract_id,
            or_(Job.kind == "embed_images", Job.subject_id == case_id),
        )
        .limit(1)
    )
    if own is not None or behind is not None:
        return SearchState(state="searching", up_to=None)
    if not enrolled:
        return SearchState(state="not_searched", up_to=None)
    if _read_in_vain(session, case_id):
        return SearchState(state="not_searched", up_to=None)
    return SearchState(state="searched", up_to=compared_up_to(session))


def _read_in_vain(session: Session, case_id: str) -> bool:
    """Whether the stored pictures were last read for the case without getting to the end."""
    last = session.scalar(
        select(Job.state)
        .where(Job.kind == "read_again", Job.subject_id.in_((case_id, ADS)))
        .order_by(Job.job_id.desc())
        .limit(1)
    )
    return last in ("failed", "dropped")


def compared_up_to(session: Session) -> datetime:
    """Now, or the time of the oldest ad whose analysis waits or broke off."""
    oldest = session.scalar(
        select(func.min(Capture.received_at))
        .join(Job, Job.job_id == Capture.job_id)
        .where(Job.kind == "ingest_ad", Job.state.in_(("queued", "running", "failed")))
    )
    return oldest or utc_now()
