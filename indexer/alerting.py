"""When a candidate is told to the case's team: once, rarely enough, and never silently not.

A candidate is told when so few strangers are to be expected at its score as its case allows: the
upper bound of the false match rate of the fused score, times the size of the gallery of ads. The
gallery counts as ``LEAST_GALLERY`` faces at least, or a new installation, in which one stranger in
ten would do, would cry wolf on its first day.

A case that has raised its weekly budget of alerts is told of rarer things only: what it allows is
divided by ten, and again for each further budget's worth. It never falls below what the
calibration can tell apart in so large a gallery, so the strongest candidates always come through.
What is held back is noted with the candidate, stays in the ranked list, and is told once the week
allows it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from indexer import audit
from indexer.batches import chunks
from indexer.catalog.tables import Alert, Candidate, Case
from indexer.generations.rows import is_active
from indexer.ids import new_id
from indexer.kept_faces import compared_size
from indexer.notify import queue_deliveries
from indexer.records import AlertLimit
from indexer.searchable import clock, is_searchable
from indexer.times import utc_now
from indexer.workspace import Workspace

LEAST_GALLERY = 1_000
STEP = 10.0
WEEK = timedelta(days=7)


def base_limit(ws: Workspace, case: Case) -> float:
    """The strangers to expect at which an alert of this case is raised as long as few are."""
    return case.alert_expected_false or ws.options.alert_expected_false


def limit_in_force(session: Session, ws: Workspace, case: Case) -> AlertLimit:
    """What is told for a case now."""
    base = base_limit(ws, case)
    budget = case.alert_budget or ws.options.alert_budget
    now = utc_now()
    raised = session.scalar(
        select(func.count()).where(
            Alert.case_id == case.case_id,
            Alert.created_at > now - WEEK,
            # A clock that was set back must not keep the budget spent for years.
            Alert.created_at < now + WEEK,
        )
    )
    return _limit(base, raised or 0, budget)


def _limit(base: float, raised: int, budget: int) -> AlertLimit:
    # Thirty steps are far below anything that a calibration can promise.
    steps = min(raised // budget, 30)
    return AlertLimit(expected_false=base / STEP**steps, base=base, raised=raised, budget=budget)


def expected_false(ws: Workspace, score: float, photos: int, gallery_size: int) -> float | None:
    """Strangers to expect at ``score`` or above in the gallery, by the upper bound of the rate;
    ``None`` where the pack is not calibrated."""
    if ws.calibration is None:
        return None
    rate = ws.calibration.fmr(score, max(1, photos)).upper
    return rate * max(gallery_size, LEAST_GALLERY)


def _allowed(ws: Workspace, photos: int, gallery_size: int, limit: float) -> float:
    """``limit``, or the fewest strangers that the calibration can promise in this gallery at any
    score, where that is more: however large the gallery, the surest are told."""
    return max(limit, expected_false(ws, 1.0, photos, gallery_size) or 0.0)


def is_told(ws: Workspace, score: float, photos: int, gallery_size: int, limit: float) -> bool:
    """Whether a candidate with this fused score is told where ``limit`` strangers are allowed."""
    strangers = expected_false(ws, score, photos, gallery_size)
    return strangers is not None and strangers <= _allowed(ws, photos, gallery_size, limit)


def raise_alerts(
    session: Session, ws: Workspace, case: Case, face_ids: Collection[str], gallery_size: int
) -> list[str]:
    """Raise what is to be told of these candidates, in the caller's transaction, best first;
    returns the ids of the alerts.

    Nothing is told of a candidate that was judged, of a sighting that was told before, or for a
    case that may not be searched. Nothing is told under a contract that is not (any more) the one
    in use: whoever reads the same under that one tells it.
    """
    if ws.calibration is None or not is_searchable(case, clock(session)):
        return []
    if not is_active(session, ws.contract_id):
        return []
    rows = _untold(session, case.case_id, face_ids)
    limit = limit_in_force(session, ws, case)
    raised: list[str] = []
    told: set[str] = set()
    for row in sorted(rows, key=lambda row: (-row.score, row.candidate_id)):
        worth = row.score, row.photos_fused, gallery_size
        if row.sighting_id in told:
            continue
        if not is_told(ws, *worth, limit.base):
            row.held_at = None
            continue
        if not is_told(ws, *worth, limit.expected_false):
            row.held_at = row.held_at or utc_now()
            continue
        strangers = expected_false(ws, *worth)
        assert strangers is not None
        raised.append(_raise(session, ws, case, row, strangers, limit, gallery_size))
        told.add(row.sighting_id)
        limit = _limit(limit.base, limit.raised + 1, limit.budget)
    return raised


def _untold(session: Session, case_id: str, face_ids: Collection[str]) -> list[Candidate]:
    found: list[Candidate] = []
    for some in chunks(face_ids):
        found += session.scalars(
            select(Candidate)
            .outerjoin(
                Alert,
                (Alert.case_id == Candidate.case_id) & (Alert.sighting_id == Candidate.sighting_id),
            )
            .where(
                Candidate.case_id == case_id,
                Candidate.face_id.in_(some),
                Candidate.status == "unreviewed",
                Alert.seq.is_(None),
            )
        )
    return found


def _raise(
    session: Session,
    ws: Workspace,
    case: Case,
    row: Candidate,
    strangers: float,
    limit: AlertLimit,
    gallery_size: int,
) -> str:
    alert = Alert(
        alert_id=new_id(),
        case_id=case.case_id,
        candidate_id=row.candidate_id,
        sighting_id=row.sighting_id,
        lead_id=row.lead_id,
        face_id=row.face_id,
        contract_id=row.contract_id,
        score=row.score,
        photos_fused=row.photos_fused,
        gallery_size=gallery_size,
        expected_false=strangers,
        expected_false_limit=limit.expected_false,
        tightened=limit.tightened,
        created_at=utc_now(),
    )
    session.add(alert)
    session.flush()
    # The other copies of the same sighting need no alert of their own any more.
    session.execute(
        update(Candidate)
        .where(Candidate.case_id == case.case_id, Candidate.sighting_id == row.sighting_id)
        .values(held_at=None)
    )
    queue_deliveries(session, alert, case, emails=ws.options.emails)
    audit.record(
        session,
        "alert.raise",
        subject=("alert", alert.alert_id),
        case_id=case.case_id,
        details={
            "candidate_id": row.candidate_id,
            "lead_id": row.lead_id,
            "contract_id": row.contract_id,
            "gallery_size": gallery_size,
        },
    )
    return alert.alert_id


def release_held(ws: Workspace) -> int:
    """Tell what was held back, for the cases whose week allows it now; returns how many alerts."""
    with ws.catalog.read() as session:
        case_ids = session.scalars(
            select(Candidate.case_id)
            .where(Candidate.held_at.is_not(None), Candidate.contract_id == ws.contract_id)
            .distinct()
        ).all()
        # Looked at without the write lock: most weeks allow nothing yet.
        free = [
            case_id
            for case_id in case_ids
            if (case := session.get(Case, case_id)) is not None
            and not limit_in_force(session, ws, case).tightened
        ]
    released = 0
    for case_id in free:
        size = compared_size(ws)
        with ws.catalog.write() as session:
            case = session.get(Case, case_id)
            if case is None or limit_in_force(session, ws, case).tightened:
                continue
            held = session.scalars(
                select(Candidate.face_id).where(
                    Candidate.case_id == case_id,
                    Candidate.held_at.is_not(None),
                    # Of another model its score would be read on the wrong scale.
                    Candidate.contract_id == ws.contract_id,
                )
            ).all()
            released += len(raise_alerts(session, ws, case, held, size))
    return released
