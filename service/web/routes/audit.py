"""The page of the audit log."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query
from starlette.responses import Response

from service.deps import ServiceDep
from service.web.audit_views import Asked, audit_page
from service.web.routes.common import page_router
from service.web.state import Auditor, WebDep

router = page_router()

Short = Annotated[str, Query(max_length=100)]


@router.get("/audit")
def audit_log(
    web: WebDep,
    service: ServiceDep,
    session: Auditor,
    case_id: Short = "",
    actor: Short = "",
    action: Short = "",
    since: Short = "",
    until: Short = "",
    cursor: Short = "",
) -> Response:
    """Records, newest first, by case, actor, action and time."""
    asked = Asked(case_id.strip(), actor.strip(), action.strip(), since.strip(), until.strip())
    wanted, bad = asked.wanted(session.principal.agency)
    kept = {"case_id": asked.case_id, "actor": asked.actor, "action": asked.action}
    kept |= {"since": asked.since, "until": asked.until}
    return web.pages.page(
        "audit.html",
        session=session,
        page=audit_page(service.opened, wanted, cursor or None),
        asked=asked,
        bad=bad,
        query=urlencode({name: value for name, value in kept.items() if value}),
        first=not cursor,
    )
