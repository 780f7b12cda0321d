"""Ads as the scraper sends them: received once, kept as received, queued for analysis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from indexer import images as image_store
from indexer import queue, removals
from indexer.ad_records import PLAIN, ad_records, image_outcome
from indexer.blobs import sha256_hex, short_name
from indexer.catalog.tables import Ad, AdContact, Capture, CaptureImage, CapturePage
from indexer.errors import AdNotFound, FileTooLarge, ItemRefused, QueueFull, TooManyFiles
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import (
    AdFilter,
    AdInput,
    AdReceipt,
    AdRecord,
    Page,
    Upload,
)
from indexer.room import require_room
from indexer.times import to_utc_ms, utc_now
from indexer.workspace import Workspace
from models.decode import ImageHeader, inspect
from models.errors import ImageRejected

_INPUT: TypeAdapter[AdInput] = TypeAdapter(AdInput)
_MAX_CONTENT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class _Examined:
    """One uploaded image: its digest, and what its header says or why it was rejected."""

    upload: Upload
    sha256: str
    header: ImageHeader | None
    rejected: ImageRejected | None


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
    :class:`TooManyFiles`, :class:`FileTooLarge` (a page), :class:`ItemRefused` (fields), and, if
    ``bounded``, :class:`QueueFull`; then nothing is kept.
    """
    require_room(ws)
    _check_counts(ws, images, pages)
    examined = [_examine(ws, upload) for upload in images]
    page_shas = [sha256_hex(page.data) for page in pages]
    content = _content(ad)
    digest = _digest(content, [item.sha256 for item in examined], page_shas)
    with ws.catalog.read() as session:
        if bounded and _same_capture(session, ad, digest) is None:
            waiting = queue.waiting_in(session)
            if waiting >= ws.options.max_queued_jobs:
                raise QueueFull(waiting, ws.options.max_queued_jobs)
    kept = {item.sha256: item.upload.data for item in examined if item.header is not None}
    kept.update((sha256, page.data) for sha256, page in zip(page_shas, pages, strict=True))
    with removals.discard_if_refused(ws, kept):
        for data in kept.values():
            ws.blobs.put(data)
        return _commit(ws, ad, content, digest, examined, kept, pages, page_shas)


def _commit(
    ws: Workspace,
    ad: AdInput,
    content: dict[str, Any],
    digest: str,
    examined: Sequence[_Examined],
    kept: Mapping[str, bytes],
    pages: Sequence[Upload],
    page_shas: Sequence[str],
) -> AdReceipt:
    with ws.catalog.write() as session:
        same = _same_capture(session, ad, digest)
        if same is not None:
            _seen_again(same, ad.captured_at)
            _upsert_ad(session, ad)
            return _receipt(session, same, created=False, known=_known(session, examined))
        for sha256, data in kept.items():
            if not ws.blobs.has(sha256):
                # Another owner of the same bytes was forgotten since they were put.
                ws.blobs.put(data)
        known = _known(session, examined)
        row = _upsert_ad(session, ad)
        capture = _add_capture(session, row.ad_id, ad, content, digest, examined)
        _add_pages(session, capture.capture_id, pages, page_shas)
        session.flush()
        return _receipt(session, capture, created=True, known=known)


def _check_counts(ws: Workspace, images: Sequence[Upload], pages: Sequence[Upload]) -> None:
    options = ws.options
    if len(images) > options.max_images_per_ad:
        raise TooManyFiles(
            f"The ad has {len(images)} images; at most {options.max_images_per_ad} are taken.",
            remedy="Send the rest as another capture of the same ad.",
        )
    if len(pages) > options.max_pages_per_ad:
        raise TooManyFiles(
            f"The ad has {len(pages)} page files; at most {options.max_pages_per_ad} are taken.",
            remedy="Send the rest as another capture of the same ad.",
        )
    for page in pages:
        if len(page.data) > options.max_page_bytes:
            raise FileTooLarge(
                f"The page file {page.filename or ''} has {len(page.data)} bytes; "
                f"at most {options.max_page_bytes} are taken.",
                remedy="Send a smaller page file, such as the HTML without what it embeds.",
            )


def _examine(ws: Workspace, upload: Upload) -> _Examined:
    sha256 = sha256_hex(upload.data)
    try:
        return _Examined(upload, sha256, inspect(upload.data, ws.limits), None)
    except ImageRejected as rejected:
        return _Examined(upload, sha256, None, rejected)


