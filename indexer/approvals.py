"""Approvals of searches: a second person agrees before a case is searched, and for how long.

Where the workspace asks for approvals, a new case is suspended: its photos are enrolled, nothing is
searched for it. Whoever works on it asks; somebody else decides. In an emergency the search begins
at once and ends after ``RATIFY`` unless it was approved by then, and a case has one such start
until somebody approved a search for it, however often it is closed and opened meanwhile.

What is in force is written into the case (``suspended``, ``search_until``) in the transaction that
changes it; ``indexer.searchable`` reads it. Upkeep only tidies up after the clock: an approval that
is over ends by itself.

A case that was there before approvals were asked for goes on for ``GRACE``, counted from when
upkeep met it first. Where approvals are not asked for any more, that limit goes on its last day: a
process that merely lacks the setting takes nothing back before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, cast

from sqlalchemy import Select, exists, or_, select
from sqlalchemy.orm import Session

from indexer import queue
from indexer.acting import acting
from indexer.audit.chain import record
from indexer.catalog.casework_tables import Approval
from indexer.catalog.tables import Case, Photo
from indexer.errors import (
    ApprovalNotFound,
    ApprovalStateInvalid,
    ApproverIsRequester,
    CaseClosed,
    CaseNotFound,
)
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.persons import same_person
from indexer.records import Page
from indexer.searchable import clock, is_searchable
from indexer.searches import require_purpose

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

RATIFY: Final = timedelta(hours=48)
"""Within which an emergency start has to be approved (PRACTICE 27)."""
GRACE: Final = timedelta(days=14)
LONGEST_DAYS: Final = 366
_AT_ONCE = 100

ApprovalState = Literal["asked", "approved", "refused", "lapsed"]
Decision = Literal["approve", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord:
    """One request and what became of it. ``valid_until`` is None while it is not approved, and
    where it was approved for as long as the case is open."""

    approval_id: str
    case_id: str
    agency: str
    case_number: str
    purpose: str
    note: str | None
    emergency: bool
    state: ApprovalState
    asked_by: str
    asked_at: datetime
    ratify_by: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    valid_until: datetime | None


# --- asking and deciding ---------------------------------------------------------------------


def ask(
    ws: Workspace, case_id: str, purpose: str, *, note: str | None = None, emergency: bool = False
) -> ApprovalRecord:
    """Ask, as whoever acts now, that a case may be searched. ``emergency``: begin at once.

    An emergency takes the place of a request that still waits. Raises :class:`PurposeRequired`,
    :class:`CaseNotFound`, :class:`CaseClosed`, :class:`ApprovalStateInvalid` where no approval is
    needed, one was asked for already, or the emergency start of the case is used up.
    """
    require_purpose(purpose)
    with ws.catalog.write() as session:
        case = _open_case(session, case_id)
        now = clock(session)
        bound = case.suspended or case.search_until is not None
        if not (bound or ws.options.approval_required):
            raise ApprovalStateInvalid(
                "This case is searched without an approval.", remedy="Nothing has to be asked."
            )
        waiting = session.scalar(_of_case(case_id).where(Approval.state == "asked").limit(1))
        if waiting is not None and (waiting.emergency or not emergency):
            raise ApprovalStateInvalid(
                "An approval was asked for already and is not decided yet.",
                remedy="Wait for the decision, or ask a supervisor for it.",
            )
        if emergency and is_searchable(case, now):
            raise ApprovalStateInvalid(
                "This case may be searched now; there is nothing to begin at once.",
                remedy="Ask without an emergency, in time before the search ends.",
            )
        if emergency and _emergency_spent(session, case_id):
            raise ApprovalStateInvalid(
                "The last emergency start of this case was not ratified; there is no other.",
                remedy="Ask for an approval and wait for the decision.",
            )
        if waiting is not None:
            _lapse(session, waiting, "superseded")
        row = Approval(
            approval_id=new_id(),
            case_id=case_id,
            purpose=purpose,
            note=note or None,
            emergency=emergency,
            state="asked",
            asked_by=acting().actor,
            asked_at=now,
            ratify_by=now + RATIFY if emergency else None,
        )
        session.add(row)
        session.flush()
        record(
            session,
            "approval.ask",
            subject=("approval", row.approval_id),
            case_id=case_id,
            purpose=purpose,
            details={"emergency": emergency},
        )
        if emergency:
            _settle(session, case, now)
        return _record(row, case)


def decide(
    ws: Workspace,
    approval_id: str,
    decision: Decision,
    *,
    note: str | None = None,
    valid_days: int | None = None,
) -> ApprovalRecord:
    """Approve or refuse, as whoever acts now; an approval in force can be refused, which ends it.

    ``valid_days``: 1 to ``LONGEST_DAYS``; without it the workspace's ``approval_days``, or as long
    as the case is open where approvals are not asked for any more. Raises
    :class:`ApprovalNotFound`, :class:`CaseClosed`, :class:`ApproverIsRequester`,
    :class:`ApprovalStateInvalid`.
    """
    if valid_days is not None and not 1 <= valid_days <= LONGEST_DAYS:
        raise ValueError(f"valid_days is 1 to {LONGEST_DAYS}")
    with ws.catalog.write() as session:
        row = session.get(Approval, approval_id)
        if row is None:
            raise ApprovalNotFound(approval_id)
        case = _open_case(session, row.case_id)
        now = clock(session)
        if same_person(session, acting().actor, row.asked_by):
            raise ApproverIsRequester
        if row.state == "asked" and row.ratify_by is not None and row.ratify_by <= now:
            row.state = "lapsed"
        if row.state != "asked" and not (row.state == "approved" and decision == "refuse"):
            raise ApprovalStateInvalid(
                f"This approval is {row.state}; it cannot be decided that way any more.",
                remedy="Have a new one asked for.",
            )
        row.state = "approved" if decision == "approve" else "refused"
        row.decided_by, row.decided_at = acting().actor, now
        row.valid_until = None
        if decision == "approve":
            days = valid_days or (ws.options.approval_days if ws.options.approval_required else 0)
            row.valid_until = now + timedelta(days=days) if days else None
        if note:
            row.note = f"{row.note}\n{note}" if row.note else note
        record(
            session,
            "approval.decide",
            subject=("approval", approval_id),
            case_id=case.case_id,
            purpose=row.purpose,
            details={
                "decision": decision,
                "emergency": row.emergency,
                "valid_days": valid_days,
                "asked_by": row.asked_by,
            },
        )
        session.flush()
        _settle(session, case, now)
        return _record(row, case)


# --- with the life of a case -----------------------------------------------------------------


def begin(case: Case, *, required: bool) -> None:
    """A case is new, or open again: it waits for an approval where those are asked for."""
    case.suspended = required
    case.search_until = None


def end(session: Session, case: Case) -> None:
    """A case is found or closed: what was asked or approved for it is over."""
    for row in session.scalars(
        _of_case(case.case_id).where(Approval.state.in_(("asked", "approved")))
    ):
        _lapse(session, row, "case_ended")
    case.suspended, case.search_until = False, None


def keep(ws: Workspace) -> None:
    """Upkeep: write down what the clock has ended, and give cases from before their time."""
    if not _asks(ws):
        _end_grace(ws)
    with ws.catalog.read() as session:
        now = clock(session)
        over = session.scalars(_over(now).limit(_AT_ONCE)).all()
        fresh = session.scalars(_without().limit(_AT_ONCE)).all() if _asks(ws) else ()
    for case_id in over:
        with ws.catalog.write() as session:
            _end_what_is_over(session, case_id)
    for case_id in fresh:
        with ws.catalog.write() as session:
            case = session.get(Case, case_id)
            if case is None or case.status != "open" or case.suspended or case.search_until:
                continue
            case.search_until = clock(session) + GRACE
            record(
                session,
                "approval.grace",
                subject=("case", case_id),
                case_id=case_id,
                details={"days": GRACE.days},
            )
    if fresh:
        _log.warning(
            "%d open cases have no approval yet; they are searched for %d more days",
            len(fresh),
            GRACE.days,
        )


def _end_grace(ws: Workspace) -> None:
    """Approvals are not asked for: a case that only had its days of grace is searched on."""
    with ws.catalog.read() as session:
        last = clock(session) + timedelta(days=1)
        waiting = session.scalars(_in_grace(last).limit(_AT_ONCE)).all()
    for case_id in waiting:
        with ws.catalog.write() as session:
            case = session.scalar(
                select(Case).where(Case.case_id == case_id, Case.case_id.in_(_in_grace(last)))
            )
            if case is None:
                continue
            case.search_until = None
            # What came in since it was over is compared with it now.
            queue.enqueue(session, "probe_case", case_id)
            record(
                session,
                "approval.grace",
                subject=("case", case_id),
                case_id=case_id,
                outcome="ended",
            )


def _in_grace(until: datetime) -> Select[str]:
    """Open cases whose search ends by then, though no approval or emergency says so."""
    limited = exists().where(
        Approval.case_id == Case.case_id,
        or_(
            (Approval.state == "asked") & Approval.ratify_by.is_not(None),
            (Approval.state == "approved") & Approval.valid_until.is_not(None),
        ),
    )
    return select(Case.case_id).where(
        Case.status == "open", Case.suspended.is_(False), Case.search_until <= until, ~limited
    )


def _asks(ws: Workspace) -> bool:
    return ws.options.approval_required


def _over(now: datetime) -> Select[str]:
    """Cases of which something is over and not written down yet."""
    due = select(Approval.case_id).where(
        or_(
            (Approval.state == "asked") & (Approval.ratify_by <= now),
            (Approval.state == "approved") & (Approval.valid_until <= now),
        )
    )
    return select(Case.case_id).where(
        Case.status == "open", or_(Case.search_until <= now, Case.case_id.in_(due))
    )


def _without() -> Select[str]:
    return select(Case.case_id).where(
        Case.status == "open", Case.suspended.is_(False), Case.search_until.is_(None)
    )


def _end_what_is_over(session: Session, case_id: str) -> None:
    case = session.get(Case, case_id)
    if case is None or case.status != "open":
        return
    now = clock(session)
    for row in session.scalars(_of_case(case_id)):
        if row.state == "asked" and row.ratify_by is not None and row.ratify_by <= now:
            _lapse(session, row, "not_ratified")
        elif row.state == "approved" and row.valid_until is not None and row.valid_until <= now:
            _lapse(session, row, "expired")
    session.flush()
    _settle(session, case, now)


def _lapse(session: Session, row: Approval, why: str) -> None:
    row.state = "lapsed"
    record(
        session,
        "approval.lapse",
        subject=("approval", row.approval_id),
        case_id=row.case_id,
        purpose=row.purpose,
        details={"reason": why, "emergency": row.emergency},
    )


def _settle(session: Session, case: Case, now: datetime) -> None:
    """Write into the case what its approvals allow, and search for it where it may be anew."""
    before = is_searchable(case, now)
    ends: list[datetime | None] = []
    for row in session.scalars(_of_case(case.case_id)):
        if row.state == "approved" and (row.valid_until is None or row.valid_until > now):
            ends.append(row.valid_until)
        elif row.state == "asked" and row.ratify_by is not None and row.ratify_by > now:
            ends.append(row.ratify_by)
    case.suspended = not ends
    limits = [end for end in ends if end is not None]
    case.search_until = max(limits) if limits and len(limits) == len(ends) else None
    photo = select(Photo.photo_id).where(Photo.case_id == case.case_id).limit(1)
    if is_searchable(case, now) and not before and session.scalar(photo) is not None:
        # What came in while it was not searched for is compared with it now.
        queue.enqueue(session, "probe_case", case.case_id)


# --- reading ---------------------------------------------------------------------------------


def get_approval(ws: Workspace, approval_id: str) -> ApprovalRecord:
    """One approval. Raises :class:`ApprovalNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(Approval, approval_id)
        if row is None:
            raise ApprovalNotFound(approval_id)
        return _record(row, session.get_one(Case, row.case_id))


def list_approvals(
    ws: Workspace,
    *,
    case_id: str | None = None,
    agency: str | None = None,
    waiting: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[ApprovalRecord]:
    """Approvals, newest first; of one case, of one agency, or only those that wait for a decision.

    Raises :class:`InvalidCursor`.
    """
    query = (
        select(Approval, Case)
        .join(Case, Case.case_id == Approval.case_id)
        .order_by(Approval.approval_id.desc())
        .limit(limit + 1)
    )
    if case_id is not None:
        query = query.where(Approval.case_id == case_id)
    if agency is not None:
        query = query.where(Case.agency == agency)
    if waiting:
        query = query.where(Approval.state == "asked")
    if cursor is not None:
        query = query.where(Approval.approval_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.execute(query).all()
        items = tuple(_record(row, case) for row, case in rows[:limit])
    more = len(rows) > limit
    return Page(items, encode_cursor(items[-1].approval_id) if more else None)


def _of_case(case_id: str) -> Select[Approval]:
    return select(Approval).where(Approval.case_id == case_id).order_by(Approval.approval_id)


def _open_case(session: Session, case_id: str) -> Case:
    case = session.get(Case, case_id, populate_existing=True)
    if case is None:
        raise CaseNotFound(case_id)
    if case.status != "open":
        raise CaseClosed(case_id, case.status)
    return case


def _emergency_spent(session: Session, case_id: str) -> bool:
    """Whether the case began in an emergency since a search for it was last approved; also one
    that ended with the case."""
    for row in session.scalars(_of_case(case_id).order_by(None).order_by(Approval.asked_at.desc())):
        if row.decided_by is not None and row.state in ("approved", "lapsed"):
            return False
        if row.emergency:
            return True
    return False


def _record(row: Approval, case: Case) -> ApprovalRecord:
    return ApprovalRecord(
        approval_id=row.approval_id,
        case_id=row.case_id,
        agency=case.agency,
        case_number=case.case_number,
        purpose=row.purpose,
        note=row.note,
        emergency=row.emergency,
        state=cast("ApprovalState", row.state),
        asked_by=row.asked_by,
        asked_at=row.asked_at,
        ratify_by=row.ratify_by,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        valid_until=row.valid_until,
    )
