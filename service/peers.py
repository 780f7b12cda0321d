"""Who is really at the other end: what proxies say is believed only of those that are trusted.

After this, ``scope["client"]`` and ``scope["scheme"]`` are the ones to use, and no header that
claims otherwise is left for anybody to read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import HomewardError
from service.errors import problem_for
from service.netconfig import Network

FORWARDING: Final = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-real-ip",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
MAX_HOPS: Final = 32
MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 16_384
MAX_ADDRESS_BYTES: Final = 8_192
PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked for by address rather than by name, by those who watch over the process."""

_HOST_HEADER: Final = re.compile(
    rb"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)


class HostRefused(HomewardError):
    """The request is for a name that is not this service's."""

    code = "host_refused"


class HeadTooLarge(HomewardError):
    """The head of the request is larger than any that a client of ours would send."""

    code = "head_too_large"


class Peers:
    """Sets client and scheme from what a trusted proxy says; ``hosts``: names that requests may
    be for, any if empty. ``*.example.org`` stands for every name below."""

    def __init__(
        self, app: ASGIApp, trusted: Sequence[Network] = (), hosts: Sequence[str] = ()
    ) -> None:
        self.app = app
        self.trusted = tuple(trusted)
        self.hosts = tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # In place: those outside of this one read them from here when the answer comes by.
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        client = scope.get("client")
        if client is not None and self._trusts(client[0]):
            self._believe(scope, headers)
        if refused := _too_much(scope):
            await problem_for(scope, refused)(scope, receive, send)
            return
        scope["headers"] = [item for item in headers if item[0].lower() not in FORWARDING]
        try:
            self._check_host(scope)
        except HostRefused as error:
            await problem_for(scope, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        if not self.trusted:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.trusted)

    def _believe(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
        # Each proxy appends whom it saw. From the right, the first that is none of ours is the
        # client; what stands left of it anybody may have written.
        for text in reversed(_list(headers, b"x-forwarded-for")[-MAX_HOPS:]):
            address = _address(text)
            if address is None:
                break
            scope["client"] = (address, 0)
            if not self._trusts(address):
                break
        protocols = _list(headers, b"x-forwarded-proto")
        if protocols and protocols[-1].lower() in ("http", "https"):
            scope["scheme"] = protocols[-1].lower()

    def _check_host(self, scope: Scope) -> None:
        given = [value for name, value in scope["headers"] if name.lower() == b"host"]
        if len(given) > 1 or (given and not _HOST_HEADER.fullmatch(given[0])):
            raise HostRefused(
                "The header 'Host' is none that a request can have.",
                remedy="Send one name or address, with a port where it is not the usual one.",
            )
        if not self.hosts or scope["path"] in PROBES:
            return
        text = given[0].decode("ascii").lower() if given else ""
        name = (text if text.endswith("]") else text.rpartition(":")[0] or text).rstrip(".")
        for allowed in self.hosts:
            if name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:])):
                return
        raise HostRefused(
            "This service does not go by that name.",
            remedy="Use the address that you were given; whoever runs the service lists its names "
            "in HOMEWARD_ALLOWED_HOSTS.",
        )


def _too_much(scope: Scope) -> HeadTooLarge | None:
    """The server bounds a head that comes in pieces, but not one that comes all at once."""
    headers = scope["headers"]
    size = sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        what, code = "Its headers are", HeadTooLarge.code
    elif len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_ADDRESS_BYTES:
        what, code = "Its address is", "address_too_long"
    else:
        return None
    return HeadTooLarge(
        f"The request cannot be taken. {what} too long.",
        remedy="Send less in the head of the request.",
        code=code,
    )


def _list(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    joined = b",".join(value for key, value in headers if key.lower() == name)
    return [part.strip() for part in joined.decode("latin-1").split(",") if part.strip()]


def _address(text: str) -> str | None:
    """An address as proxies write it, with or without a port."""
    bare = text
    if text.startswith("["):
        bare = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        bare = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None
