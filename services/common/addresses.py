"""Addresses of peers, and the rule that models, storage and telemetry stay private."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, PlainSerializer

from services.common.errors import LandlineError


class HostPort(NamedTuple):
    """An address as it is written in configuration: `host:port`, IPv6 hosts in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_host_port(text: object) -> HostPort:
    """`"127.0.0.1:5060"` as a HostPort; ValueError says what is wrong."""
    if isinstance(text, HostPort):
        return text
    host, separator, port = str(text).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address; write host:port, for example 127.0.0.1:5060")
    return HostPort(host, int(port))


Address = Annotated[HostPort, BeforeValidator(parse_host_port), PlainSerializer(str)]


class PublicAddressError(LandlineError):
    """A peer that must be on a private network resolved to a public address."""


def is_private(ip: str) -> bool:
    """Loopback, RFC 1918, RFC 4193 and link-local addresses are private; all others are not."""
    address = ipaddress.ip_address(ip)
    return (
        address.is_loopback
        or address.is_link_local
        or (address.is_private and not address.is_unspecified)
    )


def require_private(address: HostPort, purpose: str) -> None:
    """Resolve `address` and raise PublicAddressError if any answer is public.

    Blocks while the name is looked up.
    """
    try:
        answers = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LandlineError(f"{purpose}: cannot resolve {address.host}: {error}") from error
    for *_, sockaddr in answers:
        if not is_private(str(sockaddr[0])):
            raise PublicAddressError(
                f"{purpose}: {address.host} resolves to the public address {sockaddr[0]}; "
                "models, storage and telemetry must stay on a private network"
            )
