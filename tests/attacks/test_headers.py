"""Headers on every answer, and nothing in them that somebody else put there."""

from __future__ import annotations

from urllib.parse import quote

import httpx2
import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace
from service.app import create_app
from service.config import Settings
from service.headers import HSTS, SECURITY_HEADERS
from service.web.render import PAGE_HEADERS
from tests.attacks.addresses import STREAMS, addresses
from tests.attacks.servers import Server
from tests.service.conftest import AUTH
from tests.service.web.browser import HTML, Browser

MAY_DIFFER = {"cache-control"}


def check(answer: httpx2.Response, where: str) -> None:
    is_page = answer.headers.get("content-type", "").startswith("text/html")
    expected = PAGE_HEADERS if is_page else SECURITY_HEADERS
    for name, value in expected.items():
        given = answer.headers.get_list(name)
        assert len(given) == 1, (where, name, given)
        if name in ("content-security-policy", "referrer-policy"):
            assert given[0] in (SECURITY_HEADERS[name], PAGE_HEADERS[name]), (where, given)
        elif name not in MAY_DIFFER:
            assert given[0] == value, (where, name, given)
    policy = answer.headers["content-security-policy"]
    assert "unsafe-" not in policy and "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "server" not in answer.headers and "x-powered-by" not in answer.headers
    if "public" in answer.headers["cache-control"]:
        assert "/static/" in where
    assert answer.headers["x-request-id"], where


def test_every_answer_of_every_route_carries_them(workspace: Workspace, settings: Settings) -> None:
    app = create_app(settings, workspace)
    with TestClient(app, follow_redirects=False) as client:
        browser = Browser(client)
        browser.sign_in()
        for address in addresses(app):
            if "/sign-out" in address.path:
                continue
            path, where = address.with_values(), f"{address.method} {address.path}"
            for headers in ({}, AUTH, HTML, {**HTML, "sec-fetch-site": "cross-site"}):
                if address.path in STREAMS and headers is AUTH:
                    continue
                check(client.request(address.method, path, headers=headers), where)
        for path in ("/nothing", "/v1/nothing", "/static/nothing", "/openapi.json", "/cases/%00"):
            for headers in ({}, HTML):
                check(client.get(path, headers=headers), path)
                check(client.put(path, headers=headers), path)


def test_problems_redirects_and_refusals_carry_them_without_a_session(
    workspace: Workspace, settings: Settings
) -> None:
    named = settings.model_copy(update={"allowed_hosts": "homeward.example"})
    with TestClient(
        create_app(named, workspace),
        base_url="https://homeward.example",
        follow_redirects=False,
    ) as client:
        for path, host, status in (
            ("/cases", "homeward.example", 303),
            ("/", "homeward.example", 303),
            ("/sign-in", "homeward.example", 200),
            ("/sign-in", "evil.example", 421),
            ("/v1/cases", "homeward.example", 401),
            ("/nothing", "homeward.example", 404),
        ):
            answer = client.get(path, headers={**HTML, "host": host})
            assert answer.status_code == status, path
            assert answer.headers["strict-transport-security"] == HSTS
            for name in SECURITY_HEADERS:
                assert len(answer.headers.get_list(name)) == 1, (path, name)


def test_host_header_injection_reaches_no_answer(client: TestClient) -> None:
    evil = {"host": "evil.example", "x-forwarded-host": "evil.example"}
    for path in ("/", "/cases", "/sign-in", "/v1/cases", "/nothing", "/openapi.json"):
        answer = client.get(path, headers={**HTML, **evil}, follow_redirects=False)
        assert "evil.example" not in answer.text
        assert "evil.example" not in str(answer.headers)


INJECTIONS = (
    "%0d%0aSet-Cookie:%20planted=1",
    "%0aSet-Cookie:%20planted=1",
    "%E5%98%8A%E5%98%8DSet-Cookie:%20planted=1",
    "%00",
    "%0d%0a%0d%0a<script>alert(1)</script>",
)


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize(
    "path",
    [
        "/sign-in?next=/cases{}",
        "/cases?status={}",
        "/cases?cursor={}",
        "/cases{}",
        "/cases/{}",
        "/nothing?x={}",
        "/v1/cases?cursor={}",
        "/v1/ads?site={}",
        "/v1/jobs/{}",
    ],
)
def test_header_injection_by_what_comes_back_in_an_address(
    server: Server, path: str, text: str
) -> None:
    key = f"Authorization: {AUTH['authorization']}\r\n"
    head = f"GET {path.format(text)} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n"
    answer = server.send(f"{head}{key}Connection: close\r\n\r\n".encode())
    assert 200 <= answer.status < 500
    assert "planted" not in answer.headers.get("set-cookie", "")
    assert "planted" not in answer.headers
    assert b"<script>" not in answer.rest
    location = answer.headers.get("location", "/")
    assert location.startswith("/") and not location.startswith("//")


@pytest.mark.parametrize(
    "name", ["x-request-id", "last-event-id", "idempotency-key", "accept", "cookie", "range"]
)
@pytest.mark.parametrize("value", [b"\xff\xfe\x80", b"a" * 8_000, b"\t", b"%00", b"';--", b"{{7}}"])
def test_header_values_of_every_kind_break_nothing(server: Server, name: str, value: bytes) -> None:
    lines = b"Host: a\r\nAuthorization: " + AUTH["authorization"].encode() + b"\r\n"
    lines += name.encode() + b": " + value + b"\r\nConnection: close\r\n\r\n"
    for path in (b"/v1/cases", b"/cases", b"/sign-in"):
        answer = server.send(b"GET " + path + b" HTTP/1.1\r\n" + lines)
        assert 200 <= answer.status < 500, (path, answer.rest[:300])
        assert value.strip() == b"" or value not in str(answer.headers).encode("latin-1")


def test_open_redirect_by_next(client: TestClient) -> None:
    browser = Browser(TestClient(client.app))
    browser.sign_in()
    for there in (
        "https://evil.example/",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/%09/evil.example",
        "\t//evil.example",
        "javascript:alert(1)",
        "/x\r\nLocation: https://evil.example",
        "https:evil.example",
        "/@evil.example",
        "https://testserver@evil.example",
        "//%65vil.example",
        "/" + "a" * 2_000,
    ):
        answer = browser.client.get(
            f"/sign-in?next={quote(there, safe='')}", headers=HTML, follow_redirects=False
        )
        assert answer.status_code == 303
        location = answer.headers["location"]
        assert location.startswith("/") and not location.startswith(("//", "/\\"))
        assert "evil.example" not in location or location.startswith("/%09/")
