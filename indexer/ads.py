"""Ads as the scraper sends them: received once, kept as received, queued for analysis."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from indexer import queue, removals, staging
from indexer.ad_records import ad_records
from indexer.ad_rows import contact_key, missing_images, take
from indexer.blobs import Received
from indexer.catalog.sealed import contact_forms
from indexer.catalog.tables import (
    Ad,
    AdContact,
    Capture,
    CaptureImage,
    CapturePage,
)
from indexer.errors import AdNotFound, ImageUnknown, QueueFull, StorageError
from indexer.ids import decode_cursor, encode_cursor
from indexer.incoming import Delivery, Prepared, prepare
from indexer.records import AdFilter, AdInput, AdReceipt, AdRecord, Page, Upload
from indexer.room import require_room
from indexer.sealing.keyring import Keyring
from indexer.withheld import rows as withheld
from indexer.workspace import Workspace
from models.errors import HomewardError

# --- receiving -------------------------------------------------------------------------------


def receive_ad(
    ws: Workspace,
    ad: AdInput,
    images: Sequence[Upload],
    pages: Sequence[Upload] = (),
    *,
    bounded: bool = True,
) -> AdReceipt:
    """Keep an ad with its images and page files and queue their analysis; lasting on return.

    The ad is known by ``(site, external_id)``; the same content (fields, images, pages; not the
    time of capture and the tool) gives the same ids and adds only the time of the sighting. New
    content is a new capture of the same ad. The ad's own fields are those of its latest sighting,
    by ``captured_at``; without that, this one is the latest. A bad image is an outcome, not an
    error. Raises
    :class:`TooManyFiles`, :class:`FileTooLarge` (a page), :class:`ItemRefused` (fields),
    :class:`ImageUnknown` (named by a digest that nobody sent), and, if ``bounded``,
    :class:`QueueFull`; then nothing is kept.
    """
    (outcome,) = receive_ads(ws, [Delivery(ad, images, pages)], bounded=bounded)
    if isinstance(outcome, HomewardError):
        raise outcome
    return outcome


def receive_ads(
    ws: Workspace, deliveries: Sequence[Delivery], *, bounded: bool = True
) -> list[AdReceipt | HomewardError]:
    """Keep a few dozen ads in one transaction, as :func:`receive_ad` would one after the other.

    Returns for each its receipt or why it alone was not taken. Raises the StorageError tree;
    then none is kept.
    """
    require_room(ws)
    outcomes: list[AdReceipt | HomewardError | None] = [None] * len(deliveries)
    prepared: dict[int, Prepared] = {}
    with ExitStack() as waiting:
        for at, delivery in enumerate(deliveries):
            try:
                prepared[at] = prepare(ws, delivery, waiting)
            except StorageError:
                raise
            except HomewardError as error:
                outcomes[at] = error
        fresh, again = _files(ws, prepared, outcomes, bounded=bounded)
        with removals.discard_if_refused(ws, [*fresh, *again]):
            # Evenly where no ad has the bytes: the time must not tell whether a case has them.
            ws.blobs.keep(fresh.values(), evenly=True)
            ws.blobs.keep(again.values())
            todo = [(at, one) for at, one in prepared.items() if outcomes[at] is None]
            if todo:
                with ws.catalog.write() as session:
                    taken = take(ws, session, todo)
                    withheld.arrived(session, ws, [*fresh, *again])
                for at, outcome in taken.items():
                    outcomes[at] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _files(
    ws: Workspace,
    prepared: Mapping[int, Prepared],
    outcomes: list[AdReceipt | HomewardError | None],
    *,
    bounded: bool,
) -> tuple[dict[str, Received], dict[str, Received]]:
    """The files to keep, without and with an ad that has them already; ads that name unknown
    images and ads beyond the bound of the queue are refused in ``outcomes``."""
    group = list(prepared.values())
    fresh: dict[str, Received] = {}
    again: dict[str, Received] = {}
    with ws.catalog.read() as session:
        same = _same_captures(session, group)
        new = {at: one for at, one in prepared.items() if _key(one) not in same}
        room = ws.options.max_queued_jobs
        waiting = queue.waiting_in(session) if bounded and new else 0
        there = _sent_before(session, new.values())
        for at, one in new.items():
            if missing := missing_images(ws, one, there):
                outcomes[at] = ImageUnknown(missing)
            elif bounded:
                if waiting >= room:
                    outcomes[at] = QueueFull(waiting, room)
                waiting += 1
        for at, one in prepared.items():
            if outcomes[at] is None:
                (fresh if at in new else again).update(one.files)
        owned = _owned_by_ads(session, fresh) if fresh else set()
    again |= {sha256: fresh.pop(sha256) for sha256 in list(fresh) if sha256 in owned}
    return fresh, again


def _key(one: Prepared) -> tuple[str, str, str]:
    return one.ad.site, one.ad.external_id, one.digest


def _same_captures(session: Session, group: Sequence[Prepared]) -> set[tuple[str, str, str]]:
    """Site, id and digest of those that are there already."""
    query = (
        select(Ad.site, Ad.external_id, Capture.digest)
        .join(Capture, Capture.ad_id == Ad.ad_id)
        .where(
            Ad.site.in_({one.ad.site for one in group}),
            Ad.external_id.in_({one.ad.external_id for one in group}),
            Capture.digest.in_({one.digest for one in group}),
        )
    )
    return {(site, external_id, digest) for site, external_id, digest in session.execute(query)}


def _sent_before(session: Session, group: Iterable[Prepared]) -> set[str]:
    """Which of the images that are named by their digest are there to be named."""
    named = {image.sha256 for one in group for image in one.images if image.sent_before}
    return staging.of_ads(session, named) | staging.staged(session, named) if named else set()


def _owned_by_ads(session: Session, sha256s: Collection[str]) -> set[str]:
    query = select(CaptureImage.sha256).where(CaptureImage.sha256.in_(sha256s))
    pages = select(CapturePage.sha256).where(CapturePage.sha256.in_(sha256s))
    return {sha256 for (sha256,) in session.execute(query.union(pages)) if sha256 is not None}


# --- reading ---------------------------------------------------------------------------------


def get_ad(ws: Workspace, ad_id: str) -> AdRecord:
    """One ad with its captures and images. Raises :class:`AdNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(Ad, ad_id)
        if row is None:
            raise AdNotFound(ad_id)
        return ad_records(session, ws.contract_id, [row])[0]


def find_ad(ws: Workspace, site: str, external_id: str) -> AdRecord:
    """The ad that a site knows by ``external_id``. Raises :class:`AdNotFound`."""
    with ws.catalog.read() as session:
        row = session.scalar(select(Ad).where(Ad.site == site, Ad.external_id == external_id))
        if row is None:
            raise AdNotFound(f"{site}/{external_id}")
        return ad_records(session, ws.contract_id, [row])[0]


def list_ads(
    ws: Workspace,
    filters: AdFilter | None = None,
    *,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[AdRecord]:
    """Ads with their captures and images, newest first. Raises :class:`InvalidCursor`."""
    query = select(Ad).order_by(Ad.ad_id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Ad.ad_id < decode_cursor(cursor))
    if filters is not None:
        query = _filtered(query, filters, ws.keyring)
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        items = ad_records(session, ws.contract_id, rows[:limit])
    return Page(tuple(items), encode_cursor(items[-1].ad_id) if len(rows) > limit else None)


def _filtered(query: Select[Ad], filters: AdFilter, keyring: Keyring | None) -> Select[Ad]:
    if filters.site is not None:
        query = query.where(Ad.site == filters.site)
    if filters.phone is not None:
        keys = contact_forms(keyring, contact_key("phone", filters.phone))
        query = query.where(
            select(AdContact.ad_id)
            .where(AdContact.ad_id == Ad.ad_id, AdContact.kind == "phone", AdContact.key.in_(keys))
            .exists()
        )
    if filters.place is not None:
        columns = [Ad.city, Ad.region, Ad.country]
        if keyring is None:  # sealed, it can be shown, but not searched
            columns.append(Ad.location_text)
        query = query.where(
            or_(*(column.icontains(filters.place, autoescape=True) for column in columns))
        )
    if filters.posted_after is not None:
        query = query.where(Ad.posted_at >= filters.posted_after)
    if filters.posted_before is not None:
        query = query.where(Ad.posted_at < filters.posted_before)
    return query
