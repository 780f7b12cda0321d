"""Alerts as a list that can be read on from any place."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from service.accounts.principal import Principal
from service.alerts import feed
from service.api.common import AlertId, Limit, problems, router
from service.api.schemas.alerts import AlertList, AlertOut
from service.api.schemas.common import QueryText
from service.deps import ServiceDep, requires

api = router("alerts")

Reader = Annotated[Principal, Depends(requires("alerts:read"))]
FeedCursor = Annotated[
    QueryText | None,
    Query(max_length=200, description="next_cursor or resume_cursor of a list, or id of an event"),
]
CaseFilter = Annotated[
    QueryText | None, Query(max_length=36, description="Only alerts of this case")
]


@api.get("/alerts", response_model=AlertList, responses=problems(422))
def list_alerts(
    service: ServiceDep,
    principal: Reader,
    limit: Limit = 50,
    cursor: FeedCursor = None,
    case_id: CaseFilter = None,
    include_closed: Annotated[
        bool, Query(description="Also alerts of cases that are found or closed")
    ] = False,
) -> AlertList:
    """Alerts, oldest first. Keep `resume_cursor` and give it as `cursor` to get what is new."""
    found = feed.feed(
        service.workspace,
        cursor=cursor,
        limit=limit,
        case_id=case_id,
        include_closed=include_closed,
        scores=principal.may("scores:read"),
        agency=principal.agency,
    )
    return AlertList.model_validate(found)


@api.get("/alerts/{alert_id}", response_model=AlertOut, responses=problems(404))
def get_alert(service: ServiceDep, principal: Reader, alert_id: AlertId) -> AlertOut:
    """One alert, also of a case that is found or closed."""
    found = feed.one(service.workspace, alert_id, scores=principal.may("scores:read"))
    return AlertOut.model_validate(found)
