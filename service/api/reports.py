"""Transparency reports."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path

from indexer.transparency.report import make_report
from service.accounts.principal import Principal
from service.api.common import problems, router
from service.api.schemas.reports import ReportOut
from service.deps import ServiceDep, requires

api = router("reports")

Reader = Annotated[Principal, Depends(requires("reports:read"))]
Year = Annotated[int, Path(ge=2000, le=9998, description="A year that is over, in UTC")]


@api.get("/reports/transparency/{year}", response_model=ReportOut, responses=problems(409, 422))
def transparency(service: ServiceDep, principal: Reader, year: Year) -> ReportOut:
    """What was done in a year, for publication: no personal data, and no number under 11, nor one
    from which such a number could be computed. A year that is not over: 409 `year_not_over`."""
    workspace = service.workspace
    return ReportOut.model_validate(make_report(workspace.catalog, year, workspace.calibration))
