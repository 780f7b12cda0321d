"""Ads as the scraper sends them: received once, kept as received, queued for analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from indexer import queue, removals, staging
from indexer.ad_records import PLAIN, ad_records, image_outcome
from indexer.blobs import Received, short_name
from indexer.catalog.tables import Ad, AdContact, Capture, CaptureImage, CapturePage, Image
from indexer.errors import AdNotFound, ImageUnknown, QueueFull, StorageError
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.incoming import Delivery, Prepared, prepare
from indexer.records import AdFilter, AdInput, AdReceipt, AdRecord, Page, Upload
from indexer.room import require_room
from indexer.times import to_utc_ms, utc_now
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
            with ws.catalog.write() as session:
                for at, outcome in _take(ws, session, todo).items():
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
    with ws.catalog.read() as session:
        seen = _Seen(session, list(prepared.values()))
        room = ws.options.max_queued_jobs
        waiting = queue.waiting_in(session) if bounded else 0
        for at, one in prepared.items():
            if seen.capture(one) is not None:
                continue
            if missing := _missing(ws, seen, one):
                outcomes[at] = ImageUnknown(missing)
            elif bounded:
                if waiting >= room:
                    outcomes[at] = QueueFull(waiting, room)
                waiting += 1
        files = {
            sha256: file
            for at, one in prepared.items()
            if outcomes[at] is None
            for sha256, file in one.files.items()
        }
        pages = select(CapturePage.sha256).where(CapturePage.sha256.in_(files))
        known = seen.known | set(session.scalars(pages))
    fresh = {sha256: file for sha256, file in files.items() if sha256 not in known}
    return fresh, {sha256: file for sha256, file in files.items() if sha256 in known}


class _Seen:
    """What the catalog holds of a group of ads, read at once and kept up as they are taken."""

    def __init__(self, session: Session, group: Sequence[Prepared]) -> None:
        self.ads = {
            (row.site, row.external_id): row
            for row in session.scalars(
                select(Ad).where(
                    Ad.site.in_({one.ad.site for one in group}),
                    Ad.external_id.in_({one.ad.external_id for one in group}),
                )
            )
        }
        ids = [row.ad_id for row in self.ads.values()]
        self.captures: dict[tuple[str, str], Capture] = {}
        self.latest: dict[str, datetime] = {}
        self.contacts: set[tuple[str, str, str]] = set()
        if ids:
            self._read_captures(session, ids, {one.digest for one in group})
        images = {image.sha256 for one in group for image in one.images}
        self.known = staging.of_ads(session, images)
        self.staged = staging.staged(session, images)
        self.rows = set(session.scalars(select(Image.sha256).where(Image.sha256.in_(images))))

    def _read_captures(self, session: Session, ids: Sequence[str], digests: set[str]) -> None:
        query = select(Capture).where(Capture.ad_id.in_(ids), Capture.digest.in_(digests))
        self.captures = {(row.ad_id, row.digest): row for row in session.scalars(query)}
        latest = (
            select(Capture.ad_id, func.max(Capture.last_captured_at))
            .where(Capture.ad_id.in_(ids))
            .group_by(Capture.ad_id)
        )
        self.latest = {ad_id: at for ad_id, at in session.execute(latest) if at is not None}
        contacts = select(AdContact.ad_id, AdContact.kind, AdContact.key)
        self.contacts = {
            (ad_id, kind, key)
            for ad_id, kind, key in session.execute(contacts.where(AdContact.ad_id.in_(ids)))
        }

    def ad(self, ad: AdInput) -> Ad | None:
        return self.ads.get((ad.site, ad.external_id))

    def capture(self, one: Prepared) -> Capture | None:
        row = self.ad(one.ad)
        return self.captures.get((row.ad_id, one.digest)) if row is not None else None

    def sighted(self, ad_id: str, at: datetime | None) -> None:
        """Note the time of a sighting."""
        if at is not None:
            moment = to_utc_ms(at)
            self.latest[ad_id] = max(moment, self.latest.get(ad_id, moment))

    def is_latest(self, ad_id: str, captured_at: datetime | None) -> bool:
        """Whether no capture of the ad was seen after ``captured_at``."""
        last = self.latest.get(ad_id)
        return captured_at is None or last is None or last <= to_utc_ms(captured_at)


@dataclass(slots=True)
class _Taken:
    """A capture that this transaction made or saw again, and which images were known before."""

    capture: Capture
    created: bool
    known: frozenset[str]


def _take(
    ws: Workspace, session: Session, todo: Sequence[tuple[int, Prepared]]
) -> dict[int, AdReceipt | HomewardError]:
    """Write the rows of prepared ads; those that name an image that nobody has are left out."""
    seen = _Seen(session, [one for _, one in todo])
    outcomes: dict[int, AdReceipt | HomewardError] = {}
    taken: dict[int, _Taken] = {}
    fresh: list[tuple[Capture, Prepared]] = []
    contacts: list[AdContact] = []
    for at, one in todo:
        same = seen.capture(one)
        missing = [] if same is not None else _missing(ws, seen, one)
        if missing:
            outcomes[at] = ImageUnknown(missing)
            continue
        accepted = one.accepted
        known = frozenset(seen.known & accepted.keys())
        row = _upsert_ad(session, seen, one.ad)
        contacts += _contacts(seen, row.ad_id, one.ad)
        if same is None:
            same = _capture(session, row.ad_id, one)
            seen.captures[row.ad_id, one.digest] = same
            fresh.append((same, one))
            _hold(ws, session, seen, one)
            taken[at] = _Taken(same, True, known)
        else:
            _seen_again(same, one.ad.captured_at)
            taken[at] = _Taken(same, False, known)
        seen.sighted(row.ad_id, one.ad.captured_at)
    # Rows that others refer to go first.
    session.flush()
    session.add_all([capture for capture, _ in fresh])
    session.add_all(contacts)
    session.flush()
    for capture, one in fresh:
        session.add_all(_children(capture.capture_id, one))
    session.flush()
    return outcomes | _receipts(session, taken)


def _missing(ws: Workspace, seen: _Seen, one: Prepared) -> list[str]:
    """Images that the ad names by digest and that nobody has sent, or not for long enough."""
    there = seen.known | seen.staged
    missing = [
        image.sha256
        for image in one.images
        if image.sent_before
        and (image.missing or image.sha256 not in there or not ws.blobs.has(image.sha256))
    ]
    return list(dict.fromkeys(missing))


def _hold(ws: Workspace, session: Session, seen: _Seen, one: Prepared) -> None:
    """Make the rows of the ad's images, and the ad their owner instead of the staging."""
    for sha256, file in one.files.items():
        if not ws.blobs.has(sha256):
            # Another owner of the same bytes was forgotten since they were kept.
            ws.blobs.keep([file])
    now = utc_now()
    accepted = one.accepted
    for sha256, image in accepted.items():
        if image.header is not None and sha256 not in seen.rows:
            session.add(
                Image(
                    sha256=sha256,
                    format=image.header.format,
                    width=image.header.width,
                    height=image.header.height,
                    size=image.size,
                    notes=[],
                    created_at=now,
                )
            )
    if waited := seen.staged & accepted.keys():
        staging.unstage(session, waited)
    seen.rows |= accepted.keys()
    seen.known |= accepted.keys()


