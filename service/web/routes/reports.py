"""The transparency report as a page that can be printed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from starlette.responses import Response

from indexer.times import utc_now
from indexer.transparency.report import Report, YearNotOver, make_report
from service.deps import ServiceDep
from service.web import texts
from service.web.routes.common import beside, page_router
from service.web.sessions import Session
from service.web.state import WebDep, requires

router = page_router()

Reader = Annotated[Session, Depends(requires("reports:read"))]


@router.get("/reports/transparency")
def transparency(
    web: WebDep,
    service: ServiceDep,
    session: Reader,
    year: Annotated[str | None, Query(max_length=10)] = None,
) -> Response:
    """A year that is over; by default the last one."""
    last = utc_now().year - 1
    wanted, report, problem, status = last, None, None, 200
    if year:
        if year.isdecimal() and 2000 <= int(year) <= 9998:
            wanted = int(year)
        else:
            problem, status = texts.problem("validation_failed", "", ""), 422
    if problem is None:
        try:
            workspace = service.workspace
            report = make_report(workspace.catalog, wanted, workspace.calibration)
        except YearNotOver as error:
            problem, status = beside(error)
    return web.pages.page(
        "transparency.html",
        session=session,
        status=status,
        year=wanted,
        last=last,
        report=report,
        most=_most(report),
        problem=problem,
    )


def _most(report: Report | None) -> dict[str, int]:
    """The largest number that each table shows: what its bars are drawn against."""
    return {
        table.name: max(
            [n for cells in table.divisions.values() for n in cells.values() if n is not None],
            default=0,
        )
        for table in (report.tables if report else ())
    }
