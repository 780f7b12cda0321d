"""Whom an address is counted as."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any


def network_of(address: str) -> str:
    """Whom an address is counted as: IPv4 as it is, IPv6 by its /64, which is what one
    subscriber gets at least (RFC 6177), and everything that is no address as one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def client_of(scope: Mapping[str, Any]) -> str:
    """The address that a request came from, as the ASGI scope has it after the trusted proxies."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
