"""Who gets in, for how long, and what a form has to carry."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer.catalog.tables import WebSession
from indexer.times import utc_now
from indexer.workspace import Workspace
from service.accounts.keys import KeyStore
from service.web import sessions
from service.web.state import FAILURES, SESSION_COOKIE
from tests.service.conftest import KEY
from tests.service.web.browser import HTML, Browser
from tests.service.web.conftest import new_case


def cookie_line(answer: Any, name: str) -> str:
    found = [line for line in answer.headers.get_list("set-cookie") if line.startswith(name)]
    assert len(found) == 1
    return str(found[0]).lower()


def post_key(client: TestClient, browser: Browser, key: str, **headers: str) -> Any:
    browser.get("/sign-in")
    values = {**browser.form("/sign-in").values, "key": key}
    return client.post(
        "/sign-in",
        files={name: (None, value) for name, value in values.items()},
        headers={**HTML, **headers},
        follow_redirects=False,
    )


def test_pages_lead_to_the_sign_in_page_and_back(stranger: Browser) -> None:
    stranger.get("/cases?status=open")
    assert stranger.path.startswith("/sign-in?next=")
    stranger.send("/sign-in", {"key": KEY})
    assert stranger.path == "/cases?status=open"


def test_the_cookie_is_for_this_site_and_no_script(
    client: TestClient, stranger: Browser, workspace: Workspace
) -> None:
    answer = post_key(client, stranger, KEY)
    line = cookie_line(answer, SESSION_COOKIE)
    assert "httponly" in line and "samesite=strict" in line and "path=/" in line
    assert "secure" not in line and KEY not in line
    token = client.cookies[SESSION_COOKIE]
    with workspace.catalog.read() as db:
        rows = db.scalars(select(WebSession)).all()
    assert len(rows) == 1 and token not in str(vars(rows[0]))


def test_a_header_that_anybody_can_send_makes_no_cookie_secure(
    client: TestClient, stranger: Browser
) -> None:
    answer = post_key(client, stranger, KEY, **{"x-forwarded-proto": "https"})
    assert "secure" not in cookie_line(answer, SESSION_COOKIE)


def test_a_wrong_key_is_refused_and_says_nothing_about_it(stranger: Browser) -> None:
    page = stranger.sign_in("a-key-that-is-not-the-right-one", expect=401)
    assert "not valid here" in page.prose
    assert "a-key-that-is-not" not in stranger.source
    stranger.get("/cases")
    assert stranger.path.startswith("/sign-in")


def test_wrong_keys_are_throttled(stranger: Browser) -> None:
    for _ in range(FAILURES):
        stranger.sign_in("wrong-wrong-wrong-wrong", expect=401)
    page = stranger.sign_in(KEY, expect=429)
    assert "Too many tries" in page.prose


def test_right_keys_are_not_throttled(stranger: Browser) -> None:
    for _ in range(FAILURES + 2):
        stranger.sign_in()
        stranger.send("/sign-out")


@pytest.mark.parametrize(
    "there", ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example", "x"]
)
def test_signing_in_never_leads_elsewhere(stranger: Browser, there: str) -> None:
    stranger.get("/sign-in")
    stranger.send("/sign-in", {"key": KEY, "next": there})
    assert stranger.path == "/cases"


def test_signing_out_ends_the_session(browser: Browser, client: TestClient) -> None:
    token = client.cookies[SESSION_COOKIE]
    browser.send("/sign-out")
    assert "signed out" in browser.page.prose
    client.cookies.set(SESSION_COOKIE, token)
    browser.get("/cases")
    assert browser.path.startswith("/sign-in")


@pytest.mark.practice(10)
def test_a_session_ends_after_half_an_hour_without_use(
    browser: Browser, workspace: Workspace
) -> None:
    browser.get("/cases")
    with workspace.catalog.write() as db:
        row = db.scalars(select(WebSession)).one()
        assert row.expires_at - row.last_used_at == timedelta(minutes=30)
        row.expires_at = utc_now()
    browser.get("/cases")
    assert browser.path.startswith("/sign-in")


def test_use_prolongs_a_session_but_not_for_ever(workspace: Workspace) -> None:
    keys = KeyStore(workspace.catalog)
    principal = keys.authenticate(keys.create("key").text)
    assert principal is not None
    start = utc_now()
    token = sessions.begin(workspace.catalog, principal, start).token
    now = start
    while now < start + sessions.LONGEST - timedelta(minutes=20):
        now += timedelta(minutes=20)
        assert sessions.find(workspace.catalog, token, configured=False, now=now)
    later = start + sessions.LONGEST
    assert sessions.find(workspace.catalog, token, configured=False, now=later) is None


def test_a_session_ends_with_its_key(workspace: Workspace) -> None:
    keys = KeyStore(workspace.catalog)
    key = keys.create("key", ("cases:read",))
    principal = keys.authenticate(key.text)
    assert principal is not None
    token = sessions.begin(workspace.catalog, principal).token
    found = sessions.find(workspace.catalog, token, configured=False)
    assert found is not None and found.principal == principal
    keys.revoke(key.record.key_id)
    assert sessions.find(workspace.catalog, token, configured=False) is None


def test_a_session_of_a_set_key_ends_with_the_setting(workspace: Workspace) -> None:
    principal = KeyStore(workspace.catalog, KEY).authenticate(KEY)
    assert principal is not None
    token = sessions.begin(workspace.catalog, principal).token
    assert sessions.find(workspace.catalog, token, configured=True)
    assert sessions.find(workspace.catalog, token, configured=False) is None


def test_a_key_with_few_rights_sees_few_pages(
    client: TestClient, workspace: Workspace, browser: Browser
) -> None:
    case_id = new_case(browser)
    key = KeyStore(workspace.catalog).create("reader", ("cases:read", "images:read"))
    client.cookies.clear()
    browser.sign_in(key.text)
    browser.get(f"/cases/{case_id}")
    browser.get("/cases/new", expect=403)
    browser.get(f"/cases/{case_id}/delete", expect=403)
    browser.get("/jobs", expect=403)


@pytest.mark.parametrize("given", [None, "", "0" * 64])
def test_a_form_without_its_token_changes_nothing(
    browser: Browser, client: TestClient, given: str | None
) -> None:
    case_id = new_case(browser)
    targets = {
        "/cases/new": {"case_number": "2026-0002"},
        f"/cases/{case_id}/edit": {"case_number": "2026-0003"},
        f"/cases/{case_id}/end": {"status": "found", "confirm": "yes"},
        f"/cases/{case_id}/delete": {"confirm": "yes"},
        f"/cases/{case_id}/reopen": {},
        "/sign-out": {},
    }
    for path, values in targets.items():
        fields = {**values, **({} if given is None else {"csrf": given}), "csrf2": ""}
        del fields["csrf2"]
        answer = client.post(
            path,
            files={name: (None, value) for name, value in fields.items()} or {"csrf": (None, "")},
            headers=HTML,
            follow_redirects=False,
        )
        assert answer.status_code == 403, path
    browser.get("/cases")
    assert "2026-0001" in browser.page.prose
    assert "2026-0002" not in browser.page.prose and "2026-0003" not in browser.page.prose


def test_a_file_without_the_token_is_refused(
    browser: Browser, client: TestClient, portrait_bytes: bytes
) -> None:
    case_id = new_case(browser)
    for path in (f"/cases/{case_id}/photos", f"/cases/{case_id}/search"):
        answer = client.post(path, files={"file": ("a.jpg", portrait_bytes)}, headers=HTML)
        assert answer.status_code == 403
    browser.get(f"/cases/{case_id}")
    assert not [image for image in browser.page.images if image["src"].startswith("/faces/")]


def test_the_sign_in_form_needs_its_token_too(stranger: Browser, client: TestClient) -> None:
    stranger.get("/sign-in")
    client.cookies.clear()
    page = stranger.send("/sign-in", {"key": KEY}, expect=403)
    assert "waited too long" in page.prose
    stranger.send("/sign-in", {"key": KEY})
    assert stranger.path == "/cases"


def test_the_api_key_does_not_open_pages_and_the_cookie_no_interface(
    client: TestClient, browser: Browser
) -> None:
    assert client.get("/v1/cases").status_code == 401
    client.cookies.clear()
    answer = client.get(
        "/cases", headers={**HTML, "authorization": f"Bearer {KEY}"}, follow_redirects=False
    )
    assert answer.status_code == 303


def test_a_post_after_the_session_ended_says_so(browser: Browser, client: TestClient) -> None:
    browser.get("/cases/new")
    client.cookies.clear()
    page = browser.send("/cases/new", {"case_number": "2026-0009"}, expect=401)
    assert "session has ended" in page.prose
