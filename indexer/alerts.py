"""Alerts as they are read: in the order in which they were raised, from any place on.

A row of the catalog holds ids and the figures of the moment it was raised; what is known of the
candidate now (status, face, ad, lead) is joined when it is read, and is ``None`` where it has
been forgotten since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from indexer.alerting import WEEK, limit_in_force
from indexer.candidates import NO_FILTER, first_ads
from indexer.catalog.tables import Alert, Candidate, Case, Face
from indexer.enrolled import limited_pictures
from indexer.errors import AlertNotFound, CaseNotFound, InvalidCursor
from indexer.faces import face_record
from indexer.ids import open_cursor, seal_cursor
from indexer.leads import lead_records
from indexer.records import AdSummary, AlertLimit, CaseStatus, FaceRecord, LeadRecord
from indexer.times import utc_now
from indexer.workspace import Workspace

_LARGEST_SEQ: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRecord:
    """One alert. Its figures are those of the moment it was raised.

    ``expected_false`` is the upper bound of strangers to expect at the score, at most
    ``expected_false_limit``. ``this_week`` counts the case's alerts of the last seven days;
    ``case_budget`` is ``None`` where the installation's own holds. ``status`` to ``lead`` are
    what is known now; so is ``limited_pictures``: of the nearest photo and the ad's face, how many
    are such that rates do not hold.
    """

    seq: int
    alert_id: str
    created_at: datetime
    case_id: str
    case_number: str
    case_status: CaseStatus
    candidate_id: str
    lead_id: str
    contract_id: str
    score: float
    photos_fused: int
    gallery_size: int
    expected_false: float
    expected_false_limit: float
    tightened: bool
    this_week: int
    case_budget: int | None
    status: str | None
    face: FaceRecord | None
    limited_pictures: int
    image_sha256: str | None
    ad: AdSummary | None
    lead: LeadRecord | None


@dataclass(frozen=True, slots=True)
class AlertPage:
    """Some alerts. ``next_after`` continues the list and is ``None`` on its last page;
    ``resume_after`` is the place from which only what is raised later is new."""

    items: tuple[AlertRecord, ...]
    next_after: int | None
    resume_after: int


@dataclass(frozen=True, slots=True)
class AlertStanding:
    """How a case stands with its alerts: the limit now, and how many candidates it holds back."""

    limit: AlertLimit
    held: int


# --- places in the list ----------------------------------------------------------------------


def alert_cursor(seq: int) -> str:
    """An opaque cursor for the place after the alert numbered ``seq`` (0: before the first)."""
    return seal_cursor("a1", str(seq))


def alert_seq(cursor: str) -> int:
    """The place that a cursor names. Raises :class:`InvalidCursor` for anything else."""
    number = open_cursor("a1", cursor)
    if not number.isdecimal() or len(number) > len(str(_LARGEST_SEQ)):
        raise InvalidCursor
    seq = int(number)
    if seq > _LARGEST_SEQ:
        raise InvalidCursor
    return seq


def latest_seq(ws: Workspace) -> int:
    """The number of the newest alert, 0 where there is none; one cheap query."""
    with ws.catalog.read() as session:
        return _latest(session)


def _latest(session: Session) -> int:
    return session.scalar(select(func.max(Alert.seq))) or 0


# --- reading ---------------------------------------------------------------------------------


def list_alerts(
    ws: Workspace,
    *,
    after: int = 0,
    limit: int = 50,
    case_id: str | None = None,
    include_closed: bool = False,
    agency: str | None = None,
) -> AlertPage:
    """Alerts raised after the one numbered ``after``, oldest first.

    Those of cases that are found or closed are left out unless ``include_closed``; ``agency``:
    only those of its cases.
    """
    query = _query(case_id, include_closed, agency).where(Alert.seq > after)
    with ws.catalog.read() as session:
        rows = session.execute(query.order_by(Alert.seq).limit(limit + 1)).all()
        items = _records(session, rows[:limit])
        if len(rows) > limit:
            return AlertPage(items, items[-1].seq, items[-1].seq)
        # What was left out here counts as seen too: numbers rise in the order of commits.
        return AlertPage(items, None, max(after, _latest(session)))


def recent_alerts(
    ws: Workspace,
    *,
    before: int | None = None,
    limit: int = 50,
    case_id: str | None = None,
    include_closed: bool = False,
    agency: str | None = None,
) -> AlertPage:
    """Alerts, newest first, from the one before that numbered ``before`` on.

    ``agency``: only those of its cases. ``next_after`` is the ``before`` of the page that follows.
    """
    query = _query(case_id, include_closed, agency)
    if before is not None:
        query = query.where(Alert.seq < before)
    with ws.catalog.read() as session:
        rows = session.execute(query.order_by(Alert.seq.desc()).limit(limit + 1)).all()
        items = _records(session, rows[:limit])
        more = items[-1].seq if len(rows) > limit else None
        return AlertPage(items, more, _latest(session))


def get_alert(ws: Workspace, alert_id: str) -> AlertRecord:
    """One alert, whatever the status of its case. Raises :class:`AlertNotFound`."""
    with ws.catalog.read() as session:
        rows = session.execute(_query(None, True).where(Alert.alert_id == alert_id)).all()
        if not rows:
            raise AlertNotFound(alert_id)
        return _records(session, rows)[0]


def _query(
    case_id: str | None, include_closed: bool, agency: str | None = None
) -> Select[Alert, Case, Candidate, Face]:
    query = (
        select(Alert, Case, Candidate, Face)
        .join(Case, Case.case_id == Alert.case_id)
        .outerjoin(Candidate, Candidate.candidate_id == Alert.candidate_id)
        .outerjoin(Face, Face.face_id == Candidate.face_id)
    )
    if case_id is not None:
        query = query.where(Alert.case_id == case_id)
    if agency is not None:
        query = query.where(Case.agency == agency)
    if not include_closed:
        query = query.where(Case.status == "open")
    return query


def _records(session: Session, rows: Sequence[Any]) -> tuple[AlertRecord, ...]:
    weeks = raised_this_week(session, {alert.case_id for alert, _, _, _ in rows})
    ads = first_ads(session, [face.sha256 for _, _, _, face in rows if face], NO_FILTER)
    leads = lead_records(session, [found.lead_id for _, _, found, _ in rows if found])
    limited = limited_pictures(session, [(alert.case_id, face) for alert, _, _, face in rows])
    return tuple(
        AlertRecord(
            seq=alert.seq,
            alert_id=alert.alert_id,
            created_at=alert.created_at,
            case_id=alert.case_id,
            case_number=case.case_number,
            case_status=cast("CaseStatus", case.status),
            candidate_id=alert.candidate_id,
            lead_id=alert.lead_id,
            contract_id=alert.contract_id,
            score=alert.score,
            photos_fused=alert.photos_fused,
            gallery_size=alert.gallery_size,
            expected_false=alert.expected_false,
            expected_false_limit=alert.expected_false_limit,
            tightened=alert.tightened,
            this_week=weeks.get(alert.case_id, 0),
            case_budget=case.alert_budget,
            status=found.status if found else None,
            face=face_record(face) if face else None,
            limited_pictures=pictures,
            image_sha256=face.sha256 if face else None,
            ad=ads.get(face.sha256) if face else None,
            lead=leads.get(found.lead_id) if found else None,
        )
        for (alert, case, found, face), pictures in zip(rows, limited, strict=True)
    )


# --- the weekly budget -----------------------------------------------------------------------


def raised_this_week(session: Session, case_ids: set[str]) -> dict[str, int]:
    """How many alerts the cases raised in the last seven days; those with none are left out."""
    if not case_ids:
        return {}
    rows = session.execute(
        select(Alert.case_id, func.count())
        .where(Alert.case_id.in_(case_ids), Alert.created_at > utc_now() - WEEK)
        .group_by(Alert.case_id)
    )
    return {row[0]: row[1] for row in rows}


def standing(ws: Workspace, case_id: str) -> AlertStanding:
    """How a case stands with its alerts. Raises :class:`CaseNotFound`."""
    with ws.catalog.read() as session:
        case = session.get(Case, case_id)
        if case is None:
            raise CaseNotFound(case_id)
        held = session.scalar(
            select(func.count()).where(
                Candidate.case_id == case_id,
                Candidate.held_at.is_not(None),
                Candidate.contract_id == ws.contract_id,
            )
        )
        return AlertStanding(limit_in_force(session, ws, case), held or 0)
