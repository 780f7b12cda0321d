"""Forms that somebody else had a browser send, cookies that somebody made up, and sessions that
somebody planted."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.base import Base
from indexer.catalog.tables import WebSession
from indexer.workspace import Workspace
from service.app import create_app
from service.config import Settings
from service.web.cookies import FORM_COOKIE, SESSION_COOKIE
from tests.attacks.addresses import Address, addresses
from tests.service.conftest import KEY, post_case
from tests.service.web.browser import HTML, Browser

EVIL = "https://evil.example"


@pytest.fixture
def case_id(client: TestClient) -> str:
    return post_case(client)


@pytest.fixture
def browser(client: TestClient) -> Browser:
    """Signed in; without the key that ``client`` sends."""
    made = Browser(TestClient(client.app, follow_redirects=False))
    made.sign_in()
    return made


def forms(client: TestClient) -> list[Address]:
    """Everything in the pages that is not just looked at."""
    found = [
        one
        for one in addresses(client.app)  # type: ignore[arg-type]
        if not one.of_api and one.method != "GET"
    ]
    assert len(found) >= 15
    return found


def stock(workspace: Workspace) -> dict[str, int]:
    """How many rows each table has; what is noted of requests, looks and sessions apart."""
    apart = {AuditRecord.__tablename__, WebSession.__tablename__, "sign_in_failures", "searches"}
    with workspace.catalog.read() as db:
        return {
            table.name: db.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
            if table.name not in apart
        }


def test_csrf_with_the_origin_of_another_site(
    client: TestClient, browser: Browser, workspace: Workspace, case_id: str
) -> None:
    before = stock(workspace)
    token = _token(browser)
    for address in forms(client):
        path = address.with_values(case_id=case_id)
        for stated in (
            {"origin": EVIL},
            {"origin": "null"},
            {"origin": "http://testserver.evil.example"},
            {"origin": "http://testserver:81"},
            {"referer": f"{EVIL}/http://testserver/"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site", "origin": "http://testserver"},
            {"sec-fetch-site": ""},
        ):
            answer = browser.client.request(
                address.method, path, files={"csrf": (None, token)}, headers={**stated}
            )
            assert answer.status_code == 403, (path, stated, answer.text[:200])
            assert answer.json()["code"] == "cross_origin"
    assert stock(workspace) == before
    assert browser.client.get("/cases", headers=HTML).status_code == 200


def test_a_form_of_this_site_passes(browser: Browser) -> None:
    for number, stated in enumerate(
        (
            {"origin": "http://testserver"},
            {"origin": "http://testserver:80"},
            {"referer": "http://testserver/cases/new"},
            {"sec-fetch-site": "same-origin", "origin": "http://testserver"},
            {},
        )
    ):
        fields = {"csrf": (None, _token(browser)), "case_number": (None, f"N-{number}")}
        answer = browser.client.post("/cases/new", files=fields, headers={**HTML, **stated})
        assert answer.status_code == 303, (stated, answer.text[:500])


def test_behind_a_public_address_forms_come_from_there(
    workspace: Workspace, settings: Settings
) -> None:
    public = settings.model_copy(update={"public_url": "https://homeward.example"})
    with TestClient(create_app(public, workspace), follow_redirects=False) as client:
        browser = Browser(client)
        browser.sign_in()
        for origin, status in (
            ("https://homeward.example", 303),
            ("https://homeward.example:444", 403),
            ("http://homeward.example", 403),
            ("https://evil.example", 403),
        ):
            number = origin.replace("/", "-")
            fields = {"csrf": (None, _token(browser)), "case_number": (None, number)}
            answer = client.post("/cases/new", files=fields, headers={**HTML, "origin": origin})
            assert answer.status_code == status, origin


def _token(browser: Browser) -> str:
    browser.get("/cases/new")
    return browser.form("/cases/new").values["csrf"]


def tokens(browser: Browser, other: Browser) -> Iterator[str | None]:
    own = _token(browser)
    yield None
    yield ""
    yield own[:-1]
    yield own[:-1] + ("0" if own[-1] != "0" else "1")
    yield own.upper()
    yield own + "0"
    yield _token(other)
    yield browser.client.cookies[SESSION_COOKIE]
    yield hashlib.sha256(browser.client.cookies[SESSION_COOKIE].encode()).hexdigest()
    yield "\x00"


def test_csrf_without_the_token_of_this_session(
    client: TestClient, browser: Browser, workspace: Workspace, case_id: str
) -> None:
    other = Browser(TestClient(client.app, follow_redirects=False))
    other.sign_in()
    before = stock(workspace)
    refused = 0
    for given in tokens(browser, other):
        for address in forms(client):
            fields = {} if given is None else {"csrf": (None, given)}
            answer = browser.client.request(
                address.method,
                address.with_values(case_id=case_id),
                files=fields or {"x": (None, "")},
                headers=HTML,
            )
            known = set(address.parameters) <= {"case_id"} and "provider" not in address.path
            assert answer.status_code in ((403, 422) if known else (403, 404, 422)), (
                address,
                given,
                answer.status_code,
            )
            refused += answer.status_code == 403
    assert refused > 50
    assert stock(workspace) == before
    assert browser.client.get("/cases", headers=HTML).status_code == 200


def test_csrf_by_opening_an_address(
    client: TestClient, browser: Browser, workspace: Workspace, case_id: str
) -> None:
    """Whatever a picture, a link or a prefetch opens changes nothing."""
    before = stock(workspace)
    for address in addresses(client.app):  # type: ignore[arg-type]
        if not address.of_api:
            answer = browser.client.get(address.with_values(case_id=case_id), headers=HTML)
            assert answer.status_code < 500, address
            answer = browser.client.head(address.with_values(case_id=case_id), headers=HTML)
            assert answer.status_code < 500, address
    assert stock(workspace) == before
    assert browser.client.get("/cases", headers=HTML).status_code == 200, "still signed in"


def test_a_cookie_opens_nothing_of_the_interface_for_programs(
    client: TestClient, browser: Browser
) -> None:
    for address in addresses(client.app):  # type: ignore[arg-type]
        if address.of_api:
            answer = browser.client.request(address.method, address.with_values())
            assert answer.status_code == 401, address


def forged(real: str) -> Iterator[str]:
    yield "x" * 43
    yield real[:-1]
    yield real[1:]
    yield real + "A"
    yield real.swapcase()
    yield real[::-1]
    yield f'"{real}x"'
    yield real.encode().hex()
    yield base64.b64encode(real.encode()).decode().rstrip("=")
    yield hashlib.sha256(real.encode()).hexdigest()
    yield "%00" + real
    yield real + "%00"
    yield "' OR '1'='1' -- aaaaaaaaaaaaaaaa"
    yield "A" * 5_000
    yield ""


def test_forged_cookie(client: TestClient, browser: Browser) -> None:
    real = browser.client.cookies[SESSION_COOKIE]
    for made_up in forged(real):
        answer = TestClient(client.app).get(
            "/cases",
            headers={**HTML, "cookie": f"{SESSION_COOKIE}={made_up}"},
            follow_redirects=False,
        )
        assert answer.status_code == 303, made_up[:80]
        assert answer.headers["location"].startswith("/sign-in")
    whole = {**HTML, "cookie": f"{SESSION_COOKIE}={real}"}
    fresh = TestClient(client.app, follow_redirects=False)
    assert fresh.get("/cases", headers=whole).status_code == 200


def test_forged_cookie_beside_the_real_one(client: TestClient, browser: Browser) -> None:
    """A neighbouring name can plant a second cookie of the name; it must not be taken for one."""
    real = browser.client.cookies[SESSION_COOKIE]
    fresh = TestClient(client.app, follow_redirects=False)
    lines = f"{SESSION_COOKIE}={'x' * 43}; {SESSION_COOKIE}={'y' * 43}"
    assert fresh.get("/cases", headers={**HTML, "cookie": lines}).status_code == 303
    other_name = {**HTML, "cookie": f"__Host-{SESSION_COOKIE}={real}"}
    assert fresh.get("/cases", headers=other_name).status_code == 303


def test_session_fixation(client: TestClient, workspace: Workspace) -> None:
    """A token that was planted before, and the one of the form, are worth nothing afterwards."""
    planted = "p" * 43
    victim = Browser(TestClient(client.app, follow_redirects=False))
    victim.client.cookies.set(SESSION_COOKIE, planted, domain="testserver.local", path="/")
    victim.get("/sign-in")
    form_cookie = victim.client.cookies[FORM_COOKIE]
    victim.send("/sign-in", {"key": KEY})
    made = [
        cookie.value
        for cookie in victim.client.cookies.jar
        if cookie.name == SESSION_COOKIE and cookie.value != planted
    ]
    assert len(made) == 1 and made[0] not in (planted, form_cookie)
    for worthless in (planted, form_cookie):
        answer = TestClient(client.app, follow_redirects=False).get(
            "/cases", headers={**HTML, "cookie": f"{SESSION_COOKIE}={worthless}"}
        )
        assert answer.status_code == 303
    # Signing in again gives another one.
    again = Browser(TestClient(client.app, follow_redirects=False))
    again.sign_in()
    assert again.client.cookies[SESSION_COOKIE] != made[0]
    with workspace.catalog.read() as db:
        rows: list[Any] = list(db.scalars(select(WebSession.token_sha256)))
    assert hashlib.sha256(planted.encode()).hexdigest() not in rows
