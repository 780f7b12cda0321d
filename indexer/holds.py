"""Legal holds on cases and ads: what is held may not be deleted, and does not age.

A hold is a row from when it was set until it was lifted; the flag on the case or ad is what
deletions look at, and both change in one transaction. Closing a held case still takes it out of
every search, with its unreviewed candidates; what was reviewed stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from indexer.acting import acting
from indexer.audit.chain import record
from indexer.catalog.casework_tables import Hold
from indexer.catalog.tables import Ad, Case
from indexer.errors import AdNotFound, CaseNotFound, HoldNotFound, LifterIsSetter
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.persons import same_person
from indexer.records import Page
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

HoldKind: TypeAlias = Literal["case", "ad"]
HoldReason: TypeAlias = Literal[
    "exported_evidence", "litigation", "court_order", "internal_inquiry", "other"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRecord:
    """One hold. ``agency``: whose it is; None for one that holds for all agencies."""

    hold_id: str
    kind: HoldKind
    subject_id: str
    agency: str | None
    reason: HoldReason
    note: str | None
    set_by: str
    set_at: datetime
    lifted_by: str | None
    lifted_at: datetime | None


def set_hold(
    ws: Workspace, kind: HoldKind, subject_id: str, reason: HoldReason, *, note: str | None = None
) -> HoldRecord:
    """Hold a case or an ad, as whoever acts now. Where their agency holds it already, that hold
    stays as it is and is returned. Raises :class:`CaseNotFound`, :class:`AdNotFound`."""
    with ws.catalog.write() as session:
        subject = _subject(session, kind, subject_id)
        agency = subject.agency if isinstance(subject, Case) else acting().agency
        for row in _in_force(session, kind, subject_id):
            if row.agency == agency:
                return _record(row)
        row = Hold(
            hold_id=new_id(),
            kind=kind,
            subject_id=subject_id,
            agency=agency,
            reason=reason,
            note=note or None,
            set_by=acting().actor,
            set_at=utc_now(),
        )
        session.add(row)
        subject.legal_hold = True
        session.flush()
        record(
            session,
            "hold.set",
            subject=(kind, subject_id),
            case_id=subject_id if kind == "case" else None,
            details={"reason": reason, "hold_id": row.hold_id},
        )
        return _record(row)


def lift_hold(ws: Workspace, kind: HoldKind, subject_id: str) -> HoldRecord:
    """Lift, as whoever acts now, the hold of their agency; who works for all agencies lifts all.

    Where approvals are asked for, not whoever set it. Returns the last one that was lifted. What
    another agency holds stays held. Raises :class:`CaseNotFound`, :class:`AdNotFound`,
    :class:`HoldNotFound`, :class:`LifterIsSetter`.
    """
    with ws.catalog.write() as session:
        subject = _subject(session, kind, subject_id)
        rows = list(_in_force(session, kind, subject_id))
        if not rows and subject.legal_hold:
            rows = [_unnamed(session, kind, subject)]
        who = acting()
        mine = [row for row in rows if who.agency is None or row.agency == who.agency]
        if not mine:
            raise HoldNotFound(kind)
        for row in mine:
            if ws.options.approval_required and same_person(session, who.actor, row.set_by):
                raise LifterIsSetter
            row.lifted_by, row.lifted_at = who.actor, utc_now()
            record(
                session,
                "hold.lift",
                subject=(kind, subject_id),
                case_id=subject_id if kind == "case" else None,
                details={"reason": row.reason, "hold_id": row.hold_id, "set_by": row.set_by},
            )
        subject.legal_hold = len(mine) < len(rows)
        session.flush()
        return _record(mine[-1])


def _unnamed(session: Session, kind: HoldKind, subject: Case | Ad) -> Hold:
    """The hold of a flag without a row, from before holds had any; it is lifted as any other."""
    row = Hold(
        hold_id=new_id(),
        kind=kind,
        subject_id=subject.case_id if isinstance(subject, Case) else subject.ad_id,
        agency=subject.agency if isinstance(subject, Case) else None,
        reason="other",
        set_by="system",
        set_at=utc_now(),
    )
    session.add(row)
    session.flush()
    # So that holds set and holds lifted add up in the audit log.
    record(
        session,
        "hold.set",
        subject=(kind, row.subject_id),
        case_id=row.subject_id if kind == "case" else None,
        details={"reason": row.reason, "hold_id": row.hold_id, "set_by": row.set_by},
    )
    return row


def list_holds(
    ws: Workspace,
    *,
    agency: str | None = None,
    subject: tuple[HoldKind, str] | None = None,
    lifted: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[HoldRecord]:
    """Holds in force, newest first; with ``lifted`` also those that are over. ``agency``: its
    own. Raises :class:`InvalidCursor`."""
    query = select(Hold).order_by(Hold.hold_id.desc()).limit(limit + 1)
    if agency is not None:
        query = query.where(Hold.agency == agency)
    if subject is not None:
        query = query.where(Hold.kind == subject[0], Hold.subject_id == subject[1])
    if not lifted:
        query = query.where(Hold.lifted_at.is_(None))
    if cursor is not None:
        query = query.where(Hold.hold_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        items = tuple(_record(row) for row in rows[:limit])
    return Page(items, encode_cursor(items[-1].hold_id) if len(rows) > limit else None)


def forget_notes(session: Session, kind: HoldKind, subject_id: str) -> None:
    """Its subject is forgotten: that it was held stays, without the words that may name a person.
    A hold that was overridden is over."""
    ours = (Hold.kind == kind, Hold.subject_id == subject_id)
    session.execute(update(Hold).where(*ours).values(note=None))
    session.execute(
        update(Hold)
        .where(*ours, Hold.lifted_at.is_(None))
        .values(lifted_at=utc_now(), lifted_by=acting().actor)
    )


def _subject(session: Session, kind: HoldKind, subject_id: str) -> Case | Ad:
    if kind == "case":
        case = session.get(Case, subject_id)
        if case is None:
            raise CaseNotFound(subject_id)
        return case
    ad = session.get(Ad, subject_id)
    if ad is None:
        raise AdNotFound(subject_id)
    return ad


def _in_force(session: Session, kind: HoldKind, subject_id: str) -> Sequence[Hold]:
    return session.scalars(
        select(Hold)
        .where(Hold.kind == kind, Hold.subject_id == subject_id, Hold.lifted_at.is_(None))
        .order_by(Hold.hold_id)
    ).all()


def _record(row: Hold) -> HoldRecord:
    return HoldRecord(
        hold_id=row.hold_id,
        kind=cast("HoldKind", row.kind),
        subject_id=row.subject_id,
        agency=row.agency,
        reason=cast("HoldReason", row.reason),
        note=row.note,
        set_by=row.set_by,
        set_at=row.set_at,
        lifted_by=row.lifted_by,
        lifted_at=row.lifted_at,
    )
