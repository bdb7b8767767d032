"""Which addresses can be reached over the public internet."""

from __future__ import annotations

import ipaddress

# RFC 1918, this host, loopback, link-local, and what providers use behind their own NAT (RFC 6598).
_NOT_ON_THE_INTERNET = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10"),
    )
)


def is_on_internet(host: str) -> bool:
    """False for private and local IPv4 addresses, and for what is no IPv4 address."""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return not any(address in network for network in _NOT_ON_THE_INTERNET)
