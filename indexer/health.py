"""Whether what is stored agrees with itself, for ``homeward doctor`` and readiness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from indexer import jobs, ledger, purges, removals, retention
from indexer.catalog.engine import driver_facts
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import CapturePage, Image, PendingRemoval, StagedImage
from indexer.compaction import too_large
from indexer.errors import BlobDamaged, BlobMissing
from indexer.generations import rows
from indexer.records import GalleryName
from indexer.reindex import outdated
from indexer.room import free_bytes, require_room, room_left
from indexer.withheld.rows import bytes_deleted
from indexer.workspace import Workspace
from models.errors import HomewardError

__all__ = ["HealthItem", "HealthReport", "check", "require_room", "room_left"]

MIN_FREE_BYTES = 1_000_000_000
"""Below this the disk is said to be short even where nothing is stopped yet."""


@dataclass(frozen=True, slots=True)
class HealthItem:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """All that was looked at."""

    items: tuple[HealthItem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(item.ok for item in self.items)


def check(ws: Workspace, *, verify_blobs: bool = False) -> HealthReport:
    """Look at catalog, originals, both galleries, jobs, deletions and disk.

    ``verify_blobs`` reads every original and checks its SHA-256, which takes as long as reading
    them all. Nothing is changed, nothing is raised: what fails is an item that is not ok.
    """
    looks: list[tuple[str, Callable[[], HealthItem]]] = [
        ("catalog", lambda: _catalog(ws)),
        ("originals", lambda: _originals(ws, verify_blobs)),
        ("gallery of cases", lambda: _gallery(ws, "cases")),
        ("gallery of ads", lambda: _gallery(ws, "ads")),
        ("contract", lambda: _contract(ws)),
        ("generations", lambda: _generations(ws)),
        ("jobs", lambda: _jobs(ws)),
        ("deletions", lambda: _deletions(ws)),
        ("purges", lambda: _purges(ws)),
        ("ageing", lambda: _ageing(ws)),
        ("disk", lambda: _disk(ws)),
    ]
    items = []
    for name, look in looks:
        try:
            items.append(look())
        except HomewardError as error:
            items.append(HealthItem(name, False, error.detail, error.remedy))
    return HealthReport(tuple(items))


def _catalog(ws: Workspace) -> HealthItem:
    facts = driver_facts(ws.catalog)
    problems = ws.catalog.problems()
    detail = f"{facts['database']} {facts['version']}"
    if problems:
        return HealthItem(
            "catalog",
            False,
            f"{detail}: {'; '.join(problems)}",
            "Restore the catalog from the back-up; keep the damaged file for inspection.",
        )
    return HealthItem("catalog", True, detail)


def _originals(ws: Workspace, verify: bool) -> HealthItem:
    with ws.catalog.read() as session:
        expected = set(session.scalars(select(Image.sha256)))
        expected |= set(session.scalars(select(CapturePage.sha256)))
        expected |= set(session.scalars(select(StagedImage.sha256)))
        expected -= bytes_deleted(session, expected)
        preserved = set(session.scalars(select(WithheldImage.sha256)))
    held = set(ws.blobs.digests())
    missing, orphans = expected - held, held - expected - preserved
    damaged = _damaged(ws, expected & held) if verify else []
    detail = f"{len(expected)} originals"
    if verify:
        detail += f", all read, {len(damaged)} damaged"
    if orphans:
        # An upload that broke off before its commit; harmless.
        detail += f", {len(orphans)} files that nothing refers to"
    if missing:
        detail += f", {len(missing)} missing"
    if missing or damaged:
        return HealthItem("originals", False, detail, "Restore the originals from the back-up.")
    if removals.look_foreign(len(orphans), len(held)):
        return HealthItem(
            "originals",
            False,
            f"{detail}, which is so many that none is removed",
            "Check that HOMEWARD_CATALOG_URL and HOMEWARD_BLOBS_URL belong together.",
        )
    return HealthItem("originals", True, detail)


def _damaged(ws: Workspace, shas: set[str]) -> list[str]:
    damaged = []
    for sha256 in sorted(shas):
        try:
            ws.blobs.get(sha256)
        except (BlobDamaged, BlobMissing):
            damaged.append(sha256)
    return damaged


def _gallery(ws: Workspace, name: GalleryName) -> HealthItem:
    gallery = ws.gallery(name)
    problem = gallery.health()
    if problem is not None:
        return HealthItem(
            f"gallery of {name}",
            False,
            problem,
            "Run `homeward gallery rebuild`; it is made anew from the catalog.",
        )
    return HealthItem(
        f"gallery of {name}",
        True,
        f"{gallery.count()} faces under {gallery.contract_id}; {gallery.about()}",
    )


def _contract(ws: Workspace) -> HealthItem:
    left = outdated(ws)
    if left:
        return HealthItem(
            "contract",
            False,
            f"{left.ad_images} images of ads and {left.photos} photos are not searched under "
            f"{ws.contract_id}",
            "Run `homeward reindex`.",
        )
    return HealthItem("contract", True, f"everything stored is searched under {ws.contract_id}")


def _generations(ws: Workspace) -> HealthItem:
    with ws.catalog.read() as session:
        beside = rows.others(session, ws.contract_id)
    if not beside:
        return HealthItem("generations", True, "one, in use")
    said = [f"{one.contract_id} is {_STATES[one.state]}" for one in beside]
    lacking = []
    for one in beside:
        try:
            ws.views.loaded(one.contract_id)
        except HomewardError as error:
            lacking.append(error.detail)
    if lacking:
        return HealthItem(
            "generations",
            False,
            f"{'; '.join(said)}. {' '.join(lacking)}",
            "Install the pack here (`homeward packs install`), have another machine do the work, "
            "or give the generation up (`homeward generations drop`).",
        )
    return HealthItem("generations", True, "; ".join(said))


_STATES = {
    "building": "being built beside the one in use",
    "active": "in use",
    "kept": "kept for going back, and receives what is new",
}


def _jobs(ws: Workspace) -> HealthItem:
    counts = jobs.counts(ws)
    detail = ", ".join(f"{count} {state}" for state, count in counts.items())
    if counts["failed"]:
        return HealthItem(
            "jobs",
            False,
            detail,
            "See `homeward jobs list --state failed`, then retry or drop them.",
        )
    return HealthItem("jobs", True, detail)


def _deletions(ws: Workspace) -> HealthItem:
    with ws.catalog.read() as session:
        pending = session.scalars(select(PendingRemoval.item)).all()
    if pending:
        return HealthItem(
            "deletions",
            False,
            f"{len(pending)} remains are still to be cleared",
            "Start Homeward, or wait: it is done within a minute while running.",
        )
    if too_large(ws.catalog):
        return HealthItem(
            "deletions",
            False,
            "the catalog is too large: what SQLite leaves of deleted rows in the slack of its "
            "pages is not cleared",
            "Move to PostgreSQL.",
        )
    return HealthItem("deletions", True, "nothing left to clear")


def _purges(ws: Workspace) -> HealthItem:
    path = ws.options.purge_ledger
    if path is None:
        return HealthItem("purges", True, "no file lists them")
    waiting = purges.pending_entries(ws)
    listed = len(ledger.read(path).purges) if path.exists() else 0
    detail = f"{listed} in {path}"
    if waiting:
        return HealthItem(
            "purges",
            False,
            f"{detail}, {waiting} not yet",
            "Make the file writable for this account; it is caught up within a minute.",
        )
    return HealthItem("purges", True, detail)


def _ageing(ws: Workspace) -> HealthItem:
    days = ws.options.ad_max_age_days
    if not days:
        return HealthItem("ageing", True, "ads are kept whatever their age")
    found = retention.look(ws, days)
    detail = f"{found.due} of {found.total} ads were not received for {days} days"
    if found.held_back:
        return HealthItem(
            "ageing",
            False,
            f"{detail}; they stay: {found.held_back}",
            "Check the clock of this machine. If it is right, run "
            f"`homeward purge ads --older-than {days}`.",
        )
    return HealthItem("ageing", True, detail)


def _disk(ws: Workspace) -> HealthItem:
    free = free_bytes(ws)
    detail = f"{free / 1e9:.1f} GB free"
    if free < ws.options.min_free_bytes:
        return HealthItem(
            "disk",
            False,
            f"{detail}, below the {ws.options.min_free_bytes / 1e9:.1f} GB that have to stay free: "
            "nothing new is taken in and jobs pause",
            "Free space or move the data folder; it goes on by itself.",
        )
    if free < MIN_FREE_BYTES:
        return HealthItem("disk", False, detail, "Free space or move the data folder.")
    return HealthItem("disk", True, detail)
