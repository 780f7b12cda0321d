"""What a webhook receives, how it can check it, and what its answers lead to."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from indexer.catalog.tables import Webhook as WebhookRow
from indexer.errors import DeliveryFailed
from indexer.ids import new_id
from indexer.notify import AlertNote, WebhookRecord, get_webhook, list_webhooks
from indexer.times import utc_now
from indexer.workspace import Workspace
from service.alerts.addresses import NameUnknown, WebhookRefused
from service.alerts.webhooks import (
    WebhookSender,
    alert_body,
    new_secret,
    send_test,
    set_webhook,
    shown,
)
from tests.service.alerts.conftest import Certificates, Receiver, StartReceiver

NAME = "hooks.example"


def names(**known: list[str]) -> Any:
    """A resolver that knows these names only; each call takes the next answer, the last stays."""
    found = {name.replace("_", "."): list(answers) for name, answers in known.items()}

    async def resolve(host: str, port: int) -> list[str]:
        answers = found[host]
        return [answers.pop(0) if len(answers) > 1 else answers[0]]

    return resolve


def sender(*, allow_private: bool = True, timeout: float = 20, **given: Any) -> WebhookSender:
    return WebhookSender(timeout_seconds=timeout, allow_private=allow_private, **given)


def hook(url: str) -> WebhookRecord:
    return WebhookRecord(
        webhook_id=new_id(), url=url, description="", secret=new_secret(), created_by="k",
        created_at=utc_now(),
    )  # fmt: skip


def note() -> AlertNote:
    return AlertNote(
        alert_id=new_id(), case_id=new_id(), candidate_id=new_id(), lead_id=new_id(),
        expected_false=0.05, limited_pictures=1, tightened=True, created_at=utc_now(),
    )  # fmt: skip


def refused(receiver: Receiver, **answer: Any) -> DeliveryFailed:
    """What sending leads to where the receiver answers so."""
    for name, value in answer.items():
        setattr(receiver, name, value)
    with pytest.raises(DeliveryFailed) as caught:
        sender().send(hook(f"http://127.0.0.1:{receiver.port}/in?t=topsecret"), new_id(), "{}")
    assert "topsecret" not in str(caught.value)
    return caught.value


def test_the_receiver_can_check_who_sent_it_and_tell_a_repeat(receiver: Receiver) -> None:
    webhook, alert = hook(f"http://127.0.0.1:{receiver.port}/in?token=1"), note()
    for _ in range(2):
        sender().send(webhook, alert.alert_id, alert_body(alert))
    first, again = receiver.received
    assert first.path == "/in?token=1" and first.body == again.body
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == alert.alert_id
    assert first.headers["content-type"] == "application/json"
    assert first.headers["user-agent"].startswith("homeward/")
    checked = Webhook(webhook.secret).verify(first.body, first.headers)
    assert checked["type"] == "alert.raised" and checked["timestamp"].endswith("Z")
    assert checked["data"] == {
        "alert_id": alert.alert_id,
        "case_id": alert.case_id,
        "candidate_id": alert.candidate_id,
        "lead_id": alert.lead_id,
        "band": "strong",
        "tightened": True,
        "notice": checked["data"]["notice"],
    }
    for secret, body in ((new_secret(), first.body), (webhook.secret, first.body + b" ")):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, first.headers)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_what_is_taken_is_done(receiver: Receiver, status: int) -> None:
    receiver.status = status
    sender().send(hook(f"http://127.0.0.1:{receiver.port}/"), new_id(), "{}")
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(receiver: Receiver, status: int) -> None:
    error = refused(receiver, status=status)
    assert error.retry and error.code == "delivery_failed" and str(status) in error.detail
    assert error.retry_after is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 422])
def test_what_stays_is_given_up(receiver: Receiver, status: int) -> None:
    error = refused(receiver, status=status, answer_headers={"retry-after": "5"})
    assert not error.retry and error.retry_after is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 1.0), ("999999999999", 3600.0), ("-1", None), ("soon", None), ("²", None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)  # fmt: skip
def test_the_receiver_may_say_how_long_to_wait(
    receiver: Receiver, header: str, seconds: float | None
) -> None:
    if not header.isascii():
        header = header.encode().decode("latin-1")
    assert refused(receiver, status=503, answer_headers={"retry-after": header}).retry_after == (
        seconds
    )


def test_no_redirect_is_followed(receiver: Receiver, start_receiver: StartReceiver) -> None:
    other = start_receiver()
    target = f"http://127.0.0.1:{other.port}/"
    for status in (301, 302, 303, 307, 308):
        error = refused(receiver, status=status, answer_headers={"location": target})
        assert not error.retry and "redirect" in error.detail
    assert other.received == []


def test_a_receiver_that_does_not_answer_is_left_in_time(receiver: Receiver) -> None:
    receiver.holds = True
    with pytest.raises(DeliveryFailed, match="did not answer within") as caught:
        sender(timeout=0.3).send(hook(f"http://127.0.0.1:{receiver.port}/"), new_id(), "{}")
    assert caught.value.retry


def test_a_receiver_that_drips_is_left_in_time() -> None:
    """Each byte comes well before a time-out of its own; all together never end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"x-more: y\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            with pytest.raises(DeliveryFailed, match="did not answer within"):
                sender(timeout=0.6).send(hook(url), new_id(), "{}")
        finally:
            stop.set()
            thread.join()


