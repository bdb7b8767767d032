"""Whose RTP a call believes. Pure: observations in, socket filters out.

PJMEDIA plays whatever reaches its port, and after ten packets sends its own audio back to where
they came from (symmetric RTP, RFC 4961). Anyone who guesses the port could so take a call over
(RFC 3550 does not help without SRTP). Here the source is settled once and everybody else is
dropped by the kernel. What is believed, from narrow to wide:

    exact     the address and port that the SDP names
    believed  that address, the one that the SIP came from, and the networks that the trunk allows:
              a caller behind NAT signals a private address and sends from a public one
    locked    the one address and port that audio came from
    same_host it fell silent while others knock: the NAT may have given the caller a new port, so
              any port of that address is believed; after as long again, all that was at first

A re-INVITE that names another address starts anew.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from sip_gateway.nat.reach import is_on_internet

_WIDEN_AFTER_MS = 150
_STEADY_LOOKS = 3
_ANYWHERE = (ipaddress.IPv4Network("0.0.0.0/0"),)


class SourceMode(StrEnum):
    """How the source of a call's audio is found."""

    SIGNALLED = "signalled"  # believe the signalled, the SIP's and allowed addresses, then lock
    FIRST = "first"  # believe whoever sends first, then lock
    OFF = "off"  # believe everybody at any time


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePolicy:
    """What a trunk says about its calls' audio.

    `networks` are believed besides the signalled address, `sip_source` is where the SIP came from.
    """

    mode: SourceMode = SourceMode.SIGNALLED
    sip_source: str = ""
    networks: tuple[ipaddress.IPv4Network, ...] = ()
    rebind_after_ms: int = 2000


NOBODY_LOCKED = SourcePolicy(mode=SourceMode.OFF)


class LockState(StrEnum):
    EXACT = "exact"
    BELIEVED = "believed"
    LOCKED = "locked"
    SAME_HOST = "same_host"


@dataclass(frozen=True, slots=True)
class Source:
    """An IPv4 address and a UDP port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Source | None:
        """`"192.0.2.1:4000"`; None for what is no such thing."""
        host, _, port = text.rpartition(":")
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return None
        return cls(host, int(port)) if port.isdecimal() and 0 < int(port) < 65536 else None


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """What a socket lets in: these networks, and of them only that port unless it is None."""

    networks: tuple[ipaddress.IPv4Network, ...]
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """For the two sockets of a stream."""

    rtp: SourceFilter
    rtcp: SourceFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Totals of the stream so far. `source` is where PJMEDIA's last RTP packet came from."""

    received: int
    dropped: int
    source: Source | None


