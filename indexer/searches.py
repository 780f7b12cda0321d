"""The record of searches: who, when, for which case, why, over what, with which outcome.

A search with a photo is recorded each time. A candidate list is recorded when it is asked for, and
not again while the same person, within ``REPEAT``, is given the same answer to the same question:
a page that is opened anew tells nothing new. As soon as one candidate more or less is in the list
it is recorded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import audit
from indexer.catalog.tables import Case, Search
from indexer.errors import PurposeRequired
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import (
    Page,
    Purpose,
    RankedCandidates,
    SearchFilter,
    SearchKind,
    SearchRecord,
)
from indexer.times import moment_text, utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

PURPOSES: Final[tuple[str, ...]] = get_args(Purpose)
USUAL: Final = "locate_missing_person"
"""The purpose where neither the search nor the case states one."""
REPEAT: Final = timedelta(minutes=1)


def require_purpose(purpose: str | None) -> None:
    """Raises :class:`PurposeRequired` unless ``purpose`` is one of those a search may have."""
    if purpose not in PURPOSES:
        raise PurposeRequired(
            "A search needs a purpose from the list.",
            remedy=f"State one of: {', '.join(PURPOSES)}.",
        )


def purpose_of(case: Case) -> str:
    """The purpose of a search for a case that states none of its own."""
    return case.default_purpose or USUAL


def add_search(
    session: Session,
    *,
    actor: str,
    case_id: str,
    purpose: str,
    purpose_note: str | None,
    result: RankedCandidates,
    filters: SearchFilter,
    kind: SearchKind = "photo",
) -> str:
    """Write one entry, in the caller's transaction; returns its id. Entries are never changed."""
    search_id = new_id()
    session.add(
        Search(
            search_id=search_id,
            at=utc_now(),
            actor=actor,
            case_id=case_id,
            purpose=purpose,
            purpose_note=purpose_note,
            gallery_size=result.gallery_size,
            contract_id=result.contract_id,
            k=result.k,
            filters=_filters(filters),
            candidate_ids=[item.candidate_id for item in result.items],
            kind=kind,
        )
    )
    audit.record(
        session,
        "search.list" if kind == "list" else "search.photo",
        subject=("search", search_id),
        case_id=case_id,
        purpose=purpose,
        details={
            "gallery_size": result.gallery_size,
            "contract_id": result.contract_id,
            "k": result.k,
            "candidates": len(result.items),
            "filters": sorted(
                name
                for name in ("site", "region", "posted_after", "posted_before")
                if getattr(filters, name) is not None
            ),
            "agency": session.scalar(select(Case.agency).where(Case.case_id == case_id)),
        },
    )
    return search_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A candidate list that was asked for, and its answer."""

    actor: str
    case_id: str
    purpose: str
    purpose_note: str | None
    result: RankedCandidates
    filters: SearchFilter


def recorded_lately(session: Session, asked: Asked, now: datetime) -> str | None:
    """The entry of the same candidate list, asked for by the same actor less than ``REPEAT`` ago
    and answered with the same candidates; None where there is none."""
    shown = [item.candidate_id for item in asked.result.items]
    rows = session.scalars(
        select(Search)
        .where(
            Search.case_id == asked.case_id,
            Search.kind == "list",
            Search.actor == asked.actor,
            Search.purpose == asked.purpose,
            Search.k == asked.result.k,
            Search.contract_id == asked.result.contract_id,
            Search.at > now - REPEAT,
            Search.at <= now,
        )
        .order_by(Search.search_id.desc())
    )
    for row in rows:
        same = row.purpose_note == asked.purpose_note and row.filters == _filters(asked.filters)
        if same and row.candidate_ids == shown:
            return row.search_id
    return None


def _filters(filters: SearchFilter) -> dict[str, Any]:
    return {
        "site": filters.site,
        "region": filters.region,
        "posted_after": moment_text(filters.posted_after),
        "posted_before": moment_text(filters.posted_before),
    }


def list_searches(
    ws: Workspace, case_id: str | None = None, *, limit: int = 50, cursor: str | None = None
) -> Page[SearchRecord]:
    """Searches, newest first, of one case or of all. Raises :class:`InvalidCursor`."""
    query = select(Search).order_by(Search.search_id.desc()).limit(limit + 1)
    if case_id is not None:
        query = query.where(Search.case_id == case_id)
    if cursor is not None:
        query = query.where(Search.search_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
    items = tuple(
        SearchRecord(
            search_id=row.search_id,
            at=row.at,
            actor=row.actor,
            case_id=row.case_id,
            purpose=row.purpose,
            purpose_note=row.purpose_note,
            kind=cast("SearchKind", row.kind),
            gallery_size=row.gallery_size,
            contract_id=row.contract_id,
            k=row.k,
            candidate_ids=tuple(row.candidate_ids),
        )
        for row in rows[:limit]
    )
    return Page(items, encode_cursor(items[-1].search_id) if len(rows) > limit else None)