def test_a_resolver_that_hangs_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release, done = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        release.wait(60)
        done.set()
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(DeliveryFailed, match="did not answer within") as caught:
            sender(timeout=0.3).send(hook("https://hooks.example/"), new_id(), "{}")
        assert caught.value.retry
        with pytest.raises(NameUnknown):
            sender(timeout=0.3).check("https://hooks.example/")
        assert not done.is_set(), "nobody waited for it"
    finally:
        release.set()
    assert done.wait(60)


def test_a_long_answer_is_not_read(receiver: Receiver) -> None:
    receiver.status, receiver.answer = 200, b"x" * 20_000_000
    sender().send(hook(f"http://127.0.0.1:{receiver.port}/"), new_id(), "{}")
    assert len(receiver.received) == 1


def test_nobody_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeliveryFailed, match="No connection") as caught:
        sender().send(hook(f"http://127.0.0.1:{port}/"), new_id(), "{}")
    assert caught.value.retry


def test_what_speaks_no_http_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(b"220 mail.example ready\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(DeliveryFailed, match="broke off") as caught:
            sender().send(hook(url), new_id(), "{}")
        thread.join()
    assert caught.value.retry and "mail.example" not in caught.value.detail


# --- where it leads --------------------------------------------------------------------------


def test_a_name_that_leads_elsewhere_since_it_was_set_is_refused(receiver: Receiver) -> None:
    resolve = names(hooks_example=["8.8.8.8", "127.0.0.1"])
    careful = sender(allow_private=False, resolve=resolve)
    url = f"https://{NAME}:{receiver.port}/in"
    careful.check(url)
    with pytest.raises(DeliveryFailed) as caught:
        careful.send(hook(url), new_id(), "{}")
    assert not caught.value.retry and caught.value.code == "webhook_address_refused"
    assert receiver.received == []


def test_the_connection_goes_to_the_address_that_was_checked(
    start_receiver: StartReceiver, certificates: Callable[[str], Certificates]
) -> None:
    made = certificates(NAME)
    receiver = start_receiver(made.server)
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        # A second look would lead nowhere: the name is not known to this machine.
        return ["127.0.0.1"]

    webhook = hook(f"https://{NAME}:{receiver.port}/in")
    sender(resolve=resolve, tls=made.client).send(webhook, new_id(), "{}")
    assert asked == [NAME]
    assert receiver.received[0].headers["host"] == f"{NAME}:{receiver.port}"


def test_the_next_address_is_tried_where_nobody_answers(receiver: Receiver) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    url = f"http://{NAME}:{receiver.port}/in"
    sender(resolve=resolve).send(hook(url), new_id(), "{}")
    assert len(receiver.received) == 1


@pytest.mark.parametrize("case", ["unknown authority", "other name"])
def test_certificates_are_checked(
    start_receiver: StartReceiver, certificates: Callable[[str], Certificates], case: str
) -> None:
    made = certificates(NAME)
    receiver = start_receiver(made.server)
    name = NAME if case == "unknown authority" else "other.example"
    tls = None if case == "unknown authority" else made.client
    resolve = names(hooks_example=["127.0.0.1"], other_example=["127.0.0.1"])
    url = f"https://{name}:{receiver.port}/"
    with pytest.raises(DeliveryFailed, match="certificate is not trusted") as caught:
        sender(resolve=resolve, tls=tls).send(hook(url), new_id(), "{}")
    assert caught.value.retry and receiver.received == []


def test_a_proxy_of_the_environment_is_not_used(
    receiver: Receiver, start_receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_receiver()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    sender().send(hook(f"http://127.0.0.1:{receiver.port}/"), new_id(), "{}")
    assert proxy.received == [] and len(receiver.received) == 1


def test_a_name_that_cannot_be_looked_up_is_tried_again() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(NameUnknown):
        sender(resolve=resolve).check("https://nowhere.example/")
    with pytest.raises(DeliveryFailed) as caught:
        sender(resolve=resolve).send(hook("https://nowhere.example/"), new_id(), "{}")
    assert caught.value.retry


def test_nothing_that_is_logged_holds_a_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = hook(f"http://127.0.0.1:{receiver.port}/topsecret?token=topsecret")
    with caplog.at_level(logging.INFO):
        sender().send(webhook, new_id(), "{}")
        receiver.status = 500
        with pytest.raises(DeliveryFailed):
            sender().send(webhook, new_id(), "{}")
    assert "topsecret" not in caplog.text and webhook.secret not in caplog.text


# --- setting one -----------------------------------------------------------------------------


def test_setting_one_makes_its_secret(ws: Workspace, receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.port}/in?token=1"
    made = set_webhook(ws.catalog, sender(), url, "the desk", "somebody")
    assert get_webhook(ws.catalog, made.webhook_id) == made
    assert made.secret.startswith("whsec_") and made.url == url
    assert "secret" not in shown(made)
    assert shown(made)["url"] == f"http://127.0.0.1:{receiver.port}/…"
    whole = shown(made, secret=True)
    assert (whole["secret"], whole["url"]) == (made.secret, url)
    other = set_webhook(ws.catalog, sender(), url, "", "somebody")
    assert other.secret != made.secret
    message_id = send_test(sender(), made)
    (received,) = receiver.received
    checked = Webhook(made.secret).verify(received.body, received.headers)
    assert received.headers["webhook-id"] == message_id
    assert checked["type"] == "webhook.test"
    assert checked["data"]["webhook_id"] == made.webhook_id


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "https://localhost/", "http://desk.example/", "https://[::1]/"]
)
def test_an_address_that_may_not_be_used_is_not_set(ws: Workspace, url: str) -> None:
    with pytest.raises(WebhookRefused):
        set_webhook(ws.catalog, sender(allow_private=False), url, "", "somebody")
    assert list_webhooks(ws.catalog).items == ()


def test_one_that_was_set_under_a_looser_setting_is_refused_now(receiver: Receiver) -> None:
    webhook = hook(f"http://127.0.0.1:{receiver.port}/")
    sender().send(webhook, new_id(), "{}")
    for changed in (webhook, replace(webhook, url="nonsense")):
        with pytest.raises(DeliveryFailed) as caught:
            sender(allow_private=False).send(changed, new_id(), "{}")
        assert not caught.value.retry
    assert len(receiver.received) == 1


def test_the_secret_is_kept_where_webhooks_are_and_nowhere_else(
    ws: Workspace, receiver: Receiver
) -> None:
    made = set_webhook(ws.catalog, sender(), f"http://127.0.0.1:{receiver.port}/", "", "somebody")
    body = json.loads(alert_body(note()))
    assert made.secret not in json.dumps(body)
    with ws.catalog.read() as session:
        assert session.get_one(WebhookRow, made.webhook_id).secret == made.secret
