"""Candidate lists as people and programs ask for them: with a purpose, and on record."""

from __future__ import annotations

from indexer.acting import acting, note
from indexer.candidates import NO_FILTER, ranked
from indexer.records import RankedCandidates, SearchFilter
from indexer.searchable import require_searchable
from indexer.searches import Asked, add_search, purpose_of, recorded_lately, require_purpose
from indexer.times import utc_now
from indexer.workspace import Workspace


def listed(
    ws: Workspace,
    case_id: str,
    k: int = 20,
    filters: SearchFilter = NO_FILTER,
    *,
    purpose: str | None = None,
    purpose_note: str | None = None,
) -> RankedCandidates:
    """The ``k`` best leads of an open case, recorded before they are shown (``indexer.searches``).

    Without a ``purpose`` that of the case holds, or else ``searches.USUAL``. Raises
    :class:`PurposeRequired`, :class:`CaseNotFound`, :class:`CaseClosed`,
    :class:`ApprovalRequired`, and the StorageError tree where it cannot be recorded.
    """
    if purpose is not None:
        require_purpose(purpose)
    with ws.catalog.read() as session:
        purpose = purpose or purpose_of(require_searchable(session, case_id))
    acting().purpose = purpose
    result = ranked(ws, case_id, k, filters)
    if not result.photos_fused:
        # Without an enrolled photo nobody was searched for.
        return result
    asked = Asked(
        actor=acting().actor,
        case_id=case_id,
        purpose=purpose,
        purpose_note=purpose_note or None,
        result=result,
        filters=filters,
    )
    with ws.catalog.read() as session:
        search_id = recorded_lately(session, asked, utc_now())
    if search_id is None:
        search_id = _record(ws, asked)
    note(
        case_id=case_id,
        search_id=search_id,
        gallery_size=result.gallery_size,
        contract_id=result.contract_id,
        candidates=len(result.items),
    )
    return result


def _record(ws: Workspace, asked: Asked) -> str:
    with ws.catalog.write() as session:
        # Once more: many may ask the same at once, and only one of them writes it down.
        require_searchable(session, asked.case_id)
        return recorded_lately(session, asked, utc_now()) or add_search(
            session,
            actor=asked.actor,
            case_id=asked.case_id,
            purpose=asked.purpose,
            purpose_note=asked.purpose_note,
            result=asked.result,
            filters=asked.filters,
            kind="list",
        )
