"""Guessing keys, flooding without one, and filling the memory with names."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace
from service.app import create_app
from service.config import Settings
from service.errors import RateLimited
from service.ratelimit import (
    KNOWN_SECONDS,
    MAX_ADDRESSES,
    MAX_KNOWN,
    MINUTE,
    AddressLimits,
    BoundedWindow,
    network_of,
)
from tests.service.conftest import AUTH, KEY, problem
from tests.service.people import enter, make_person


def wrong(number: int) -> dict[str, str]:
    return {"authorization": f"Bearer wrong-key-number-{number:06d}"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_brute_force_against_keys(workspace: Workspace, settings: Settings) -> None:
    few = settings.model_copy(update={"failures_per_minute": 20})
    with TestClient(create_app(few, workspace)) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        new = service.keys.create("not used yet").text
        assert client.get("/v1/cases", headers=AUTH).status_code == 200
        for number in range(20):
            problem(client.get("/v1/cases", headers=wrong(number)), 401, "unauthenticated")
        looked_up: list[str] = []
        real = service.keys.authenticate

        def noted(text: str) -> Any:
            looked_up.append(text)
            return real(text)

        service.keys.authenticate = noted
        for number in range(20, 40):
            answer = client.get("/v1/cases", headers=wrong(number))
            problem(answer, 429, "rate_limited")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        # Not even a right guess would be told apart now.
        problem(
            client.get("/v1/cases", headers={"authorization": f"Bearer {new}"}),
            429,
            "rate_limited",
        )
        assert looked_up == []
        # Who was here before with a right key is not locked out by a neighbour.
        assert client.get("/v1/cases", headers=AUTH).status_code == 200
        assert looked_up == [KEY]


def test_a_flood_without_any_key(workspace: Workspace, settings: Settings) -> None:
    few = settings.model_copy(update={"rate_limit_per_minute": 30})
    with TestClient(create_app(few, workspace)) as client:
        codes = [client.get("/v1/cases").status_code for _ in range(32)]
        assert codes == [401] * 30 + [429] * 2
        assert client.get("/sign-in").status_code == 429
        assert client.get("/v1/cases", headers=AUTH).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_a_session_that_is_made_up_counts_as_none(workspace: Workspace, settings: Settings) -> None:
    few = settings.model_copy(update={"rate_limit_per_minute": 5})
    with TestClient(create_app(few, workspace), follow_redirects=False) as client:
        for number in range(5):
            made_up = {"cookie": f"homeward_session={number:030d}"}
            assert client.get("/sign-in", headers=made_up).status_code == 200
        assert client.get("/sign-in", headers={"cookie": "homeward_session=x"}).status_code == 429


def test_a_person_has_a_limit_in_the_pages(workspace: Workspace, settings: Settings) -> None:
    """Their own, once the session is known: what strangers at that address do is not theirs."""
    few = settings.model_copy(update={"rate_limit_per_minute": 5})
    person = make_person(workspace.catalog, "rita", ["investigator"])
    with TestClient(create_app(few, workspace), follow_redirects=False) as client:
        token = enter(client, workspace.catalog, person)
        assert client.get("/cases").status_code == 200
        client.cookies.clear()
        assert [client.get("/sign-in").status_code for _ in range(5)] == [200] * 4 + [429]
        mine = {"cookie": f"homeward_session={token}"}
        answers = [client.get("/cases", headers=mine).status_code for _ in range(5)]
        assert answers == [200] * 4 + [429]


def test_another_address_is_not_meant(workspace: Workspace, settings: Settings) -> None:
    few = settings.model_copy(
        update={"failures_per_minute": 2, "trusted_proxies": "127.0.0.1, 10.0.0.0/8"}
    )

    async def run() -> list[int]:
        app = create_app(few, workspace)
        statuses: list[int] = []

        async def ask(peer: str, forwarded: str) -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            headers = [(b"authorization", b"Bearer wrong-wrong-wrong-wrong")]
            if forwarded:
                headers.append((b"x-forwarded-for", forwarded.encode()))
            await app(
                {
                    "type": "http",
                    "method": "GET",
                    "path": "/v1/cases",
                    "raw_path": b"/v1/cases",
                    "query_string": b"",
                    "scheme": "http",
                    "headers": headers,
                    "client": (peer, 1),
                    "state": {},
                },
                receive,
                send,
            )

        async with app.router.lifespan_context(app):
            # One stranger who claims another address each time is counted as one ...
            for number in range(3):
                await ask("192.0.2.9", f"198.51.100.{number}")
            # ... also behind the proxy, which appends whom it saw ...
            for number in range(3):
                await ask("127.0.0.1", f"203.0.113.{number}, 192.0.2.10")
            # ... also through two of them, and with a port; and others are others.
            for _ in range(3):
                await ask("127.0.0.1", "192.0.2.11:4711, 10.1.2.3")
            await ask("127.0.0.1", "192.0.2.12")
        return statuses

    assert asyncio.run(run()) == [401, 401, 429] * 3 + [401]


def test_addresses_are_counted_by_what_one_subscriber_has() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::1")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth1")
    assert network_of("testclient") == network_of("x" * 500) == "unknown"


def test_many_addresses_do_not_fill_the_memory() -> None:
    clock = Clock()
    limits = AddressLimits(failures=3, anonymous=3, clock=clock)
    for number in range(3 * MAX_ADDRESSES):
        address = f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"
        limits.anonymous(address)
        limits.after_key(address, f"key {number}", right=number % 2 == 0)
    assert len(limits._anonymous) == MAX_ADDRESSES
    assert len(limits._failures) == MAX_ADDRESSES
    assert len(limits._known) == MAX_KNOWN
    # The newest is counted all the same.
    for _ in range(2):
        limits.anonymous(address)
    with pytest.raises(RateLimited):
        limits.anonymous(address)


def test_a_window_ends_and_begins_anew() -> None:
    clock = Clock()
    window = BoundedWindow(2, MINUTE, clock=clock)
    assert [window.count("a") for _ in range(3)] == [True, True, False]
    assert window.used_up("a") and not window.used_up("b")
    clock.now += MINUTE - 1
    assert window.used_up("a") and window.wait("a") == 1
    clock.now += 1
    assert not window.used_up("a") and window.count("a")


def test_a_key_is_known_for_a_while_only_and_where_it_was_used() -> None:
    clock = Clock()
    limits = AddressLimits(failures=1, anonymous=1, clock=clock)
    limits.after_key("192.0.2.1", "right", right=True)
    for address in ("192.0.2.1", "192.0.2.2"):
        limits.after_key(address, "wrong", right=False)
    limits.before_key("192.0.2.1", "right")
    for address, key in (("192.0.2.1", "other"), ("192.0.2.2", "right")):
        with pytest.raises(RateLimited):
            limits.before_key(address, key)
    clock.now += KNOWN_SECONDS
    limits.after_key("192.0.2.1", "wrong", right=False)
    with pytest.raises(RateLimited):
        limits.before_key("192.0.2.1", "right")
