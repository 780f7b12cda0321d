"""Whether a case may be searched for now: the one place that says so.

It is open, it is not suspended, and the time until which its search was allowed is not over. The
last is read at every use: an approval ends at its hour even where no upkeep runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from indexer.catalog.tables import Case
from indexer.errors import ApprovalRequired, CaseClosed, CaseNotFound
from indexer.times import to_utc_ms, utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace


def clock(session: Session) -> datetime:
    """The time on the machine of the catalog, by which approvals begin and end; UTC.

    A worker whose own clock is wrong shortens and lengthens nothing.
    """
    if session.get_bind().dialect.name != "postgresql":
        return utc_now()
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return to_utc_ms(now)


def searchable(now: datetime) -> ColumnElement[bool]:
    """The condition on cases that may be searched for at ``now``."""
    return and_(
        Case.status == "open",
        Case.suspended.is_(False),
        or_(Case.search_until.is_(None), Case.search_until > now),
    )


def is_searchable(case: Case, now: datetime) -> bool:
    """:func:`searchable` for a row that is at hand."""
    if case.status != "open" or case.suspended:
        return False
    return case.search_until is None or case.search_until > now


def require_searchable_case(ws: Workspace, case_id: str) -> None:
    """As :func:`require_searchable`, in a transaction of its own."""
    with ws.catalog.read() as session:
        require_searchable(session, case_id)


def require_searchable(session: Session, case_id: str) -> Case:
    """The row of a case that may be searched for now.

    Raises :class:`CaseNotFound`, :class:`CaseClosed`, :class:`ApprovalRequired`.
    """
    row = session.get(Case, case_id, populate_existing=True)
    if row is None:
        raise CaseNotFound(case_id)
    if row.status != "open":
        raise CaseClosed(case_id, row.status)
    if not is_searchable(row, clock(session)):
        raise ApprovalRequired(case_id)
    return row
