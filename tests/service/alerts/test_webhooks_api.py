"""Webhooks over HTTP and on the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result

from indexer import notify
from indexer.ids import new_id
from indexer.workspace import Workspace
from service.accounts.keys import KeyStore
from service.app import create_app
from service.cli.main import app
from tests.service.alerts.conftest import Receiver
from tests.service.conftest import AUTH, make_settings, problem

PUBLIC = "https://8.8.8.8/services/topsecret?token=topsecret"
"""An address, so that setting it looks no name up."""


@pytest.fixture
def client(ws: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(ws.data_dir), ws), headers=AUTH) as made:
        yield made


def test_a_webhook_is_set_listed_and_removed(client: TestClient, ws: Workspace) -> None:
    answer = client.post("/v1/webhooks", json={"url": PUBLIC, "description": " the desk "})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert set(made) == {
        "webhook_id", "url", "description", "secret", "created_by", "created_at",
    }  # fmt: skip
    assert made["secret"].startswith("whsec_") and made["description"] == "the desk"
    stored = notify.get_webhook(ws.catalog, made["webhook_id"])
    assert (stored.url, stored.secret) == (PUBLIC, made["secret"])
    # Whole this once: the part that may be a secret is never told again.
    assert made.pop("url") == PUBLIC and made.pop("secret")
    listed = client.get("/v1/webhooks").json()
    assert listed == {"items": [{**made, "url": "https://8.8.8.8/…"}], "next_cursor": None}
    assert client.delete(f"/v1/webhooks/{made['webhook_id']}").status_code == 204
    assert client.get("/v1/webhooks").json()["items"] == []
    for gone in (made["webhook_id"], new_id(), "nonsense"):
        problem(client.delete(f"/v1/webhooks/{gone}"), 404, "webhook_not_found")


def test_a_repeated_request_sets_one_webhook(client: TestClient, ws: Workspace) -> None:
    header = {"idempotency-key": "once"}
    first = client.post("/v1/webhooks", json={"url": PUBLIC}, headers=header)
    again = client.post("/v1/webhooks", json={"url": PUBLIC}, headers=header)
    assert first.json() == again.json()
    assert len(notify.list_webhooks(ws.catalog).items) == 1
    # The stored answer holds the secret; it goes with the webhook.
    client.delete(f"/v1/webhooks/{first.json()['webhook_id']}")
    new = client.post("/v1/webhooks", json={"url": PUBLIC}, headers=header).json()
    assert new["secret"] != first.json()["secret"]


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/in", "https://localhost/in", "https://169.254.169.254/latest", "http://8.8.8.8/",
     "https://[::ffff:10.0.0.1]/", "https://user:word@8.8.8.8/", "ftp://8.8.8.8/", "8.8.8.8"],
)  # fmt: skip
def test_addresses_that_may_not_be_used_are_refused(
    client: TestClient, ws: Workspace, url: str
) -> None:
    body = problem(client.post("/v1/webhooks", json={"url": url}), 422, "webhook_address_refused")
    assert body["remedy"] and url not in json.dumps(body)
    assert notify.list_webhooks(ws.catalog).items == ()


@pytest.mark.parametrize(
    "body",
    [{}, {"url": ""}, {"url": 7}, {"url": PUBLIC, "secret": "mine"},
     {"url": "https://" + "a" * 2000},
     {"url": PUBLIC, "description": "x" * 201}, {"url": PUBLIC, "description": None}],
)  # fmt: skip
def test_fields_that_cannot_be_used_are_named(client: TestClient, body: dict[str, Any]) -> None:
    found = problem(client.post("/v1/webhooks", json=body), 422, "validation_failed")
    assert found["errors"]


def test_only_keys_with_the_scope_may_do_so(client: TestClient, ws: Workspace) -> None:
    key = KeyStore(ws.catalog).create("a reader", ("alerts:read", "cases:write"))
    header = {"authorization": f"Bearer {key.text}"}
    for answer in (
        client.post("/v1/webhooks", json={"url": PUBLIC}, headers=header),
        client.get("/v1/webhooks", headers=header),
        client.delete(f"/v1/webhooks/{new_id()}", headers=header),
    ):
        problem(answer, 403, "forbidden")


def test_too_many_are_refused(client: TestClient, ws: Workspace) -> None:
    for _ in range(notify.MAX_WEBHOOKS):
        notify.add_webhook(ws.catalog, PUBLIC, secret="whsec_c2VjcmV0")
    problem(client.post("/v1/webhooks", json={"url": PUBLIC}), 409, "too_many_webhooks")


def test_the_log_holds_no_secret(
    client: TestClient, ws: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        made = client.post("/v1/webhooks", json={"url": PUBLIC}).json()
        client.post("/v1/webhooks", json={"url": "https://127.0.0.1/?token=topsecret"})
    assert "topsecret" not in caplog.text and made["secret"] not in caplog.text


# --- the command line ------------------------------------------------------------------------


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_line_sets_tests_and_removes(
    ws: Workspace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEWARD_WEBHOOK_ALLOW_PRIVATE", "true")
    where = ("--data-dir", ws.data_dir)
    url = f"http://127.0.0.1:{receiver.port}/topsecret?token=topsecret"
    result = run("webhooks", "add", url, "--description", "the desk", "--json", *where)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    listed = json.loads(run("webhooks", "list", "--json", *where).stdout)
    assert [item["webhook_id"] for item in listed] == [made["webhook_id"]]
    assert listed[0]["created_by"] == "command line" and "secret" not in listed[0]
    assert (made["url"], listed[0]["url"]) == (url, f"http://127.0.0.1:{receiver.port}/…")
    table = run("webhooks", "list", *where).stdout
    assert "the desk" in table and "topsecret" not in table and made["secret"] not in table
    result = run("webhooks", "test", made["webhook_id"], *where)
    assert result.exit_code == 0, result.output
    (received,) = receiver.received
    assert Webhook(made["secret"]).verify(received.body, received.headers)["type"] == "webhook.test"
    receiver.status = 404
    result = run("webhooks", "test", made["webhook_id"], *where)
    assert result.exit_code == 1 and "[delivery_failed]" in result.stderr
    result = run("webhooks", "add", url, *where)
    assert result.exit_code == 0 and "whsec_" in result.stdout
    assert run("webhooks", "remove", made["webhook_id"], *where).exit_code == 0
    for command in ("remove", "test"):
        result = run("webhooks", command, made["webhook_id"], *where)
        assert result.exit_code == 1 and "[webhook_not_found]" in result.stderr


def test_the_command_line_refuses_what_leads_inside(ws: Workspace) -> None:
    result = run("webhooks", "add", "https://127.0.0.1/in", "--data-dir", ws.data_dir)
    assert result.exit_code == 1
    assert "[webhook_address_refused]" in result.stderr and "What to do:" in result.stderr
