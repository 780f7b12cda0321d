"""Alerts as rows, for tests of what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import jobs
from indexer.ads import receive_ad
from indexer.catalog.tables import Alert, Candidate, Case
from indexer.ids import new_id
from indexer.records import AdInput, Upload
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.small import face_picture

Then = Callable[[Session, Alert, Case], None]


def add_candidate(ws: Workspace, case_id: str, person: int, number: str, **fields: Any) -> str:
    """A candidate of the case from an ad of its own; returns its id. The case needs a photo."""
    before = set(_candidates(ws, case_id))
    receipt = receive_ad(
        ws,
        AdInput(site="site-a.example", external_id=number, **fields),
        [Upload(face_picture(person, 1, salt=len(before)))],
    )
    # A service that runs beside may have taken the job first.
    while jobs.run_job(ws, receipt.job_id).state in ("queued", "running"):
        time.sleep(0.02)
    fresh = [found for found in _candidates(ws, case_id) if found not in before]
    assert len(fresh) == 1, fresh
    return fresh[0]


def _candidates(ws: Workspace, case_id: str) -> list[str]:
    with ws.catalog.read() as session:
        return list(
            session.scalars(select(Candidate.candidate_id).where(Candidate.case_id == case_id))
        )


def raise_alert(
    ws: Workspace,
    case_id: str,
    candidate_id: str | None = None,
    *,
    then: Then | None = None,
    at: datetime | None = None,
    **values: Any,
) -> str:
    """Write the row of one alert and do ``then`` in the same transaction; returns its id."""
    with ws.catalog.write() as session:
        case = session.get_one(Case, case_id)
        found = None if candidate_id is None else session.get_one(Candidate, candidate_id)
        alert = Alert(
            **{
                "alert_id": new_id(),
                "case_id": case_id,
                "candidate_id": found.candidate_id if found else new_id(),
                "sighting_id": found.sighting_id if found else new_id(),
                "lead_id": found.lead_id if found else new_id(),
                "face_id": found.face_id if found else new_id(),
                "contract_id": ws.contract_id,
                "score": found.score if found else 0.75,
                "photos_fused": 1,
                "gallery_size": 1000,
                "expected_false": 0.05,
                "expected_false_limit": 1.0,
                "tightened": False,
                "created_at": at or utc_now(),
                **values,
            }
        )
        session.add(alert)
        session.flush()
        if then is not None:
            then(session, alert, case)
        return alert.alert_id
