"""The record of searches: who, when, for which case, why, over what, with which outcome."""

from __future__ import annotations

from typing import Final, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import audit
from indexer.catalog.tables import Search
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page, Purpose, RankedCandidates, SearchFilter, SearchRecord
from indexer.times import moment_text, utc_now
from indexer.workspace import Workspace

PURPOSES: Final[tuple[str, ...]] = get_args(Purpose)


def add_search(
    session: Session,
    *,
    actor: str,
    case_id: str,
    purpose: str,
    purpose_note: str | None,
    result: RankedCandidates,
    filters: SearchFilter,
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
            filters={
                "site": filters.site,
                "region": filters.region,
                "posted_after": moment_text(filters.posted_after),
                "posted_before": moment_text(filters.posted_before),
            },
            candidate_ids=[item.candidate_id for item in result.items],
        )
    )
    audit.record(
        session,
        "search.run",
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
        },
    )
    return search_id


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
            gallery_size=row.gallery_size,
            contract_id=row.contract_id,
            k=row.k,
            candidate_ids=tuple(row.candidate_ids),
        )
        for row in rows[:limit]
    )
    return Page(items, encode_cursor(items[-1].search_id) if len(rows) > limit else None)
