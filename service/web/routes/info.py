"""Jobs, and what answers come from."""

from __future__ import annotations

from typing import Annotated, cast, get_args

from fastapi import Query
from starlette.responses import Response

from indexer.records import JobState
from models.calibration import BANDS
from service import __version__
from service.deps import ServiceDep
from service.web import views
from service.web.routes.common import page_router
from service.web.state import JobReader, SessionDep, WebDep

router = page_router()

Short = Annotated[str | None, Query(max_length=200)]


@router.get("/jobs")
def job_list(
    web: WebDep,
    service: ServiceDep,
    session: JobReader,
    state: Short = None,
    cursor: Short = None,
) -> Response:
    """Queued, running and ended work, newest first."""
    wanted = cast("JobState", state) if state in get_args(JobState) else None
    return web.pages.page(
        "jobs.html",
        session=session,
        page=views.job_page(service.workspace, session.principal, state=wanted, cursor=cursor),
        state_filter=wanted or "",
        first=cursor is None,
    )


@router.get("/about")
def about(web: WebDep, service: ServiceDep, session: SessionDep) -> Response:
    """Pack, licence, calibration and versions."""
    return web.pages.page(
        "about.html",
        session=session,
        about=views.about_view(service.workspace, service.settings),
        version=__version__,
        bands=[name for name, _ in BANDS] + ["weak"],
    )
