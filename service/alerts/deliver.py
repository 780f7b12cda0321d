"""Doing the jobs that send something to others; the job queue decides when, and how often again."""

from __future__ import annotations

from indexer import notify
from indexer.errors import DeliveryFailed, WebhookNotFound
from indexer.records import JobRecord
from indexer.withheld import notices
from indexer.workspace import Workspace
from models.errors import HomewardError
from service.alerts.email import Mailer
from service.alerts.webhooks import WebhookSender, alert_body, notice_body
from service.config import Settings
from service.stamping import Stamper

__all__ = ["DeliveryFailed", "Deliverer"]


class Deliverer:
    """Does one delivery after the other. ``sender`` and ``mailer`` are made of ``settings``
    unless given."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        *,
        sender: WebhookSender | None = None,
        mailer: Mailer | None = None,
    ) -> None:
        self._ws = workspace
        self._settings = settings
        self._sender = sender or WebhookSender.of(settings)
        self._mailer = mailer or Mailer(settings)

    def __call__(self, job: JobRecord) -> None:
        """Deliver what ``job`` stands for; nothing where its webhook, alert or case is gone.

        Raises :class:`DeliveryFailed`, which says whether another try may succeed.
        """
        if notices.is_notice(self._ws, job.job_id):
            self._notice(job.job_id)
        elif job.kind == "deliver_webhook":
            self._webhook(job.job_id)
        elif job.kind == "deliver_email":
            self._email(job.job_id)
        elif job.kind == "stamp_head":
            self._stamp(job)
        else:
            raise ValueError(f"{job.kind} is no delivery")

    def _stamp(self, job: JobRecord) -> None:
        try:
            stamper = Stamper.of(self._settings)
        except HomewardError as error:
            # Set differently since it was queued, here or in another process.
            raise DeliveryFailed(error.detail, remedy=error.remedy, retry=True) from None
        stamper(self._ws.catalog, job)

    def _notice(self, job_id: str) -> None:
        found = notices.notice_of(self._ws, job_id)
        if found is None:
            return
        if found.webhook_id is None:
            self._mailer.send_notice(
                found,
                notices.not_told(self._ws, job_id, self._ws.options.withheld_emails),
                lambda address: notify.note_told(self._ws, job_id, address),
            )
            return
        try:
            webhook = notify.get_webhook(self._ws.catalog, found.webhook_id)
        except WebhookNotFound:
            return
        self._sender.send(webhook, f"{found.withheld_id}.{found.event}", notice_body(found))

    def _webhook(self, job_id: str) -> None:
        found = notify.webhook_delivery(self._ws, job_id)
        if found is not None:
            self._sender.send(found.webhook, found.alert.alert_id, alert_body(found.alert))

    def _email(self, job_id: str) -> None:
        found = notify.email_delivery(self._ws, job_id)
        if found is not None:
            self._mailer.send(found, lambda address: notify.note_told(self._ws, job_id, address))
