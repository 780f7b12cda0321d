"""Whom an address is counted as."""

from __future__ import annotations

import ipaddress


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
