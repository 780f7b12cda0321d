"""Transparency reports. null is a number that is hidden, since it is under 11 or would give one
away that is."""

from __future__ import annotations

from pydantic import Field

from service.api.schemas.common import Out


class TableOut(Out):
    """A total and ways to divide it up; each division adds up to the total."""

    name: str
    total: int | None
    divisions: dict[str, dict[str, int | None]]


class GallerySizeOut(Out):
    """Faces in ads that searches were compared with, to two figures."""

    least: int | None
    median: int | None
    most: int | None


class ContractUseOut(Out):
    """An embedding contract that was searched with."""

    contract_id: str
    searches: int | None
    calibrated: bool
    thresholds: dict[str, float | None] = Field(
        description="By false match rate the lowest score whose measured upper bound is at most "
        "that; null where the sample cannot tell"
    )


class ReportOut(Out):
    """A year, counted from the audit log."""

    year: int
    least: int = Field(description="Numbers under this one and above 0 are hidden")
    tables: list[TableOut]
    gallery: GallerySizeOut
    contracts: list[ContractUseOut]
    reconciled: dict[str, str] = Field(
        description="Whether the rows that are left say the same as the audit log: `agrees`, "
        "`purged` (fewer, since some were deleted) or `differs`"
    )
    last_hash: str | None = Field(description="Of the last record of the year in the audit log")
