"""Ads as records: rows of several tables read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import images as image_store
from indexer.batches import chunks
from indexer.catalog.tables import Ad, Capture, CaptureImage, CapturePage
from indexer.records import AdRecord, AdSummary, CaptureRecord, ImageOutcome, PageRecord

SUMMARY = ("ad_id", "site", "external_id", "url", "title", "posted_at", "city", "region")
PLAIN = (
    *("site", "external_id", "url", "title", "body", "age_stated", "city", "region", "country"),
    *("location_text", "lat", "lon", "language"),
)


def summary_of(row: Ad) -> AdSummary:
    """The part of an ad that is shown beside a candidate."""
    return AdSummary(**{name: getattr(row, name) for name in SUMMARY})


def ad_records(session: Session, contract_id: str, rows: Sequence[Ad]) -> list[AdRecord]:
    captures: dict[str, list[Capture]] = {}
    for some in chunks(row.ad_id for row in rows):
        for capture in session.scalars(
            select(Capture).where(Capture.ad_id.in_(some)).order_by(Capture.capture_id)
        ):
            captures.setdefault(capture.ad_id, []).append(capture)
    uploads: dict[str, list[CaptureImage]] = {}
    pages: dict[str, list[CapturePage]] = {}
    capture_ids = [capture.capture_id for group in captures.values() for capture in group]
    for some in chunks(capture_ids):
        for upload in session.scalars(
            select(CaptureImage)
            .where(CaptureImage.capture_id.in_(some))
            .order_by(CaptureImage.capture_id, CaptureImage.position)
        ):
            uploads.setdefault(upload.capture_id, []).append(upload)
        for page in session.scalars(
            select(CapturePage)
            .where(CapturePage.capture_id.in_(some))
            .order_by(CapturePage.capture_id, CapturePage.position)
        ):
            pages.setdefault(page.capture_id, []).append(page)
    shas = [row.sha256 for group in uploads.values() for row in group if row.sha256]
    stored = image_store.image_records(session, contract_id, shas, of_ads=True)
    result = []
    for row in rows:
        own = captures.get(row.ad_id, [])
        mine = dict.fromkeys(
            upload.sha256
            for capture in own
            for upload in uploads.get(capture.capture_id, [])
            if upload.sha256
        )
        result.append(
            AdRecord(
                **{name: getattr(row, name) for name in (*SUMMARY, *PLAIN)},
                phones=tuple(row.phones),
                emails=tuple(row.emails),
                handles=tuple(row.handles),
                attributes=row.attributes,
                created_at=row.created_at,
                updated_at=row.updated_at,
                captures=tuple(
                    _capture_record(
                        capture,
                        uploads.get(capture.capture_id, []),
                        pages.get(capture.capture_id, []),
                    )
                    for capture in own
                ),
                images=tuple(stored[sha256] for sha256 in mine if sha256 in stored),
            )
        )
    return result


def _capture_record(
    capture: Capture, uploads: Sequence[CaptureImage], pages: Sequence[CapturePage]
) -> CaptureRecord:
    return CaptureRecord(
        capture_id=capture.capture_id,
        captured_at=capture.captured_at,
        last_captured_at=capture.last_captured_at,
        received_at=capture.received_at,
        job_id=capture.job_id,
        content=cast("Mapping[str, Any]", capture.content),
        images=tuple(image_outcome(row, frozenset()) for row in uploads),
        pages=tuple(
            PageRecord(
                sha256=page.sha256,
                filename=page.filename,
                media_type=page.media_type,
                size=page.size,
            )
            for page in pages
        ),
    )


def image_outcome(row: CaptureImage, known: frozenset[str]) -> ImageOutcome:
    if row.sha256 is None:
        return ImageOutcome(
            filename=row.filename,
            sha256=row.upload_sha256,
            status="rejected",
            code=row.code,
            detail=row.detail,
        )
    return ImageOutcome(
        filename=row.filename,
        sha256=row.sha256,
        status="known" if row.sha256 in known else "queued",
    )
