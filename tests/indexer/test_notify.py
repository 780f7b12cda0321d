"""What waits to be told, to whom; and what becomes of it when its reason goes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from indexer import cases, forget, notify
from indexer.catalog.tables import Alert, Case, Job
from indexer.errors import InvalidCursor, TooManyWebhooks, WebhookNotFound
from indexer.ids import new_id
from indexer.records import CaseInput
from indexer.workspace import Workspace
from tests.indexer.raising import raise_alert

TEAM = ("one@agency.example", "two@agency.example")


@pytest.fixture
def case_id(ws: Workspace) -> str:
    made = cases.create_case(ws, CaseInput(case_number="A-1", alert_emails=TEAM))
    return made.case_id


def hook(ws: Workspace, name: str = "desk") -> notify.WebhookRecord:
    return notify.add_webhook(ws.catalog, f"https://{name}.example/in?t=1", secret="whsec_c2VjcmV0")


def tell(ws: Workspace, case_id: str, *, emails: bool = True, **values: Any) -> str:
    return raise_alert(
        ws,
        case_id,
        then=lambda session, alert, case: notify.queue_deliveries(
            session, alert, case, emails=emails
        ),
        **values,
    )


def waiting(ws: Workspace, kind: str) -> list[Job]:
    with ws.catalog.read() as session:
        return list(session.scalars(select(Job).where(Job.kind == kind).order_by(Job.job_id)))


def test_each_webhook_and_the_case_team_is_told(ws: Workspace, case_id: str) -> None:
    hooks = [hook(ws), hook(ws, "other")]
    alert_id = tell(ws, case_id)
    jobs = waiting(ws, "deliver_webhook")
    assert [job.subject_id for job in jobs] == [found.webhook_id for found in hooks]
    assert {job.payload["alert_id"] for job in jobs} == {alert_id}
    for job, found in zip(jobs, hooks, strict=True):
        delivery = notify.webhook_delivery(ws, job.job_id)
        assert delivery is not None and delivery.webhook == found
        assert (delivery.alert.alert_id, delivery.alert.case_id) == (alert_id, case_id)
    (mail,) = waiting(ws, "deliver_email")
    assert mail.subject_id == case_id
    assert notify.email_delivery(ws, mail.job_id) == notify.EmailDelivery(
        alert_id=alert_id, case_id=case_id, alerts=1, addresses=TEAM, waiting=TEAM
    )


def test_what_is_queued_goes_with_the_transaction(ws: Workspace, case_id: str) -> None:
    hook(ws)

    def fail(session: Any, alert: Alert, case: Case) -> None:
        notify.queue_deliveries(session, alert, case, emails=True)
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError):
        raise_alert(ws, case_id, then=fail)
    assert waiting(ws, "deliver_webhook") == waiting(ws, "deliver_email") == []


def test_no_mail_without_addresses_or_without_a_mail_server(ws: Workspace, case_id: str) -> None:
    tell(ws, case_id, emails=False)
    cases.update_case(ws, case_id, {"alert_emails": ()})
    tell(ws, case_id)
    assert waiting(ws, "deliver_email") == []


def test_many_alerts_at_once_are_one_mail(ws: Workspace, case_id: str) -> None:
    other = cases.create_case(ws, CaseInput(case_number="A-2", alert_emails=TEAM)).case_id
    first = tell(ws, case_id)
    tell(ws, case_id)
    tell(ws, other)
    mail, others = waiting(ws, "deliver_email")
    assert (mail.subject_id, others.subject_id) == (case_id, other)
    delivery = notify.email_delivery(ws, mail.job_id)
    assert delivery is not None and (delivery.alert_id, delivery.alerts) == (first, 2)
    # One that is on its way, or was tried already, cannot take up what comes later.
    with ws.catalog.write() as session:
        session.execute(update(Job).where(Job.job_id == mail.job_id).values(attempts=1))
    tell(ws, case_id)
    assert len(waiting(ws, "deliver_email")) == 3


def test_a_mail_that_told_someone_takes_up_no_more(ws: Workspace, case_id: str) -> None:
    tell(ws, case_id)
    (mail,) = waiting(ws, "deliver_email")
    notify.note_told(ws, mail.job_id, TEAM[0])
    delivery = notify.email_delivery(ws, mail.job_id)
    assert delivery is not None
    assert (delivery.addresses, delivery.waiting) == (TEAM, TEAM[1:])
    assert TEAM[0] not in str(waiting(ws, "deliver_email")[0].payload)
    tell(ws, case_id)
    assert len(waiting(ws, "deliver_email")) == 2
    notify.note_told(ws, mail.job_id, TEAM[1])
    assert notify.email_delivery(ws, mail.job_id) is None
    notify.note_told(ws, new_id(), TEAM[1])  # its job was deleted meanwhile


def test_an_address_that_was_taken_off_is_told_nothing(ws: Workspace, case_id: str) -> None:
    tell(ws, case_id)
    (mail,) = waiting(ws, "deliver_email")
    cases.update_case(ws, case_id, {"alert_emails": TEAM[1:]})
    delivery = notify.email_delivery(ws, mail.job_id)
    assert delivery is not None and delivery.waiting == TEAM[1:]
    cases.update_case(ws, case_id, {"alert_emails": ()})
    assert notify.email_delivery(ws, mail.job_id) is None


@pytest.mark.parametrize("status", ["found", "closed"])
def test_a_case_that_is_no_longer_open_tells_nothing(
    ws: Workspace, case_id: str, status: str
) -> None:
    hook(ws)
    tell(ws, case_id)
    cases.update_case(ws, case_id, {"status": status})
    (sent,), (mail,) = waiting(ws, "deliver_webhook"), waiting(ws, "deliver_email")
    assert notify.webhook_delivery(ws, sent.job_id) is None
    assert notify.email_delivery(ws, mail.job_id) is None


def test_a_forgotten_case_leaves_nothing_to_tell(ws: Workspace, case_id: str) -> None:
    hook(ws)
    tell(ws, case_id)
    (mail,) = waiting(ws, "deliver_email")
    forget.forget_case(ws, case_id)
    assert waiting(ws, "deliver_email") == []
    assert notify.email_delivery(ws, mail.job_id) is None
    for sent in waiting(ws, "deliver_webhook"):
        assert notify.webhook_delivery(ws, sent.job_id) is None


def test_a_removed_webhook_is_sent_nothing(ws: Workspace, case_id: str) -> None:
    gone, kept = hook(ws), hook(ws, "kept")
    tell(ws, case_id)
    sent = waiting(ws, "deliver_webhook")
    assert notify.remove_webhook(ws.catalog, gone.webhook_id) == gone
    assert [job.subject_id for job in waiting(ws, "deliver_webhook")] == [kept.webhook_id]
    assert notify.webhook_delivery(ws, sent[0].job_id) is None
    tell(ws, case_id)
    assert {job.subject_id for job in waiting(ws, "deliver_webhook")} == {kept.webhook_id}
    for missing in (gone.webhook_id, new_id()):
        with pytest.raises(WebhookNotFound):
            notify.remove_webhook(ws.catalog, missing)
        with pytest.raises(WebhookNotFound):
            notify.get_webhook(ws.catalog, missing)


def test_webhooks_are_listed_page_by_page_and_bounded(ws: Workspace) -> None:
    made = [hook(ws, f"h{number}") for number in range(notify.MAX_WEBHOOKS)]
    first = notify.list_webhooks(ws.catalog, limit=30)
    rest = notify.list_webhooks(ws.catalog, limit=30, cursor=first.next_cursor)
    assert [*first.items, *rest.items] == made and rest.next_cursor is None
    assert notify.get_webhook(ws.catalog, made[3].webhook_id) == made[3]
    with pytest.raises(TooManyWebhooks):
        hook(ws, "one-more")
    with pytest.raises(InvalidCursor):
        notify.list_webhooks(ws.catalog, cursor="x")


def test_a_record_never_shows_its_secret_by_accident(ws: Workspace) -> None:
    assert "whsec_" not in repr(hook(ws)) and "t=1" not in repr(hook(ws))
