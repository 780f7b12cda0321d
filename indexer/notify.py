"""Who is told of alerts: the webhooks of an installation, and what waits to be delivered.

A delivery is a job, queued in the transaction that raises the alert. What it needs is read when
it is done, so a webhook that was removed, a case that was forgotten or is no longer open, leave
nothing to deliver.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from indexer import audit, queue
from indexer.catalog import Catalog
from indexer.catalog.tables import Alert, Case, Face, IdempotentResponse, Job, Webhook
from indexer.enrolled import limited_pictures
from indexer.errors import TooManyWebhooks, WebhookNotFound
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page
from indexer.times import utc_now
from indexer.withheld.notices import address_digest
from indexer.workspace import Workspace

MAX_WEBHOOKS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRecord:
    """An address that alerts are sent to, and the secret that signs what is sent."""

    webhook_id: str
    url: str = field(repr=False)
    description: str
    secret: str = field(repr=False)
    agency: str | None = None
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertNote:
    """What a webhook is told of an alert: ids and how telling it is, nothing of a person.

    ``limited_pictures``: of the two, those that rates do not hold for."""

    alert_id: str
    case_id: str
    candidate_id: str
    lead_id: str
    expected_false: float
    limited_pictures: int
    tightened: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One alert for one webhook."""

    webhook: WebhookRecord
    alert: AlertNote


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailDelivery:
    """New alerts of one case for those of its addresses that are not told yet.

    ``alerts`` counts the one that queued the mail and those since. ``addresses`` are all of the
    case's; ``waiting`` those that still wait.
    """

    alert_id: str
    case_id: str
    alerts: int
    addresses: tuple[str, ...]
    waiting: tuple[str, ...]


# --- queueing --------------------------------------------------------------------------------


def queue_deliveries(session: Session, alert: Alert, case: Case, *, emails: bool) -> None:
    """Queue what tells of an alert, in the caller's transaction.

    One job for each webhook of all agencies or of the case's, and one for the case's addresses
    where ``emails`` can be sent. A mail of the case that still waits for its first try tells of
    this alert too, so that many alerts at once are one mail.
    """
    told = or_(Webhook.agency.is_(None), Webhook.agency == case.agency)
    for webhook_id in session.scalars(
        select(Webhook.webhook_id).where(told).order_by(Webhook.webhook_id)
    ):
        queue.enqueue(session, "deliver_webhook", webhook_id, alert_id=alert.alert_id)
    if emails and case.alert_emails and not _mail_waits(session, case.case_id):
        queue.enqueue(session, "deliver_email", case.case_id, alert_id=alert.alert_id)


def _mail_waits(session: Session, case_id: str) -> bool:
    waiting = session.scalars(
        select(Job).where(
            Job.subject_id == case_id,
            Job.kind == "deliver_email",
            Job.state == "queued",
            Job.attempts == 0,
        )
    )
    return any(not job.payload.get("told") for job in waiting)


# --- what a job has to deliver ---------------------------------------------------------------


def webhook_delivery(ws: Workspace, job_id: str) -> WebhookDelivery | None:
    """What this job sends; ``None`` where there is nothing to send any more."""
    with ws.catalog.read() as session:
        found = _alert_of(session, job_id)
        if found is None:
            return None
        job, alert = found
        webhook = session.get(Webhook, job.subject_id)
        if webhook is None:
            return None
        if webhook.agency not in (None, session.get_one(Case, alert.case_id).agency):
            # The case went to another agency since.
            return None
        face = session.get(Face, alert.face_id)
        return WebhookDelivery(
            _record(webhook),
            AlertNote(
                alert_id=alert.alert_id,
                case_id=alert.case_id,
                candidate_id=alert.candidate_id,
                lead_id=alert.lead_id,
                expected_false=alert.expected_false,
                limited_pictures=limited_pictures(session, [(alert.case_id, face)])[0],
                tightened=alert.tightened,
                created_at=alert.created_at,
            ),
        )


def email_delivery(ws: Workspace, job_id: str) -> EmailDelivery | None:
    """What this job mails; ``None`` where there is nothing to mail any more."""
    with ws.catalog.read() as session:
        found = _alert_of(session, job_id)
        if found is None:
            return None
        job, alert = found
        addresses = tuple(dict.fromkeys(session.get_one(Case, alert.case_id).alert_emails))
        told = set(job.payload.get("told", ()))
        waiting = tuple(address for address in addresses if address_digest(address) not in told)
        if not waiting:
            return None
        alerts = session.scalar(
            select(func.count()).where(Alert.case_id == alert.case_id, Alert.seq >= alert.seq)
        )
        return EmailDelivery(
            alert_id=alert.alert_id,
            case_id=alert.case_id,
            alerts=alerts or 1,
            addresses=addresses,
            waiting=waiting,
        )


