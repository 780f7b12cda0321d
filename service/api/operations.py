"""For whoever runs the service: alive, ready, counted."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from models.errors import HomewardError
from models.runtime import gpu_lost
from service.api.common import problems
from service.api.schemas.common import Out
from service.deps import ServiceDep
from service.errors import NotReady
from service.metrics import CONTENT_TYPE_LATEST

api = APIRouter(tags=["operations"])


class Health(Out):
    status: Literal["ok"] = "ok"


class Ready(Out):
    status: Literal["ready"] = "ready"
    contract_id: str
    ad_faces: int
    case_faces: int


@api.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """The process answers."""
    return Health()


@api.get("/readyz", response_model=Ready, responses=problems(503))
def readyz(service: ServiceDep) -> Ready:
    """Ready once the index has caught up after start; it stays so unless a part fails."""
    views = service.opened.views
    try:
        workspace = views.refresh()
    except HomewardError as error:
        raise NotReady(
            f"The catalog cannot be read: {error.detail}", remedy=error.remedy
        ) from error
    if views.behind is not None:
        raise NotReady(
            f"This process answers from an earlier generation: {views.behind}",
            remedy="Install the face pack of the generation in use here.",
        )
    if not service.runner.alive():
        raise NotReady(
            "Background work has stopped.", remedy="Read the log and start the service again."
        )
    if gpu_lost():
        raise NotReady(
            "The GPU does not answer any more.",
            remedy="Start the service again; look at the system's log if that does not help.",
        )
    return Ready(
        contract_id=workspace.contract_id,
        ad_faces=workspace.ads.count(),
        case_faces=workspace.cases.count(),
    )


@api.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
def metrics(service: ServiceDep) -> Response:
    """Counts and times in Prometheus' text format; no ids and no names."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
