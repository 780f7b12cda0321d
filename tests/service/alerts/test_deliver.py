"""Deliveries as the job queue does them: what was queued arrives, what is void does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from indexer import cases, jobs, notify
from indexer.catalog.tables import Job
from indexer.errors import DeliveryFailed
from indexer.records import JobRecord
from indexer.workspace import Workspace
from service.alerts.deliver import Deliverer
from service.alerts.email import Mailer
from tests.indexer.raising import raise_alert
from tests.service.alerts.conftest import TEAM, Receiver
from tests.service.conftest import make_settings


def deliverer(ws: Workspace, **values: Any) -> Deliverer:
    return Deliverer(ws, make_settings(ws.data_dir, webhook_allow_private=True, **values))


def tell(ws: Workspace, case_id: str) -> str:
    return raise_alert(
        ws,
        case_id,
        then=lambda session, alert, case: notify.queue_deliveries(
            session, alert, case, emails=True
        ),
    )


def queued(ws: Workspace, kind: str) -> list[JobRecord]:
    with ws.catalog.read() as session:
        found = session.scalars(select(Job.job_id).where(Job.kind == kind).order_by(Job.job_id))
        ids = found.all()
    return [jobs.get_job(ws, job_id) for job_id in ids]


def test_a_webhook_gets_each_alert(ws: Workspace, case_id: str, receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.port}/in"
    made = notify.add_webhook(ws.catalog, url, secret="whsec_c2VjcmV0")
    raised = [tell(ws, case_id), tell(ws, case_id)]
    deliver = deliverer(ws)
    for job in queued(ws, "deliver_webhook"):
        deliver(job)
    assert [one.headers["webhook-id"] for one in receiver.received] == raised
    receiver.status = 503
    with pytest.raises(DeliveryFailed) as caught:
        deliver(queued(ws, "deliver_webhook")[0])
    assert caught.value.retry
    (first, second) = queued(ws, "deliver_webhook")
    notify.remove_webhook(ws.catalog, made.webhook_id)
    deliver(first)
    deliver(second)
    assert len(receiver.received) == 3


def test_a_case_that_is_found_meanwhile_is_told_of_no_more(
    ws: Workspace, case_id: str, receiver: Receiver
) -> None:
    notify.add_webhook(ws.catalog, f"http://127.0.0.1:{receiver.port}/", secret="whsec_c2VjcmV0")
    tell(ws, case_id)
    cases.update_case(ws, case_id, {"status": "found"})
    deliver = deliverer(ws)
    # Nothing is set for mail either: trying to send one would fail.
    for job in [*queued(ws, "deliver_webhook"), *queued(ws, "deliver_email")]:
        deliver(job)
    assert receiver.received == []


def test_a_retry_mails_only_whom_the_first_try_did_not(
    ws: Workspace, case_id: str, tmp_path: Path
) -> None:
    sent: list[str] = []
    away = {TEAM[1]}

    class Halting(Mailer):
        """Stops at an address, as a server does that goes away in the middle."""

        def send(self, delivery: Any, told: Any) -> None:
            for address in delivery.waiting:
                if address in away:
                    raise DeliveryFailed("away", retry=True)
                sent.append(address)
                told(address)

    tell(ws, case_id)
    (job,) = queued(ws, "deliver_email")
    deliver = Deliverer(ws, make_settings(tmp_path), mailer=Halting(make_settings(tmp_path)))
    with pytest.raises(DeliveryFailed):
        deliver(job)
    away.clear()
    deliver(job)
    deliver(job)
    assert sent == list(TEAM)


def test_mail_without_a_server_is_given_up_with_its_reason(ws: Workspace, case_id: str) -> None:
    tell(ws, case_id)
    (job,) = queued(ws, "deliver_email")
    with pytest.raises(DeliveryFailed, match="No mail server") as caught:
        deliverer(ws)(job)
    assert not caught.value.retry and caught.value.remedy


def test_other_work_is_none_of_its_business(ws: Workspace, case_id: str) -> None:
    (probe,) = queued(ws, "probe_case")
    with pytest.raises(ValueError, match="no delivery"):
        deliverer(ws)(probe)
