"""A year's report as it may be published: no personal data, no small numbers, no agency's cases.

Only of a year that is over: it then says the same whenever it is made, and two reports made on
different days cannot be subtracted from each other.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from indexer import calibrations
from indexer.catalog import Catalog
from indexer.searchable import clock
from indexer.transparency.counting import Reconciled, Year, count
from indexer.transparency.suppression import LEAST, ShownTable, shown, suppress
from models.calibration import Calibration
from models.errors import HomewardError

RATES: Final = (1e-3, 1e-4, 1e-5, 1e-6)
"""False match rates for which the score is given that reaches them."""


class YearNotOver(HomewardError):
    """The year can still change."""

    code = "year_not_over"

    def __init__(self, year: int) -> None:
        super().__init__(
            f"{year} is not over; two reports of it could be subtracted from each other.",
            remedy="Ask for a year that has ended (UTC).",
        )


@dataclass(frozen=True, slots=True)
class ContractUse:
    """An embedding contract that was searched with. ``thresholds``: by false match rate, the
    lowest score whose measured upper bound is at most that; None where it cannot be told."""

    contract_id: str
    searches: int | None
    calibrated: bool
    thresholds: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class GallerySize:
    """Faces in ads that searches were compared with, to two figures; None where hidden."""

    least: int | None
    median: int | None
    most: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """``reconciled``: by table, whether the rows that are left say the same as the audit log."""

    year: int
    least: int
    tables: tuple[ShownTable, ...]
    gallery: GallerySize
    contracts: tuple[ContractUse, ...]
    reconciled: Mapping[str, str]
    last_hash: str | None


def make_report(catalog: Catalog, year: int, in_use: Calibration | None = None) -> Report:
    """The report of a year. ``in_use``: the calibration of the contract in use, which its pack may
    have brought; of others only what was measured here is known. Raises :class:`YearNotOver`,
    ``CalibrationDamaged``."""
    counted = _count(catalog, year)
    tables = tuple(suppress(table) for table in counted.tables)
    by_contract = next(one for one in tables if one.name == "searches").divisions["contract"]
    return Report(
        year=year,
        least=LEAST,
        tables=tables,
        gallery=_gallery(counted.gallery),
        contracts=tuple(
            _contract(catalog, contract_id, searches, in_use)
            for contract_id, searches in sorted(by_contract.items())
        ),
        reconciled={one.name: one.state for one in counted.reconciled},
        last_hash=counted.last_hash,
    )


def reconcile(catalog: Catalog, year: int) -> tuple[Reconciled, ...]:
    """Each figure counted both ways, nothing hidden: for those who run the installation, not for
    publication. Raises :class:`YearNotOver`."""
    return _count(catalog, year).reconciled


def _count(catalog: Catalog, year: int) -> Year:
    with catalog.read() as session:
        if year >= clock(session).year:
            raise YearNotOver(year)
        return count(session, year)


def _gallery(sizes: Sequence[int]) -> GallerySize:
    # Of few searches, three figures would say much about each.
    if len(sizes) < LEAST:
        return GallerySize(None, None, None)
    return GallerySize(
        _rounded(min(sizes)), _rounded(round(statistics.median(sizes))), _rounded(max(sizes))
    )


def _rounded(number: int) -> int | None:
    return shown(round(number, min(0, 2 - len(str(number)))))


def _contract(
    catalog: Catalog, contract_id: str, searches: int | None, in_use: Calibration | None
) -> ContractUse:
    measured = calibrations.stored(catalog, contract_id)
    if measured is None and in_use is not None and in_use.contract_id == contract_id:
        measured = in_use
    thresholds: dict[str, float | None] = {}
    if measured is not None:
        for rate in RATES:
            score = measured.threshold(rate)
            # 1.0 is what a calibration says that cannot resolve so rare an event.
            thresholds[f"{rate:.0e}"] = None if score >= 1.0 else round(score, 4)
    return ContractUse(contract_id, searches, measured is not None, thresholds)
