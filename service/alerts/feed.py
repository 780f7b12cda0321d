"""Alerts as they are shown: the record together with what its figures mean."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from indexer import alerts
from indexer.acting import note
from indexer.alerts import AlertPage, AlertRecord
from indexer.records import AdSummary, CaseStatus, FaceRecord, LeadRecord
from indexer.workspace import Workspace
from models.calibration import Band, band
from service.search.explain import NOTICE, rate_notes, shown_band


@dataclass(frozen=True, slots=True)
class Budget:
    """Alerts of the case in the last seven days, and after how many the limit is lowered."""

    this_week: int
    budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertItem:
    """One alert. ``score``, ``false_match_rate_upper`` and ``expected_false_candidates_upper``
    (the rate times the gallery, which gives the score away) are ``None`` for who may not see
    scores; the rate also where the alert is of another embedding contract than the present."""

    seq: int
    alert_id: str
    created_at: datetime
    case_id: str
    case_number: str
    case_status: CaseStatus
    candidate_id: str
    lead_id: str
    score: float | None
    false_match_rate_upper: float | None
    expected_false_candidates_upper: float | None
    expected_false_limit: float
    tightened: bool
    band: Band
    limited_pictures: int
    rate_notes: tuple[str, ...]
    gallery_size: int
    photos_fused: int
    contract_id: str
    status: str | None
    face: FaceRecord | None
    image_sha256: str | None
    ad: AdSummary | None
    lead: LeadRecord | None
    budget: Budget
    notice: str = NOTICE


@dataclass(frozen=True, slots=True)
class AlertFeed:
    """A page of alerts, oldest first. ``resume_cursor`` later gives only what is new then."""

    items: tuple[AlertItem, ...]
    next_cursor: str | None
    resume_cursor: str
    notice: str = NOTICE


def feed(
    ws: Workspace,
    *,
    cursor: str | None,
    limit: int,
    case_id: str | None,
    include_closed: bool,
    scores: bool,
    agency: str | None,
) -> AlertFeed:
    """The alerts after ``cursor`` (None: from the first), oldest first, of one agency or of all.

    Raises InvalidCursor.
    """
    page = alerts.list_alerts(
        ws,
        after=0 if cursor is None else alerts.alert_seq(cursor),
        limit=limit,
        case_id=case_id,
        include_closed=include_closed,
        agency=agency,
    )
    return AlertFeed(
        items=shown(ws, page, scores=scores),
        next_cursor=None if page.next_after is None else alerts.alert_cursor(page.next_after),
        resume_cursor=alerts.alert_cursor(page.resume_after),
    )


def one(ws: Workspace, alert_id: str, *, scores: bool) -> AlertItem:
    """One alert, whatever the status of its case. Raises AlertNotFound."""
    record = alerts.get_alert(ws, alert_id)
    note(case_id=record.case_id)
    return _item(ws, record, scores)


def shown(ws: Workspace, page: AlertPage, *, scores: bool) -> tuple[AlertItem, ...]:
    """The alerts of a page as they are shown."""
    note(alerts=[record.alert_id for record in page.items])
    return tuple(_item(ws, record, scores) for record in page.items)


def _item(ws: Workspace, record: AlertRecord, scores: bool) -> AlertItem:
    rate, calibration = None, ws.calibration
    if scores and calibration is not None and calibration.contract_id == record.contract_id:
        rate = calibration.fmr(record.score, max(1, record.photos_fused)).upper
    return AlertItem(
        seq=record.seq,
        alert_id=record.alert_id,
        created_at=record.created_at,
        case_id=record.case_id,
        case_number=record.case_number,
        case_status=record.case_status,
        candidate_id=record.candidate_id,
        lead_id=record.lead_id,
        score=record.score if scores else None,
        false_match_rate_upper=rate,
        expected_false_candidates_upper=record.expected_false if scores else None,
        expected_false_limit=record.expected_false_limit,
        tightened=record.tightened,
        band=shown_band(band(record.expected_false), record.limited_pictures),
        limited_pictures=record.limited_pictures,
        rate_notes=rate_notes(record.limited_pictures),
        gallery_size=record.gallery_size,
        photos_fused=record.photos_fused,
        contract_id=record.contract_id,
        status=record.status,
        face=record.face,
        image_sha256=record.image_sha256,
        ad=record.ad,
        lead=record.lead,
        budget=Budget(
            this_week=record.this_week,
            budget=record.case_budget or ws.options.alert_budget,
        ),
    )