def note_told(ws: Workspace, job_id: str, address: str) -> None:
    """Remember with a job that this address needs no further mail, so that a retry sends none.

    Only a digest is kept: an address that is taken off the case must not stay here.
    """
    with ws.catalog.write() as session:
        job = session.get(Job, job_id)
        if job is not None:
            told = [*job.payload.get("told", ()), address_digest(address)]
            job.payload = {**job.payload, "told": told}


def _alert_of(session: Session, job_id: str) -> tuple[Job, Alert] | None:
    """The job and its alert, while the alert is there and its case open."""
    job = session.get(Job, job_id)
    if job is None:
        return None
    alert = session.scalar(
        select(Alert)
        .join(Case, Case.case_id == Alert.case_id)
        .where(Alert.alert_id == job.payload.get("alert_id"), Case.status == "open")
    )
    return None if alert is None else (job, alert)


# --- webhooks --------------------------------------------------------------------------------


def add_webhook(
    catalog: Catalog,
    url: str,
    *,
    secret: str,
    description: str = "",
    actor: str = "system",
    agency: str | None = None,
) -> WebhookRecord:
    """Have alerts sent to ``url`` from now on: all, or those of one ``agency``.

    Raises :class:`TooManyWebhooks`.

    Whether the address may be used is the caller's to check.
    """
    row = Webhook(
        webhook_id=new_id(),
        url=url,
        description=description,
        secret=secret,
        agency=agency,
        created_by=actor,
        created_at=utc_now(),
    )
    with catalog.write() as session:
        if (session.scalar(select(func.count(Webhook.webhook_id))) or 0) >= MAX_WEBHOOKS:
            raise TooManyWebhooks(
                f"There are {MAX_WEBHOOKS} webhooks already.",
                remedy="Remove one that is no longer needed.",
            )
        session.add(row)
        session.flush()
        audit.record(session, "webhook.create", subject=("webhook", row.webhook_id))
        return _record(row)


def list_webhooks(
    catalog: Catalog, *, limit: int = 50, cursor: str | None = None, agency: str | None = None
) -> Page[WebhookRecord]:
    """Webhooks, oldest first: all, or those of one ``agency``. Raises :class:`InvalidCursor`."""
    query = select(Webhook).order_by(Webhook.webhook_id).limit(limit + 1)
    if agency is not None:
        query = query.where(Webhook.agency == agency)
    if cursor is not None:
        query = query.where(Webhook.webhook_id > decode_cursor(cursor))
    with catalog.read() as session:
        rows = session.scalars(query).all()
    items = tuple(_record(row) for row in rows[:limit])
    return Page(items, encode_cursor(items[-1].webhook_id) if len(rows) > limit else None)


def get_webhook(catalog: Catalog, webhook_id: str) -> WebhookRecord:
    """One webhook. Raises :class:`WebhookNotFound`."""
    with catalog.read() as session:
        row = session.get(Webhook, webhook_id)
        if row is None:
            raise WebhookNotFound(webhook_id)
        return _record(row)


def remove_webhook(catalog: Catalog, webhook_id: str) -> WebhookRecord:
    """Send nothing there any more; its deliveries that wait go too.

    Raises :class:`WebhookNotFound`.
    """
    with catalog.write() as session:
        row = session.get(Webhook, webhook_id)
        if row is None:
            raise WebhookNotFound(webhook_id)
        record = _record(row)
        session.execute(delete(Job).where(Job.subject_id == webhook_id))
        session.execute(
            delete(IdempotentResponse).where(IdempotentResponse.subject_id == webhook_id)
        )
        session.delete(row)
        audit.record(session, "webhook.remove", subject=("webhook", webhook_id))
        return record


def _record(row: Webhook) -> WebhookRecord:
    return WebhookRecord(
        webhook_id=row.webhook_id,
        url=row.url,
        description=row.description,
        secret=row.secret,
        agency=row.agency,
        created_by=row.created_by,
        created_at=row.created_at,
    )
