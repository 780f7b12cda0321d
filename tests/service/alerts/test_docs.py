"""The receiver that the documentation shows takes what is really sent."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

from indexer.ids import new_id
from indexer.times import utc_now
from service.alerts.webhooks import WebhookSender, alert_body, new_secret
from tests.service.alerts.conftest import Receiver
from tests.service.alerts.test_webhooks import hook, note

DOCUMENT = Path(__file__).parents[3] / "docs" / "alerts.md"


def test_the_receiver_of_the_documentation(receiver: Receiver) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    shown: dict[str, Any] = {}
    exec(source, shown)
    receive = shown["receive"]
    webhook, alert = hook(f"http://127.0.0.1:{receiver.port}/"), note()
    sender = WebhookSender(timeout_seconds=20, allow_private=True)
    for _ in range(2):
        sender.send(webhook, alert.alert_id, alert_body(alert))
    sender.send(webhook, new_id(), alert_body(note()))
    db = sqlite3.connect(":memory:")
    try:
        for one in receiver.received:
            assert receive(db, webhook.secret, one.headers, one.body) == 204
            assert receive(db, new_secret(), one.headers, one.body) == 401
            assert receive(db, webhook.secret, one.headers, one.body + b" ") == 401
            stale = {**one.headers, "webhook-timestamp": str(int(utc_now().timestamp()) - 400)}
            assert receive(db, webhook.secret, stale, one.body) == 401
        taken = db.execute("SELECT alert FROM taken").fetchall()
    finally:
        db.close()
    assert len(taken) == 2 and (alert.alert_id,) in taken
