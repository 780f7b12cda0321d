"""Key, rate and size are checked before a body is taken in; every answer carries its headers."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace
from service.app import create_app
from service.config import Settings
from service.middleware import SECURITY_HEADERS
from tests.service.conftest import AUTH, post_case, post_photo, problem


def call(
    app: Any, path: str, headers: dict[str, str], chunks: int, method: str = "POST"
) -> tuple[int, dict[str, str], int]:
    """Status, headers, and how many of the chunks (64 KiB each) the application asked for."""
    asked = 0
    sent: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": asked < chunks}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.update(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    asyncio.run(app(scope, receive, send))
    return sent["status"], {k.decode(): v.decode() for k, v in sent["headers"]}, asked


@pytest.mark.parametrize("path", ["/v1/ads", "/v1/cases", "/v1/cases/x/photos", "/v1/nothing"])
@pytest.mark.parametrize(
    "key", ["", "Bearer wrong-key-wrong-key", "Basic abc", "Bearer", "Bearer "]
)
def test_a_body_with_a_bad_key_is_not_read(client: TestClient, path: str, key: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    if key:
        headers["authorization"] = key
    status, sent, asked = call(client.app, path, headers, chunks=100_000)
    assert status == 401
    assert asked == 0
    assert sent["www-authenticate"].startswith("Bearer")
    assert sent["content-type"] == "application/problem+json"


def test_a_bad_key_says_so_and_never_repeats_it(client: TestClient) -> None:
    secret = "somebodys-mistyped-secret-key"
    answer = client.get("/v1/cases", headers={"authorization": f"Bearer {secret}"})
    body = problem(answer, 401, "unauthenticated")
    assert secret not in answer.text
    assert body["remedy"]


def test_a_declared_huge_body_is_refused_unread(client: TestClient) -> None:
    headers = {**AUTH, "content-length": "99999999999", "content-type": "application/json"}
    status, _, asked = call(client.app, "/v1/cases", headers, chunks=10)
    assert status == 413
    assert asked == 0


def test_an_undeclared_huge_body_is_cut_off(client: TestClient) -> None:
    headers = {**AUTH, "content-type": "application/json"}
    status, _, asked = call(client.app, "/v1/cases", headers, chunks=100_000)
    assert status == 413
    assert asked * 65_536 <= 2 * Settings().max_json_bytes


def test_a_slow_body_has_a_deadline(workspace: Workspace, settings: Settings) -> None:
    slow = settings.model_copy(update={"upload_timeout_seconds": 0.05})

    async def run() -> int:
        status = 0
        app = create_app(slow, workspace)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(30)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/cases",
            "raw_path": b"/v1/cases",
            "query_string": b"",
            "headers": [
                (b"authorization", AUTH["authorization"].encode()),
                (b"content-type", b"application/json"),
            ],
            "state": {},
        }
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
        return status

    assert asyncio.run(run()) == 408


def test_the_request_id_is_kept_if_it_is_one(client: TestClient) -> None:
    given = client.get("/healthz", headers={"x-request-id": "trace-0001.a:b"})
    assert given.headers["x-request-id"] == "trace-0001.a:b"
    for bad in ("", "a b", "x" * 200, "<script>", "-starts-badly"):
        answer = client.get("/v1/nothing", headers={"x-request-id": bad})
        assert answer.headers["x-request-id"] != bad
        assert len(answer.headers["x-request-id"]) == 36
        problem(answer, 404, "not_found")


@pytest.mark.parametrize("path", ["/healthz", "/v1/nothing", "/nothing", "/openapi.json"])
def test_every_answer_carries_the_security_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value, name


def test_the_rate_is_limited_for_each_key(workspace: Workspace, settings: Settings) -> None:
    slow = settings.model_copy(update={"rate_limit_per_minute": 3})
    with TestClient(create_app(slow, workspace), headers=AUTH) as client:
        codes = [client.get("/v1/cases").status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        answer = client.get("/v1/cases")
        problem(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        # Those without a key wait for nobody, and are told why they are refused.
        problem(client.get("/v1/cases", headers={"authorization": ""}), 401, "unauthenticated")
        assert client.get("/healthz").status_code == 200


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not_found")
    answer = client.put("/v1/cases")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


def test_an_unforeseen_error_tells_nothing_but_its_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from indexer import cases

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret inner text")

    monkeypatch.setattr(cases, "list_cases", fail)
    answer = client.get("/v1/cases")
    problem(answer, 500, "internal_error")
    assert "secret inner text" not in answer.text
    assert "secret inner text" in caplog.text


def test_two_authorization_headers_are_refused(client: TestClient) -> None:
    answer = client.get(
        "/v1/cases",
        headers=[("authorization", AUTH["authorization"]), ("authorization", "Bearer other")],
    )
    assert answer.status_code == 401


def test_uploads_wait_for_a_place_and_are_refused_in_the_end(
    client: TestClient, portrait_bytes: bytes
) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    case_id = post_case(client)
    service.settings = service.settings.model_copy(update={"upload_wait_seconds": 0.05})
    service.upload_places = asyncio.Semaphore(0)
    answer = post_photo(client, case_id, portrait_bytes)
    problem(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    service.upload_places = asyncio.Semaphore(1)
    for _ in range(2):
        assert post_photo(client, case_id, portrait_bytes).status_code == 201
