"""Flagging pictures and settling what becomes of withheld ones, for pages and interface alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import select

from indexer import images
from indexer.ad_records import summary_of
from indexer.batches import chunks
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Ad, Case
from indexer.errors import ImageNotFound, WithheldNotFound
from indexer.records import AdSummary, Page
from indexer.withheld import rows, settling, shown
from indexer.withheld.rows import WithheldRecord
from indexer.workspace import Workspace
from service.accounts.access import require_case, sees
from service.accounts.principal import Principal


@dataclass(frozen=True, slots=True)
class WithheldView:
    """An entry with the ads that show the picture; cases of other agencies are left out."""

    entry: WithheldRecord
    ads: tuple[AdSummary, ...]

    def as_json(self) -> dict[str, Any]:
        """The fields of the entry, and ``ads``."""
        return {**asdict(self.entry), "ads": [asdict(ad) for ad in self.ads]}


def flag(
    ws: Workspace, principal: Principal, sha256: str, case_id: str, reason: str
) -> WithheldView:
    """Withhold a picture from everybody. Raises CaseNotFound, ImageNotFound (also where it is a
    photo of another agency's case alone) and FlagReasonInvalid."""
    require_case(ws.catalog, principal, case_id)
    require_seen(ws, principal, sha256)
    shown.flag(ws, sha256, case_id=case_id, reason=reason, actor=principal.actor_id)
    return one(ws, principal, sha256)


def require_seen(ws: Workspace, principal: Principal, sha256: str) -> None:
    """Raises ImageNotFound unless the caller may know of the picture: one of ads, which everybody
    sees, or of a case of the caller's agency."""
    owners = images.owners(ws, sha256)
    if owners.ad_ids:
        return
    with ws.catalog.read() as session:
        agencies = session.scalars(select(Case.agency).where(Case.case_id.in_(owners.case_ids)))
        if not any(sees(principal, agency) for agency in agencies):
            raise ImageNotFound(sha256)


def settle(ws: Workspace, principal: Principal, sha256: str, outcome: str) -> WithheldView:
    """What was decided about a withheld picture that the caller's agency deals with.

    Raises WithheldNotFound, also for one of other agencies' cases alone, and as
    ``settling.settle`` does.
    """
    mine = (WithheldImage.sha256 == sha256, rows.known_to(principal.agency))
    with ws.catalog.read() as session:
        if session.scalar(select(WithheldImage.sha256).where(*mine)) is None:
            raise WithheldNotFound(sha256)
    settling.settle(ws, sha256, outcome, actor=principal.actor_id)
    return one(ws, principal, sha256)


def one(ws: Workspace, principal: Principal, sha256: str) -> WithheldView:
    """One entry. Raises WithheldNotFound."""
    return _views(ws, principal, (rows.get_withheld(ws, sha256),))[0]


def listed(
    ws: Workspace,
    principal: Principal,
    *,
    settled: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[WithheldView]:
    """Withheld pictures that the caller's agency deals with, newest first. Raises
    InvalidCursor."""
    page = rows.list_withheld(
        ws, agency=principal.agency, settled=settled, limit=limit, cursor=cursor
    )
    return Page(_views(ws, principal, page.items), page.next_cursor)


def _views(
    ws: Workspace, principal: Principal, entries: tuple[WithheldRecord, ...]
) -> tuple[WithheldView, ...]:
    ad_ids = [ad_id for entry in entries for ad_id in entry.ad_ids]
    case_ids = [one for entry in entries for one in (*entry.case_ids, entry.case_id or "")]
    ads: dict[str, AdSummary] = {}
    seen: set[str] = set()
    with ws.catalog.read() as session:
        for some in chunks(dict.fromkeys(ad_ids)):
            for row in session.scalars(select(Ad).where(Ad.ad_id.in_(some))):
                ads[row.ad_id] = summary_of(row)
        for some in chunks(dict.fromkeys(case_ids)):
            found = session.execute(select(Case.case_id, Case.agency).where(Case.case_id.in_(some)))
            seen |= {case_id for case_id, agency in found if sees(principal, agency)}
    return tuple(_view(entry, ads, seen) for entry in entries)


def _view(entry: WithheldRecord, ads: Mapping[str, AdSummary], seen: set[str]) -> WithheldView:
    own = replace(
        entry,
        case_id=entry.case_id if entry.case_id in seen else None,
        case_ids=tuple(one for one in entry.case_ids if one in seen),
    )
    return WithheldView(own, tuple(ads[ad_id] for ad_id in entry.ad_ids if ad_id in ads))
