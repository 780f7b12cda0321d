"""Where a webhook may lead: addresses of the public internet only, unless a setting allows more.

Whoever may set a webhook must not be able to make this machine talk to what only it can reach:
its own ports, its neighbours, the metadata service of a cloud. So the name is resolved here,
every address of it has to be public, and the connection goes to an address that was checked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import httpx2

from models.errors import HomewardError

MAX_URL: Final = 2_000
MAX_ADDRESSES: Final = 4
"""So many addresses of a name are tried, one after the other."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""(name, port) to addresses. Raises ``OSError`` where the name is not known."""

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_RELAY_6TO4: Final = ipaddress.IPv4Network("192.88.99.0/24")


class WebhookRefused(HomewardError):
    """The address of a webhook may not be used."""

    code = "webhook_address_refused"


class NameUnknown(HomewardError):
    """The name in the address of a webhook has no address at this moment."""

    code = "webhook_address_refused"

    def __init__(self) -> None:
        super().__init__(
            "The name in the address of the webhook cannot be resolved.",
            remedy="Check the name, and whether this machine can look names up.",
        )


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet; what wraps an IPv4 address is judged by
    that (IPv4-mapped, RFC 4291; 6to4, RFC 3056; NAT64, RFC 6052)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return _is_public_4(address)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return _is_public_4(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public_4(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address.sixtofour is not None:
        return _is_public_4(address.sixtofour)
    return address in _GLOBAL_UNICAST and address.is_global and not address.is_multicast


def _is_public_4(address: ipaddress.IPv4Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _RELAY_6TO4
    )


def parsed(text: str, *, allow_private: bool) -> httpx2.URL:
    """The address of a webhook. Raises :class:`WebhookRefused` for what cannot be one."""
    try:
        if len(text) > MAX_URL or not text.isprintable() or " " in text:
            raise ValueError
        url = httpx2.URL(text)
        port = url.port
    except (httpx2.InvalidURL, ValueError):
        raise _refused("This is no address that a webhook can have.") from None
    if url.scheme not in ("https", "http"):
        raise _refused("A webhook needs an address that begins with https.")
    if url.scheme == "http" and not allow_private:
        raise _refused("A webhook is sent encrypted: its address has to begin with https.")
    if not url.raw_host.strip(b".") or not (port is None or 0 < port < 65_536):
        raise _refused("The address of the webhook names no host, or no port that there is.")
    if url.userinfo:
        raise _refused("The address of a webhook may hold no name and password.")
    if url.fragment:
        raise _refused("The address of a webhook may hold no part after '#'.")
    return url


def _refused(detail: str) -> WebhookRefused:
    return WebhookRefused(detail, remedy="Give an address such as https://desk.example/homeward.")


def shown_url(text: str) -> str:
    """Scheme, host and port of an address, ``/…`` for the rest, which may hold a secret."""
    try:
        url = httpx2.URL(text)
        place = f"{url.scheme}://{url.netloc.decode('ascii')}"
    except (httpx2.InvalidURL, ValueError):
        return "…"
    return place if url.raw_path in (b"", b"/") else f"{place}/…"


async def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of a name by the resolver of this machine, in the order to try them.

    The resolver cannot be broken off. It is asked in a thread of its own that nobody waits for:
    the loop's threads are joined when the loop ends, so a resolver that hangs would keep a try
    beyond its time. Raises ``OSError`` where the name is not known.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def give(found: list[str] | OSError | UnicodeError) -> None:
        if answer.done():
            return
        if isinstance(found, (OSError, UnicodeError)):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look() -> None:
        found: list[str] | OSError | UnicodeError
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except (OSError, UnicodeError) as error:
            found = error
        # The loop has ended where the answer comes too late for anyone to want it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(give, found)

    threading.Thread(target=look, name="resolver", daemon=True).start()
    return await answer


async def addresses_of(url: httpx2.URL, resolve: Resolve, *, allow_private: bool) -> list[str]:
    """The addresses that ``url`` may be reached at, the first to be tried first.

    Raises :class:`NameUnknown` where the name has none, :class:`WebhookRefused` where one of
    them is not public: a name that mixes both is a trick.
    """
    host = url.raw_host.decode("ascii").strip("[]").rstrip(".")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await resolve(host, port)
    except (OSError, UnicodeError):
        raise NameUnknown from None
    if not found:
        raise NameUnknown
    if not allow_private and not all(is_public(address) for address in found):
        raise WebhookRefused(
            "The address of the webhook leads to a private or reserved network.",
            remedy="Use a public address, or set HOMEWARD_WEBHOOK_ALLOW_PRIVATE if the receiver "
            "is meant to be in your own network.",
        )
    return found[:MAX_ADDRESSES]
