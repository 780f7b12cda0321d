"""Path injection: whatever stands where an id belongs leads to nothing and breaks nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.attacks.addresses import UNKNOWN_ID, Address, addresses
from tests.attacks.conftest import open_small
from tests.service.conftest import AUTH, make_settings
from tests.service.web.browser import HTML, Browser

VALUES = (
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "..%5c..%5cwindows",
    "%2e%2e%2f%2e%2e%2f",
    "%00",
    f"{UNKNOWN_ID}%00",
    f"{UNKNOWN_ID}%0a",
    f"{UNKNOWN_ID}%20",
    f"%20{UNKNOWN_ID}",
    f"{UNKNOWN_ID}%2f",
    f"%7b{UNKNOWN_ID}%7d",
    f"urn:uuid:{UNKNOWN_ID}",
    UNKNOWN_ID.replace("-", ""),
    UNKNOWN_ID.upper(),
    UNKNOWN_ID.replace("0", "%EF%BC%90", 1),
    "%EF%BC%8E%EF%BC%8E%EF%BC%8F",
    "%c0%ae%c0%ae%c0%af",
    "%ff%fe",
    "%ed%a0%80",
    "'%20OR%20'1'%3d'1",
    "%7b%7b7*7%7d%7d",
    "%3cscript%3ealert(1)%3c%2fscript%3e",
    "%25%32%65%25%32%65",
    "-1",
    "0",
    "null",
    "a" * 4_000,
    "%F0%9F%98%80" * 50,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One for all values: nothing is changed by any."""
    made = make_settings(tmp_path_factory.mktemp("paths"))
    with open_small(made) as workspace, TestClient(create_app(made, workspace)) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(client: TestClient) -> Browser:
    made = Browser(TestClient(client.app, follow_redirects=False))
    made.sign_in()
    return made


def with_parameters(client: TestClient) -> list[Address]:
    found = [one for one in addresses(client.app) if one.parameters]  # type: ignore[arg-type]
    assert len(found) >= 30
    return found


@pytest.mark.parametrize("value", VALUES, ids=lambda text: text[:24])
def test_path_injection(client: TestClient, browser: Browser, value: str) -> None:
    programs = TestClient(client.app, follow_redirects=False, headers=AUTH)
    for address in with_parameters(client):
        for place in address.parameters:
            path = address.with_values(**{place: value})
            asking = programs if address.of_api else browser.client
            answer = asking.request(address.method, path, headers={} if address.of_api else HTML)
            # A page may lead back to the sign-in page; nothing is ever found or done.
            assert 400 <= answer.status_code < 500 or answer.status_code == 303, (
                address,
                answer.status_code,
                answer.text[:200],
            )
            if answer.status_code == 303:
                assert answer.headers["location"].startswith("/")
                assert not address.of_api
            assert "<script>" not in answer.text and "root:" not in answer.text
            assert "Traceback" not in answer.text and ">49<" not in answer.text
