"""Finds a SIP server in DNS (RFC 3263), off the thread that PJSIP runs on.

PJSIP would ask for a name in the middle of sending, and wait for the answer with all calls of the
process. So names of trunks are resolved here and PJSIP is handed addresses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from services.common.errors import LandlineError
from sip_gateway.trunks.trunk import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dns.rdtypes.IN.SRV import SRV

    from services.common.addresses import HostPort
    from sip_gateway.trunks.trunk import Server

SIP_PORT = 5060
_DNS_PORT = 53
_ANSWER_S = 5.0
_NO_ANSWERS = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)


class UnknownServerError(LandlineError):
    """A server's name leads nowhere, or DNS does not answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address that a server may be reached at."""

    ip: str
    port: int
    transport: Transport

    def route(self, *, hidden: bool = True) -> str:
        """As a route to it. A hidden one is not written into the message."""
        tcp = ";transport=tcp" if self.transport is Transport.TCP else ""
        return f"<sip:{self.ip}:{self.port}{tcp};lr{';hide' if hidden else ''}>"

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


class Resolver:
    """Asks `nameservers`, or those of the machine (and its hosts file) when there are none."""

    def __init__(self, nameservers: Sequence[HostPort] = ()) -> None:
        self._own = bool(nameservers)
        try:
            self._dns = dns.asyncresolver.Resolver(configure=not nameservers)
        except dns.resolver.NoResolverConfiguration:
            self._dns = dns.asyncresolver.Resolver(configure=False)
        if nameservers:
            self._dns.nameservers = [dns.nameserver.Do53Nameserver(*it) for it in nameservers]
        self._dns.lifetime = _ANSWER_S
        # Its own threads: slow names must not keep recordings from being closed.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="dns")

    async def targets(self, server: Server, transport: Transport) -> list[Target]:
        """Every address of `server`, the best first; UnknownServerError when there is none."""
        if _is_ip(server.host):
            return [Target(server.host, server.port or SIP_PORT, transport)]
        if server.port:
            return [Target(ip, server.port, transport) for ip in await self.ips(server.host)]
        found: list[Target] = []
        for record in await self._srv(server.host, transport):
            name = str(record.target).rstrip(".")
            found += [Target(ip, record.port, transport) for ip in await self._ips_or_none(name)]
        if found:
            return found
        return [Target(ip, SIP_PORT, transport) for ip in await self.ips(server.host)]

    async def ips(self, host: str) -> list[str]:
        """The IPv4 addresses of `host`; UnknownServerError when there is none."""
        if _is_ip(host):
            return [host]
        try:
            async with asyncio.timeout(_ANSWER_S):
                ips = await (self._ask_dns(host) if self._own else self._ask_system(host))
        except (OSError, dns.exception.DNSException, TimeoutError) as error:
            raise UnknownServerError(f"cannot resolve {host}: {_why(error)}") from None
        if not ips:
            raise UnknownServerError(f"{host} has no IPv4 address")
        return ips

    def close(self) -> None:
        """Questions under way are given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _srv(self, host: str, transport: Transport) -> list[SRV]:
        try:
            answer = await self._dns.resolve(f"_sip._{transport}.{host}", "SRV")
        except _NO_ANSWERS:
            return []
        except dns.exception.DNSException as error:
            raise UnknownServerError(f"cannot resolve {host}: {_why(error)}") from None
        return in_order(answer, random.random)

    async def _ips_or_none(self, host: str) -> list[str]:
        try:
            return await self.ips(host)
        except UnknownServerError:
            return []

    async def _ask_dns(self, host: str) -> list[str]:
        return sorted(str(record) for record in await self._dns.resolve(host, "A"))

    async def _ask_system(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _look_up, host)

    @property
    def nameservers(self) -> list[str]:
        """The addresses of those that listen on port 53."""
        known = [str(item) for item in self._dns.nameservers if isinstance(item, str)]
        known += [
            item.address
            for item in self._dns.nameservers
            if isinstance(item, dns.nameserver.Do53Nameserver) and item.port == _DNS_PORT
        ]
        return [ip for ip in known if _is_ip(ip)]


def in_order(records: Iterable[SRV], chance: Callable[[], float]) -> list[SRV]:
    """SRV records as they are to be tried (RFC 2782): by priority, then drawn by weight.

    `chance` gives numbers from 0.0 to 1.0.
    """
    left = sorted(records, key=lambda record: (record.priority, record.weight != 0))
    ordered: list[SRV] = []
    while left:
        first = [record for record in left if record.priority == left[0].priority]
        drawn = chance() * sum(record.weight for record in first)
        for record in first:
            drawn -= record.weight
            if drawn <= 0:
                break
        ordered.append(record)
        left.remove(record)
    return ordered


def _look_up(host: str) -> list[str]:
    """Blocks."""
    answers = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    return sorted({str(sockaddr[0]) for *_, sockaddr in answers})


def _is_ip(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError | dns.exception.Timeout):
        return "DNS does not answer"
    if isinstance(error, dns.resolver.NXDOMAIN):
        return "there is no such name"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