def _seen_again(capture: Capture, captured_at: datetime | None) -> None:
    if captured_at is not None:
        moment = to_utc_ms(captured_at)
        if capture.last_captured_at is None or capture.last_captured_at < moment:
            capture.last_captured_at = moment


def _upsert_ad(session: Session, seen: _Seen, ad: AdInput) -> Ad:
    now = utc_now()
    row = seen.ad(ad)
    if row is None:
        row = Ad(
            ad_id=new_id(),
            legal_hold=False,
            last_received_at=now,
            created_at=now,
            updated_at=now,
        )
        _set_fields(row, ad)
        session.add(row)
        seen.ads[ad.site, ad.external_id] = row
    elif seen.is_latest(row.ad_id, ad.captured_at):
        _set_fields(row, ad)
        if session.is_modified(row):
            row.updated_at = now
    row.last_received_at = now
    return row


def _contacts(seen: _Seen, ad_id: str, ad: AdInput) -> list[AdContact]:
    """Contacts that the ad did not have. Those of earlier captures stay findable: a number that
    was taken off the ad is a trace."""
    added = []
    for kind, values in (("phone", ad.phones), ("email", ad.emails), ("handle", ad.handles)):
        for key in {contact_key(kind, value) for value in values} - {""}:
            if (ad_id, kind, key) not in seen.contacts:
                seen.contacts.add((ad_id, kind, key))
                added.append(AdContact(ad_id=ad_id, kind=kind, key=key))
    return added


