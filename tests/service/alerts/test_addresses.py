"""Where a webhook may lead: nowhere that only this machine can reach."""

from __future__ import annotations

import asyncio
import ipaddress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.addresses import (
    NameUnknown,
    WebhookRefused,
    addresses_of,
    is_public,
    parsed,
    shown_url,
    system_resolve,
)

PUBLIC = ("8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:80b::200e",
          "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1")  # fmt: skip
PRIVATE = (
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "192.88.99.1",
    "::", "::1", "::127.0.0.1", "::7f00:1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254",
    "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1",
    "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8",
    "localhost", "", "8.8.8.8.8",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_told(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_only_this_machine_reaches_are_told(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_changes_nothing(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    wrapped = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1),
    ]
    assert {is_public(str(form)) for form in wrapped} == {is_public(str(address))}


def addresses(text: str, found: list[str], *, allow_private: bool = False) -> list[str]:
    async def resolve(host: str, port: int) -> list[str]:
        return found

    url = parsed(text, allow_private=allow_private)
    return asyncio.run(addresses_of(url, resolve, allow_private=allow_private))


def test_one_private_address_among_public_ones_is_enough() -> None:
    text = "https://desk.example/in"
    assert addresses(text, ["8.8.8.8", "8.8.4.4"]) == ["8.8.8.8", "8.8.4.4"]
    for found in (["8.8.8.8", "127.0.0.1"], ["10.0.0.1"], ["::1", "8.8.8.8"]):
        with pytest.raises(WebhookRefused):
            addresses(text, found)
        assert addresses(text, found, allow_private=True) == found
    with pytest.raises(NameUnknown):
        addresses(text, [])
    assert len(addresses(text, [f"8.8.8.{n}" for n in range(9)])) == 4


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "127.1", "2130706433", "0x7f.1", "localhost", "[::ffff:7f00:1]",
             "LOCALHOST.", "0"]
)  # fmt: skip
def test_this_machine_is_refused_however_it_is_written(host: str) -> None:
    async def check() -> None:
        url = parsed(f"https://{host}/in", allow_private=False)
        await addresses_of(url, system_resolve, allow_private=False)

    with pytest.raises((WebhookRefused, NameUnknown)):
        asyncio.run(check())


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_names_are_looked_up_by_this_machine(name: str) -> None:
    url = parsed(f"http://{name}:8443/", allow_private=True)
    found = asyncio.run(addresses_of(url, system_resolve, allow_private=True))
    assert found and all(ipaddress.ip_address(address).is_loopback for address in found)


def test_a_name_that_nobody_knows_is_said_to_be_unknown() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    url = parsed("https://nowhere.example/in", allow_private=True)
    with pytest.raises(NameUnknown):
        asyncio.run(addresses_of(url, resolve, allow_private=True))


@pytest.mark.parametrize(
    "text",
    ["", "desk.example", "//desk.example", "ftp://desk.example/", "file:///etc/passwd",
     "https://", "https:///in", "https://./", "https://user:word@desk.example/",
     "https://user@desk.example/", "https://desk.example/#part", "https://desk.example:0/",
     "https://desk.example:99999/", "https://desk.example:x/", "https://de sk.example/",
     "https://desk.example/\nx: y", "https://desk.example/\x00", "javascript:alert(1)",
     "gopher://127.0.0.1:25/", "https://" + "a" * 2000, "http://desk.example/"],
)  # fmt: skip
def test_what_cannot_be_the_address_of_a_webhook(text: str) -> None:
    with pytest.raises(WebhookRefused):
        parsed(text, allow_private=False)


def test_addresses_of_webhooks() -> None:
    url = parsed("https://desk.example:8443/in?token=1", allow_private=False)
    assert (url.host, url.port, url.raw_path) == ("desk.example", 8443, b"/in?token=1")
    assert parsed("http://10.0.0.1/in", allow_private=True).scheme == "http"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://hooks.example/services/T0/B0/topsecret", "https://hooks.example/…"),
        ("https://desk.example:8443/?token=topsecret", "https://desk.example:8443/…"),
        ("https://[2606:4700::1111]:8443/topsecret", "https://[2606:4700::1111]:8443/…"),
        ("https://desk.example", "https://desk.example"),
        ("https://desk.example/", "https://desk.example"),
        ("https://some:topsecret@desk.example/", "https://desk.example"),
        ("https://desk.example:topsecret/", "…"),
    ],
)
def test_of_an_address_only_the_host_is_shown(text: str, told: str) -> None:
    assert shown_url(text) == told


@given(
    st.text(max_size=60), st.sampled_from(["", "https://", "http://", "https://[", "https://x/"])
)
def test_any_text_is_taken_or_refused(text: str, start: str) -> None:
    try:
        url = parsed(start + text, allow_private=True)
    except WebhookRefused:
        return
    assert isinstance(url, httpx2.URL)
    assert url.scheme in ("http", "https") and url.raw_host and not url.userinfo
