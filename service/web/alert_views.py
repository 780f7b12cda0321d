"""What the pages show of alerts, put into words. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from indexer import alerts, cases
from indexer.records import CaseRecord
from indexer.workspace import Workspace
from service.alerts import feed
from service.alerts.feed import AlertItem
from service.web import texts
from service.web.views import rate_text, rounded


@dataclass(frozen=True, slots=True)
class AlertView:
    """One alert in words. ``limit`` is the limit that was in force; ``expectation`` and
    ``figures`` are empty for who may not see scores."""

    item: AlertItem
    expectation: str
    limit: str
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AlertList:
    """Alerts, newest first, of ``case`` where it is of one only. ``silent``: as in
    ``StandingView``."""

    items: tuple[AlertView, ...]
    next_cursor: str | None
    case: CaseRecord | None
    silent: bool


@dataclass(frozen=True, slots=True)
class StandingView:
    """How a case stands with its alerts, in words. ``silent``: none are raised at all, because
    the face pack is uncalibrated."""

    raised: int
    held: int
    budget: str
    limit: str
    limit_now: str
    tightened: bool
    silent: bool


def alert_list(
    ws: Workspace,
    *,
    cursor: str | None,
    case_id: str | None,
    include_closed: bool,
    scores: bool,
    agency: str | None,
) -> AlertList:
    """One page of alerts, of one agency or of all. Raises InvalidCursor and CaseNotFound."""
    case = None if case_id is None else cases.get_case(ws, case_id)
    page = alerts.recent_alerts(
        ws,
        before=None if cursor is None else alerts.alert_seq(cursor),
        case_id=case_id,
        include_closed=include_closed,
        agency=agency,
    )
    return AlertList(
        items=tuple(_view(item) for item in feed.shown(ws, page, scores=scores)),
        next_cursor=None if page.next_after is None else alerts.alert_cursor(page.next_after),
        case=case,
        silent=ws.calibration is None,
    )


def standing_view(ws: Workspace, case_id: str) -> StandingView:
    """How a case stands with its alerts. Raises CaseNotFound."""
    found = alerts.standing(ws, case_id)
    return StandingView(
        raised=found.limit.raised,
        held=found.held,
        budget=f"{found.limit.budget:,}",
        limit=limit_text(found.limit.base),
        limit_now=limit_text(found.limit.expected_false),
        tightened=found.limit.tightened,
        silent=ws.calibration is None,
    )


def limit_text(limit: float) -> str:
    """A limit of strangers to expect, without a power of ten."""
    return f"{limit:.10f}".rstrip("0").rstrip(".") if limit >= 1e-10 else f"{limit:.1g}"


def bound_text(expected: float) -> str:
    """The upper bound of strangers to expect, in plain words."""
    if expected < 1:
        return texts.text("alert.bound_one_in", searches=rounded(1 / max(expected, 1e-9)))
    if expected < 1.5:
        return texts.text("alert.bound_one")
    return texts.text("alert.bound_many", strangers=rounded(expected))


def _expectation(item: AlertItem, expected: float) -> str:
    return texts.text("expect.outside") if item.limited_pictures == 2 else bound_text(expected)


def _view(item: AlertItem) -> AlertView:
    expected = item.expected_false_candidates_upper
    return AlertView(
        item=item,
        expectation="" if expected is None else _expectation(item, expected),
        limit=limit_text(item.expected_false_limit),
        figures=()
        if item.score is None or expected is None
        else _figures(item, item.score, expected),
    )


def _figures(item: AlertItem, score: float, expected: float) -> tuple[tuple[str, str], ...]:
    rows = [("figure.score", f"{score:.4f}")]
    if item.false_match_rate_upper is not None:
        rows.append(("figure.fmr_upper", rate_text(item.false_match_rate_upper)))
    rows += [
        ("figure.expected_upper", rate_text(expected)),
        ("figure.gallery", f"{item.gallery_size:,}"),
        ("figure.photos", str(item.photos_fused)),
        ("figure.contract", item.contract_id),
    ]
    return tuple((texts.text(name), value) for name, value in rows)
