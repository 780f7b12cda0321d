"""The rows of ads, written a few ads at a time in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, literal, select, union
from sqlalchemy.orm import Session

from indexer import audit, queue, staging
from indexer.ad_records import PLAIN, image_outcome
from indexer.blobs import short_name
from indexer.catalog.sealed import contact_forms
from indexer.catalog.tables import (
    Ad,
    AdContact,
    Capture,
    CaptureImage,
    CapturePage,
    Image,
    StagedImage,
)
from indexer.errors import ImageUnknown
from indexer.galleries import refresh_ad
from indexer.ids import new_id
from indexer.incoming import Prepared
from indexer.records import AdInput, AdReceipt
from indexer.sealing.keyring import Keyring
from indexer.times import to_utc_ms, utc_now
from indexer.workspace import Workspace
from models.errors import HomewardError


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
        self.captures: dict[tuple[str, str], Capture] = {}
        self.latest: dict[str, datetime] = {}
        self.contacts: set[tuple[str, str, str]] = set()
        if self.ads:
            self._read_captures(session, group)
        self.known: set[str] = set()
        self.staged: set[str] = set()
        self.rows: set[str] = set()
        self._read_images(session, {image.sha256 for one in group for image in one.images})

    def _read_captures(self, session: Session, group: Sequence[Prepared]) -> None:
        ids = [row.ad_id for row in self.ads.values()]
        digests = {one.digest for one in group}
        query = select(Capture).where(Capture.ad_id.in_(ids), Capture.digest.in_(digests))
        self.captures = {(row.ad_id, row.digest): row for row in session.scalars(query)}
        if any(one.ad.captured_at is not None for one in group):
            latest = (
                select(Capture.ad_id, func.max(Capture.last_captured_at))
                .where(Capture.ad_id.in_(ids))
                .group_by(Capture.ad_id)
            )
            self.latest = {ad_id: at for ad_id, at in session.execute(latest) if at is not None}
        if any(self.capture(one) is None for one in group):
            contacts = select(AdContact.ad_id, AdContact.kind, AdContact.key)
            self.contacts = {
                (ad_id, kind, key)
                for ad_id, kind, key in session.execute(contacts.where(AdContact.ad_id.in_(ids)))
            }

    def _read_images(self, session: Session, shas: Collection[str]) -> None:
        if not shas:
            return
        sets = {"known": self.known, "staged": self.staged, "row": self.rows}
        columns = (CaptureImage.sha256, StagedImage.sha256, Image.sha256)
        queries = [
            select(literal(name), column).where(column.in_(shas))
            for name, column in zip(sets, columns, strict=True)
        ]
        for name, sha256 in session.execute(union(*queries)):
            if sha256 is not None:
                sets[name].add(sha256)

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


def take(
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
        missing = [] if same is not None else missing_images(ws, one, seen.known | seen.staged)
        if missing:
            outcomes[at] = ImageUnknown(missing)
            continue
        accepted = one.accepted
        known = frozenset(seen.known & accepted.keys())
        row = _upsert_ad(session, seen, one.ad)
        if same is None:
            contacts += _contacts(seen, row.ad_id, one.ad, ws.keyring)
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
    rows: dict[str, list[CaptureImage]] = {}
    for capture, one in fresh:
        rows[capture.capture_id] = _image_rows(capture.capture_id, one)
        session.add_all(rows[capture.capture_id])
        session.add_all(_page_rows(capture.capture_id, one))
    session.flush()
    audit.record_many(
        session,
        "ad.accept",
        [
            (
                ("ad", capture.ad_id),
                {
                    "capture_id": capture.capture_id,
                    "job_id": capture.job_id,
                    "images": len(one.images),
                    "pages": len(one.pages),
                },
            )
            for capture, one in fresh
        ],
    )
    return outcomes | _receipts(session, taken, rows)


def missing_images(ws: Workspace, one: Prepared, there: Collection[str]) -> list[str]:
    """Images that the ad names by digest and that nobody has sent, or too long ago."""
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
        place = row.region, row.posted_at
        _set_fields(row, ad)
        if session.is_modified(row):
            row.updated_at = now
        if place != (row.region, row.posted_at):
            # What its images were found by is another now.
            session.flush()
            refresh_ad(session, row.ad_id)
    row.last_received_at = now
    return row


def _contacts(seen: _Seen, ad_id: str, ad: AdInput, keyring: Keyring | None) -> list[AdContact]:
    """Contacts that the ad did not have. Those of earlier captures stay findable: a number that
    was taken off the ad is a trace."""
    added = []
    for kind, values in (("phone", ad.phones), ("email", ad.emails), ("handle", ad.handles)):
        for key in {contact_key(kind, value) for value in values} - {""}:
            forms = contact_forms(keyring, key)
            if not any((ad_id, kind, form) in seen.contacts for form in forms):
                seen.contacts.add((ad_id, kind, forms[0]))
                added.append(AdContact(ad_id=ad_id, kind=kind, key=forms[0]))
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


def _image_rows(capture_id: str, one: Prepared) -> list[CaptureImage]:
    return [
        CaptureImage(
            capture_id=capture_id,
            position=position,
            upload_sha256=image.sha256,
            sha256=None if image.header is None else image.sha256,
            filename=short_name(image.filename),
            header_width=image.header.width if image.header else None,
            header_height=image.header.height if image.header else None,
            code=image.rejected.code if image.rejected else None,
            detail=image.rejected.detail if image.rejected else None,
        )
        for position, image in enumerate(one.images)
    ]


def _page_rows(capture_id: str, one: Prepared) -> list[CapturePage]:
    return [
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


def _receipts(
    session: Session, taken: Mapping[int, _Taken], rows: dict[str, list[CaptureImage]]
) -> dict[int, AdReceipt | HomewardError]:
    """Receipts; ``rows`` has the images of new captures, those of others are read."""
    if others := {one.capture.capture_id for one in taken.values()} - rows.keys():
        query = select(CaptureImage).where(CaptureImage.capture_id.in_(others))
        for row in session.scalars(query.order_by(CaptureImage.position)):
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
