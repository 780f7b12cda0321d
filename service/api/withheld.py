"""Pictures that are shown to nobody: flagging them, and settling what becomes of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from service import withheld
from service.accounts.principal import Principal
from service.api.common import Cursor, ImageSha, Limit, problems, router
from service.api.schemas.withheld import FlagIn, SettleIn, WithheldList, WithheldOut
from service.deps import ServiceDep, requires

api = router("withheld pictures")

Flagger = Annotated[Principal, Depends(requires("images:flag"))]
Settler = Annotated[Principal, Depends(requires("withheld:settle"))]


@api.post(
    "/images/{sha256}/flag", response_model=WithheldOut, responses=problems(404, 409, 413, 415)
)
def flag(flagged: FlagIn, service: ServiceDep, principal: Flagger, sha256: ImageSha) -> WithheldOut:
    """Withhold a picture and its copies from everybody, at once. What it belongs to stays."""
    found = withheld.flag(service.workspace, principal, sha256, flagged.case_id, flagged.reason)
    service.runner.wake()
    return WithheldOut.model_validate(found.as_json())


@api.get("/withheld", response_model=WithheldList, responses=problems(422))
def list_withheld(
    service: ServiceDep,
    principal: Settler,
    limit: Limit = 50,
    cursor: Cursor = None,
    settled: Annotated[bool, Query(description="Also those that are settled")] = False,
) -> WithheldList:
    """Withheld pictures, newest first: those that wait for a decision."""
    page = withheld.listed(
        service.workspace, principal, settled=settled, limit=limit, cursor=cursor
    )
    return WithheldList.model_validate(
        {"items": [item.as_json() for item in page.items], "next_cursor": page.next_cursor}
    )


@api.post(
    "/withheld/{withheld_sha256}/settle",
    response_model=WithheldOut,
    responses=problems(404, 409, 413, 415),
)
def settle(
    settled: SettleIn, service: ServiceDep, principal: Settler, withheld_sha256: ImageSha
) -> WithheldOut:
    """Say what was decided. Released pictures are shown again; deleting takes the bytes away."""
    found = withheld.settle(service.workspace, principal, withheld_sha256, settled.outcome)
    return WithheldOut.model_validate(found.as_json())