def _content(ad: AdInput) -> dict[str, Any]:
    """The fields as JSON; refuses what JSON or a database cannot carry."""
    try:
        # The free parts are looked at as they came: dumping would turn a NaN into null.
        for free in (ad.attributes, ad.capture and ad.capture.response_headers):
            json.dumps(free, allow_nan=False)
        content: dict[str, Any] = _INPUT.dump_python(ad, mode="json", exclude_none=True)
        size = len(json.dumps(content, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise ItemRefused(
            "A field of the ad holds a number that is none, or text that is not Unicode.",
            remedy="Leave the value out or send it as plain text.",
        ) from error
    if size > _MAX_CONTENT_BYTES:
        raise ItemRefused(
            f"The fields of the ad have {size} bytes; at most {_MAX_CONTENT_BYTES} are taken.",
            remedy="Send long texts as a page file.",
        )
    return content


def _digest(content: Mapping[str, Any], images: Sequence[str], pages: Sequence[str]) -> str:
    """What makes two captures the same: the ad's fields and files, not when and how it was got."""
    told = {key: value for key, value in content.items() if key not in ("captured_at", "capture")}
    text = json.dumps([told, list(images), list(pages)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _same_capture(session: Session, ad: AdInput, digest: str) -> Capture | None:
    return session.scalar(
        select(Capture)
        .join(Ad, Ad.ad_id == Capture.ad_id)
        .where(Ad.site == ad.site, Ad.external_id == ad.external_id, Capture.digest == digest)
    )


def _seen_again(capture: Capture, captured_at: datetime | None) -> None:
    if captured_at is not None:
        moment = to_utc_ms(captured_at)
        if capture.last_captured_at is None or capture.last_captured_at < moment:
            capture.last_captured_at = moment


def _known(session: Session, examined: Sequence[_Examined]) -> frozenset[str]:
    """Which of these images an ad has already. Photos of cases are never asked."""
    shas = [item.sha256 for item in examined if item.header is not None]
    return frozenset(
        session.scalars(select(CaptureImage.sha256).where(CaptureImage.sha256.in_(shas)))
    )


def _upsert_ad(session: Session, ad: AdInput) -> Ad:
    now = utc_now()
    row = session.scalar(select(Ad).where(Ad.site == ad.site, Ad.external_id == ad.external_id))
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
    elif _is_latest(session, row.ad_id, ad.captured_at):
        _set_fields(row, ad)
        if session.is_modified(row):
            row.updated_at = now
    row.last_received_at = now
    session.flush()
    # Contacts of earlier captures stay findable: a number that was taken off the ad is a trace.
    for kind, values in (("phone", ad.phones), ("email", ad.emails), ("handle", ad.handles)):
        for key in {contact_key(kind, value) for value in values} - {""}:
            session.merge(AdContact(ad_id=row.ad_id, kind=kind, key=key))
    return row


def _set_fields(row: Ad, ad: AdInput) -> None:
    for name in PLAIN:
        setattr(row, name, getattr(ad, name))
    row.posted_at = ad.posted_at
    row.phones, row.emails, row.handles = list(ad.phones), list(ad.emails), list(ad.handles)
    row.attributes = dict(ad.attributes)


def _is_latest(session: Session, ad_id: str, captured_at: datetime | None) -> bool:
    """Whether no capture of the ad was seen after ``captured_at``."""
    if captured_at is None:
        return True
    last = session.scalar(select(func.max(Capture.last_captured_at)).where(Capture.ad_id == ad_id))
    return last is None or last <= to_utc_ms(captured_at)


def contact_key(kind: str, value: str) -> str:
    """The form in which a contact is looked up: digits of a phone, the rest without case."""
    if kind == "phone":
        return "".join(character for character in value if character.isdecimal())
    return value.strip().casefold()


def _add_capture(
    session: Session,
    ad_id: str,
    ad: AdInput,
    content: dict[str, Any],
    digest: str,
    examined: Sequence[_Examined],
) -> Capture:
    capture_id = new_id()
    for item in examined:
        if item.header is not None:
            image_store.ensure_row(session, item.sha256, len(item.upload.data), item.header)
    accepted = {item.sha256 for item in examined if item.header is not None}
    capture = Capture(
        capture_id=capture_id,
        ad_id=ad_id,
        digest=digest,
        captured_at=ad.captured_at,
        last_captured_at=ad.captured_at,
        received_at=utc_now(),
        job_id=queue.enqueue(
            session, "ingest_ad", ad_id, total=len(accepted), capture_id=capture_id
        ),
        content=content,
    )
    session.add(capture)
    session.flush()
    session.add_all(
        CaptureImage(
            capture_id=capture_id,
            position=position,
            upload_sha256=item.sha256,
            sha256=None if item.header is None else item.sha256,
            filename=short_name(item.upload.filename),
            code=item.rejected.code if item.rejected else None,
            detail=item.rejected.detail if item.rejected else None,
        )
        for position, item in enumerate(examined)
    )
    return capture


def _add_pages(
    session: Session, capture_id: str, pages: Sequence[Upload], shas: Sequence[str]
) -> None:
    session.add_all(
        CapturePage(
            capture_id=capture_id,
            position=position,
            sha256=sha256,
            filename=short_name(page.filename),
            media_type=page.media_type[:200] if page.media_type else None,
            size=len(page.data),
        )
        for position, (page, sha256) in enumerate(zip(pages, shas, strict=True))
    )


def _receipt(
    session: Session, capture: Capture, *, created: bool, known: frozenset[str]
) -> AdReceipt:
    rows = session.scalars(
        select(CaptureImage)
        .where(CaptureImage.capture_id == capture.capture_id)
        .order_by(CaptureImage.position)
    )
    return AdReceipt(
        ad_id=capture.ad_id,
        capture_id=capture.capture_id,
        job_id=capture.job_id,
        created=created,
        images=tuple(image_outcome(row, known) for row in rows),
    )


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
