"""What proxies say, and which names a request may be for."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from service.config import SettingsInvalid, load_settings
from service.headers import HSTS, SecurityHeaders
from service.peers import FORWARDING, Peers

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def seen(
    peer: str | None,
    *headers: tuple[str, str],
    trusted: Any = TRUSTED,
    hosts: Any = (),
    path: str = "/cases",
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """The scope that is passed on ({} where none is), status and headers of the answer."""
    passed: dict[str, Any] = {}
    sent: list[Any] = []

    async def inner(scope: Any, _receive: Any, send: Any) -> None:
        passed.update(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "client": (peer, 4711) if peer else None,
        "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in headers],
        "state": {},
    }
    app = SecurityHeaders(Peers(inner, trusted, hosts))
    asyncio.run(app(scope, receive, send))
    answer = {n.decode(): v.decode() for n, v in sent[0]["headers"]}
    return passed, sent[0]["status"], answer


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("fd00::1", "198.51.100.1", "198.51.100.1"),
    ],
)
def test_only_trusted_proxies_say_who_asks(peer: str, forwarded: str, client: str) -> None:
    scope, _, _ = seen(peer, ("X-Forwarded-For", forwarded))
    assert scope["client"][0] == client


def test_several_headers_are_one_list() -> None:
    scope, _, _ = seen(
        "10.0.0.1", ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "198.51.100.1")
    )
    assert scope["client"][0] == "198.51.100.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "scheme"),
    [
        ("192.0.2.1", "https", "http"),
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "https, http", "http"),
        ("10.0.0.1", "HTTPS", "https"),
        ("10.0.0.1", "javascript", "http"),
        (None, "https", "http"),
    ],
)
def test_only_trusted_proxies_say_that_there_is_tls(
    peer: str | None, forwarded: str, scheme: str
) -> None:
    scope, _, answer = seen(peer, ("X-Forwarded-Proto", forwarded))
    assert scope["scheme"] == scheme
    assert answer.get("strict-transport-security") == (HSTS if scheme == "https" else None)


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1"])
def test_nothing_is_left_that_claims_otherwise(peer: str) -> None:
    given = [(name.decode(), "https") for name in FORWARDING]
    scope, _, _ = seen(peer, *given, ("Accept", "text/html"))
    assert scope["headers"] == [(b"accept", b"text/html")]


HOSTS = ("homeward.example", "*.agency.example", "[2001:db8::1]")


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("homeward.example", True),
        ("Homeward.Example:8443", True),
        ("homeward.example.", True),
        ("a.agency.example", True),
        ("[2001:db8::1]:8000", True),
        ("agency.example", False),
        ("evil-agency.example", False),
        ("homeward.example.evil.example", False),
        ("evil.example", False),
        ("127.0.0.1", False),
    ],
)
def test_requests_are_for_one_of_our_names(host: str, taken: bool) -> None:
    scope, status, _ = seen("192.0.2.1", ("Host", host), hosts=HOSTS)
    assert (status == 200, bool(scope)) == (taken, taken)
    if not taken:
        assert status == 421
        assert seen("192.0.2.1", ("Host", host), hosts=HOSTS, path="/healthz")[1] == 200


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b", "a@b", "a,b", "a:b", "a:123456", "<script>", "a\r\nb", "[::1", "ä.example"],
)
def test_a_host_that_can_be_none_is_refused(host: str) -> None:
    assert seen("192.0.2.1", ("Host", host))[1] == 421


def test_two_hosts_are_refused() -> None:
    assert seen("192.0.2.1", ("Host", "a.example"), ("Host", "b.example"))[1] == 421


@pytest.mark.parametrize(
    "values",
    [
        {"trusted_proxies": "everybody"},
        {"trusted_proxies": "10.0.0.1/8"},
        {"allowed_hosts": "https://homeward.example"},
        {"allowed_hosts": "*"},
        {"oidc_issuer": "http://login.example"},
        {"oidc_issuer": "https://user@login.example"},
        {"oidc_issuer": "https://login.example"},
        {"oidc_issuer": "https://login.example", "public_url": "https://h.example"},
        {"oidc_create_roles": "investigator administrator"},
        {"oidc_create_roles": "king"},
    ],
)
def test_settings_that_make_no_sense_stop_the_start(values: dict[str, str]) -> None:
    with pytest.raises(SettingsInvalid):
        load_settings(**values)
