"""Telling the designated role: by the webhooks and the mail server that alerts leave by.

A notice holds the id of the entry and its deadline. Whoever gets it signs in to learn more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import queue
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Job, Webhook

if TYPE_CHECKING:
    from indexer.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Notice:
    """``event``: ``picture.withheld`` or ``picture.overdue``; ``webhook_id`` is None for mail."""

    event: str
    withheld_id: str
    at: datetime
    due_at: datetime
    webhook_id: str | None


def tell(session: Session, withheld_id: str, event: str, *, emails: Sequence[str]) -> None:
    """Queue what tells of an entry, in the caller's transaction: one job for each webhook, and one
    for the addresses of the designated role where there are any."""
    for webhook_id in session.scalars(select(Webhook.webhook_id).order_by(Webhook.webhook_id)):
        queue.enqueue(session, "deliver_webhook", webhook_id, withheld_id=withheld_id, event=event)
    if emails:
        queue.enqueue(session, "deliver_email", withheld_id, withheld_id=withheld_id, event=event)


def is_notice(ws: Workspace, job_id: str) -> bool:
    """Whether a delivery is of this kind, not of an alert."""
    with ws.catalog.read() as session:
        job = session.get(Job, job_id)
        return job is not None and "withheld_id" in job.payload


def notice_of(ws: Workspace, job_id: str) -> Notice | None:
    """What this job tells; ``None`` where that is settled by now."""
    with ws.catalog.read() as session:
        job = session.get(Job, job_id)
        if job is None:
            return None
        row = session.scalar(
            select(WithheldImage).where(
                WithheldImage.withheld_id == job.payload["withheld_id"],
                WithheldImage.settled_at.is_(None),
            )
        )
        if row is None:
            return None
        return Notice(
            job.payload["event"],
            row.withheld_id,
            row.at,
            row.due_at,
            job.subject_id if job.kind == "deliver_webhook" else None,
        )


def not_told(ws: Workspace, job_id: str, addresses: Sequence[str]) -> list[str]:
    """Those of the addresses that this job did not reach yet."""
    with ws.catalog.read() as session:
        job = session.get(Job, job_id)
        told = set() if job is None else set(job.payload.get("told", ()))
    return [one for one in addresses if address_digest(one) not in told]


def address_digest(address: str) -> str:
    """What a job keeps of an address that it told: an address that is taken off a list must not
    stay there."""
    return hashlib.sha256(address.encode()).hexdigest()[:32]
