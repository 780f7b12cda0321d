"""The page of alerts, newest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from indexer.errors import CaseNotFound
from service.accounts.access import require_case
from service.deps import ServiceDep, canonical_id
from service.web import alert_views
from service.web.routes.common import page_router
from service.web.state import AlertReader, WebDep

router = page_router()

Short = Annotated[str | None, Query(max_length=200)]


@router.get("/alerts")
def alert_list(
    web: WebDep,
    service: ServiceDep,
    session: AlertReader,
    show: Short = None,
    case_id: Short = None,
    cursor: Short = None,
) -> Response:
    """Alerts of open cases, or of all; of every case, or of one."""
    wanted = None
    if case_id and (wanted := canonical_id(case_id)) is None:
        raise CaseNotFound(case_id[:60])
    if wanted:
        require_case(service.workspace.catalog, session.principal, wanted)
    return web.pages.page(
        "alerts.html",
        session=session,
        page=alert_views.alert_list(
            service.workspace,
            cursor=cursor,
            case_id=wanted,
            include_closed=show == "all",
            scores=session.principal.may("scores:read"),
            agency=session.principal.agency,
        ),
        show="all" if show == "all" else "open",
        first=cursor is None,
    )
