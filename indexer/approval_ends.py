"""Cases whose search ends soon for want of an approval, or has ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from indexer.catalog.casework_tables import Approval
from indexer.catalog.tables import Case
from indexer.searchable import clock

if TYPE_CHECKING:
    from indexer.workspace import Workspace

SOON: Final = timedelta(days=7)
_LISTED: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingCase:
    """An open case. ``search_until``: when its search ends; None where it is not searched."""

    case_id: str
    agency: str
    case_number: str
    search_until: datetime | None


def ending(ws: Workspace, *, agency: str | None = None) -> tuple[EndingCase, ...]:
    """Open cases that are not searched for want of an approval, then those whose search ends
    within ``SOON``, the first of them first; of one agency or of all, 200 at most."""
    with ws.catalog.read() as session:
        now = clock(session)
        query = select(Case).where(or_(_not_searched(now), _soon(now)))
        if agency is not None:
            query = query.where(Case.agency == agency)
        rows = session.scalars(
            query.order_by(Case.suspended.desc(), Case.search_until, Case.case_id).limit(_LISTED)
        ).all()
        return tuple(
            EndingCase(
                case_id=row.case_id,
                agency=row.agency,
                case_number=row.case_number,
                search_until=None
                if row.suspended or (row.search_until is not None and row.search_until <= now)
                else row.search_until,
            )
            for row in rows
        )


def counts(session: Session) -> tuple[int, int, int]:
    """How many open cases are not searched for want of an approval, how many of those had been
    and have no request that waits, and how many end within ``SOON`` without such a request."""
    now = clock(session)
    asked = exists().where(Approval.case_id == Case.case_id, Approval.state == "asked")
    new = and_(Case.suspended, Case.search_until.is_(None), ~exists().where(_lapsed()))

    def count(*conditions: ColumnElement[bool]) -> int:
        return session.scalar(select(func.count()).select_from(Case).where(*conditions)) or 0

    return (
        count(_not_searched(now)),
        count(_not_searched(now), ~new, ~asked),
        count(_soon(now), ~asked),
    )


def _lapsed() -> ColumnElement[bool]:
    return and_(Approval.case_id == Case.case_id, Approval.state == "lapsed")


def _not_searched(now: datetime) -> ColumnElement[bool]:
    return and_(Case.status == "open", or_(Case.suspended, Case.search_until <= now))


def _soon(now: datetime) -> ColumnElement[bool]:
    return and_(
        Case.status == "open",
        Case.suspended.is_(False),
        Case.search_until > now,
        Case.search_until <= now + SOON,
    )