def _set_fields(row: Ad, ad: AdInput) -> None:
    for name in PLAIN:
        setattr(row, name, getattr(ad, name))
    row.posted_at = ad.posted_at
    row.phones, row.emails, row.handles = list(ad.phones), list(ad.emails), list(ad.handles)
    row.attributes = dict(ad.attributes)


def contact_key(kind: str, value: str) -> str:
    """The form in which a contact is looked up: digits of a phone, the rest without case."""
    if kind == "phone":
        return "".join(character for character in value if character.isdecimal())
    return value.strip().casefold()


def _capture(session: Session, ad_id: str, one: Prepared) -> Capture:
    capture_id = new_id()
    at = one.ad.captured_at
    return Capture(
        capture_id=capture_id,
        ad_id=ad_id,
        digest=one.digest,
        captured_at=at,
        last_captured_at=None if at is None else to_utc_ms(at),
        received_at=utc_now(),
        job_id=queue.enqueue(
            session, "ingest_ad", ad_id, total=len(one.accepted), capture_id=capture_id
        ),
        content=one.content,
    )


def _children(capture_id: str, one: Prepared) -> list[CaptureImage | CapturePage]:
    images = [
        CaptureImage(
            capture_id=capture_id,
            position=position,
            upload_sha256=image.sha256,
            sha256=None if image.header is None else image.sha256,
            filename=short_name(image.filename),
            code=image.rejected.code if image.rejected else None,
            detail=image.rejected.detail if image.rejected else None,
        )
        for position, image in enumerate(one.images)
    ]
    pages = [
        CapturePage(
            capture_id=capture_id,
            position=position,
            sha256=page.sha256,
            filename=short_name(page.filename),
            media_type=page.media_type[:200] if page.media_type else None,
            size=page.size,
        )
        for position, page in enumerate(one.pages)
    ]
    return [*images, *pages]


def _receipts(
    session: Session, taken: Mapping[int, _Taken]
) -> dict[int, AdReceipt | HomewardError]:
    rows: dict[str, list[CaptureImage]] = {}
    for row in session.scalars(
        select(CaptureImage)
        .where(CaptureImage.capture_id.in_({one.capture.capture_id for one in taken.values()}))
        .order_by(CaptureImage.capture_id, CaptureImage.position)
    ):
        rows.setdefault(row.capture_id, []).append(row)
    return {
        at: AdReceipt(
            ad_id=one.capture.ad_id,
            capture_id=one.capture.capture_id,
            job_id=one.capture.job_id,
            created=one.created,
            images=tuple(
                image_outcome(row, one.known) for row in rows.get(one.capture.capture_id, ())
            ),
        )
        for at, one in taken.items()
    }


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
        query = _filtered(query, filters)
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        items = ad_records(session, ws.contract_id, rows[:limit])
    return Page(tuple(items), encode_cursor(items[-1].ad_id) if len(rows) > limit else None)


def _filtered(query: Select[Ad], filters: AdFilter) -> Select[Ad]:
    if filters.site is not None:
        query = query.where(Ad.site == filters.site)
    if filters.phone is not None:
        key = contact_key("phone", filters.phone)
        query = query.where(
            select(AdContact.ad_id)
            .where(AdContact.ad_id == Ad.ad_id, AdContact.kind == "phone", AdContact.key == key)
            .exists()
        )
    if filters.place is not None:
        columns = (Ad.city, Ad.region, Ad.country, Ad.location_text)
        query = query.where(
            or_(*(column.icontains(filters.place, autoescape=True) for column in columns))
        )
    if filters.posted_after is not None:
        query = query.where(Ad.posted_at >= filters.posted_after)
    if filters.posted_before is not None:
        query = query.where(Ad.posted_at < filters.posted_before)
    return query