class SourceLock:
    """The lock of one stream. `filters` is what its sockets should have now."""

    def __init__(
        self, signalled: Source | None, policy: SourcePolicy, now_ms: float, *, dropped: int = 0
    ) -> None:
        """`signalled` is the address in the other side's SDP; None when it names none.

        `dropped` is what the socket has dropped so far.
        """
        self._policy = policy
        self._signalled = signalled
        self._believed = _believed(signalled, policy)
        self._source = signalled
        exact = (
            signalled is not None
            and policy.mode is SourceMode.SIGNALLED
            and not _is_behind_nat(signalled.ip, policy.sip_source)
        )
        self.state = LockState.EXACT if exact else LockState.BELIEVED
        self._received = 0
        self._dropped = dropped
        self._since_ms = now_ms
        self._strangers = False
        self._steady = 0
        self._last_seen: Source | None = None

    @property
    def locked_to(self) -> Source | None:
        """The settled source; None before."""
        return self._source if self.state in (LockState.LOCKED, LockState.SAME_HOST) else None

    @property
    def filters(self) -> Filters:
        here = () if self._source is None else (ipaddress.IPv4Network(self._source.ip),)
        port = self._source.port if self._source else None
        match self.state:
            case LockState.EXACT:
                return Filters(rtp=SourceFilter(here, port), rtcp=SourceFilter(self._believed))
            case LockState.BELIEVED:
                believed = SourceFilter(self._believed)
                return Filters(rtp=believed, rtcp=believed)
            case LockState.LOCKED:
                return Filters(rtp=SourceFilter(here, port), rtcp=SourceFilter(here))
            case LockState.SAME_HOST:
                return Filters(rtp=SourceFilter(here), rtcp=SourceFilter(here))

    def resumes(self, signalled: Source | None, policy: SourcePolicy) -> bool:
        """Whether a stream made anew, as by a session refresh, is still this one's."""
        return signalled == self._signalled and policy == self._policy

    def restart(self, now_ms: float, *, dropped: int) -> None:
        """The stream was made anew; its counters begin again at 0, not those of the socket."""
        self._received = 0
        self._dropped = dropped
        self._begin(self.state, now_ms)

    def observe(self, seen: Observation, now_ms: float) -> bool:
        """Look at the stream's totals; True when `filters` has changed."""
        heard = seen.received > self._received
        self._strangers |= seen.dropped > self._dropped
        self._received, self._dropped = seen.received, seen.dropped
        before = self.filters
        match self.state:
            case LockState.EXACT:
                self._look_at_exact(heard, now_ms)
            case LockState.LOCKED:
                self._look_at_locked(heard, now_ms)
            case LockState.BELIEVED:
                self._look_for_source(seen.source if heard else None, now_ms)
            case LockState.SAME_HOST:
                self._look_for_source(seen.source if heard else None, now_ms)
                self._look_elsewhere(heard, now_ms)
        return self.filters != before

    def _look_at_exact(self, heard: bool, now_ms: float) -> None:
        if heard:
            self._begin(LockState.LOCKED, now_ms)
        elif not self._strangers:
            self._since_ms = now_ms
        elif now_ms - self._since_ms >= _WIDEN_AFTER_MS:
            self._begin(LockState.BELIEVED, now_ms)

    def _look_at_locked(self, heard: bool, now_ms: float) -> None:
        if heard:
            self._begin(LockState.LOCKED, now_ms)
        elif self._strangers and now_ms - self._since_ms >= self._policy.rebind_after_ms:
            self._begin(LockState.SAME_HOST, now_ms)

    def _look_for_source(self, source: Source | None, now_ms: float) -> None:
        if source is None:
            return
        self._steady = self._steady + 1 if source == self._last_seen else 1
        self._last_seen = source
        if source == self._signalled or self._steady >= _STEADY_LOOKS:
            self._source = source
            self._begin(LockState.LOCKED, now_ms)

    def _look_elsewhere(self, heard: bool, now_ms: float) -> None:
        waited_ms = now_ms - self._since_ms
        if heard or not self._strangers or waited_ms < self._policy.rebind_after_ms:
            return
        if self._policy.mode is SourceMode.SIGNALLED:  # a carrier's other media server, perhaps
            self._begin(LockState.BELIEVED, now_ms)

    def _begin(self, state: LockState, now_ms: float) -> None:
        self.state = state
        self._since_ms = now_ms  # of silence, in the states that wait for it
        self._strangers = False
        self._steady = 0
        self._last_seen = None


def _is_behind_nat(signalled_ip: str, sip_source: str) -> bool:
    """Whether audio cannot come from the signalled address: a private one, told from outside."""
    return is_on_internet(sip_source) and not is_on_internet(signalled_ip)


def _believed(signalled: Source | None, policy: SourcePolicy) -> tuple[ipaddress.IPv4Network, ...]:
    if policy.mode is not SourceMode.SIGNALLED:
        return _ANYWHERE
    hosts = [source for source in (signalled and signalled.ip, policy.sip_source) if source]
    own = [ipaddress.IPv4Network(host) for host in hosts]
    return tuple(ipaddress.collapse_addresses((*own, *policy.networks)))
