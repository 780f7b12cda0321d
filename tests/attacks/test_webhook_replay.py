"""A webhook that was seen on its way is worth nothing to who saw it: a receiver that checks as the
documentation says takes each message once, soon, and as it was sent."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from indexer.times import utc_now
from service.alerts.webhooks import WebhookSender, alert_body, new_secret
from tests.service.alerts.conftest import Receiver
from tests.service.alerts.conftest import receiver as receiver
from tests.service.alerts.conftest import start_receiver as start_receiver
from tests.service.alerts.test_webhooks import hook, note

DOCUMENT = Path(__file__).parents[2] / "docs" / "alerts.md"
Receive = Callable[[sqlite3.Connection, str, dict[str, str], bytes], int]


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as opened:
        yield opened


@pytest.fixture
def receive() -> Receive:
    """The receiver that the documentation shows."""
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    shown: dict[str, Any] = {}
    exec(source, shown)
    made: Receive = shown["receive"]
    return made


def test_replayed_webhook(receiver: Receiver, db: sqlite3.Connection, receive: Receive) -> None:
    webhook, alert = hook(f"http://127.0.0.1:{receiver.port}/"), note()
    sender = WebhookSender(timeout_seconds=20, allow_private=True)
    sender.send(webhook, alert.alert_id, alert_body(alert))
    (sent,) = receiver.received
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert sent.headers[name]
    assert abs(int(sent.headers["webhook-timestamp"]) - utc_now().timestamp()) < 120

    def taken() -> int:
        return int(db.execute("SELECT count(*) FROM taken").fetchone()[0])

    assert receive(db, webhook.secret, sent.headers, sent.body) == 204
    assert taken() == 1
    # The very message again: answered, and taken no second time.
    assert receive(db, webhook.secret, sent.headers, sent.body) == 204
    assert taken() == 1
    now = int(utc_now().timestamp())
    for changed in (
        {"webhook-id": note().alert_id},
        {"webhook-id": sent.headers["webhook-id"] + "x"},
        {"webhook-timestamp": str(now - 301)},
        {"webhook-timestamp": str(now + 600)},
        {"webhook-timestamp": str(int(sent.headers["webhook-timestamp"]) + 1)},
        {"webhook-timestamp": ""},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": sent.headers["webhook-signature"].replace("v1,", "v0,")},
        {"webhook-signature": sent.headers["webhook-signature"][:-2] + "A="},
    ):
        assert receive(db, webhook.secret, {**sent.headers, **changed}, sent.body) == 401, changed
    for body in (b"", sent.body + b" ", sent.body.replace(b"alert.raised", b"webhook.test")):
        assert receive(db, webhook.secret, sent.headers, body) == 401
    assert receive(db, new_secret(), sent.headers, sent.body) == 401
    assert taken() == 1


def test_a_captured_webhook_is_too_old_before_long(
    db: sqlite3.Connection, receive: Receive
) -> None:
    """Signed truly, and shown six minutes later to a receiver that lost its memory."""
    secret, alert = new_secret(), note()
    body = alert_body(alert)
    for minutes, status in ((0, 204), (6, 401), (-6, 401)):
        then = utc_now() - timedelta(minutes=minutes)
        headers = {
            "webhook-id": alert.alert_id,
            "webhook-timestamp": str(int(then.timestamp())),
            "webhook-signature": Webhook(secret).sign(alert.alert_id, then, body),
        }
        assert receive(db, secret, headers, body.encode()) == status
