"""Takes or refuses a call, and says why. Pure, so that it can decide inside PJSIP's callback."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sip_gateway.events import Refusal
from sip_gateway.outbound.dialling import Outcome
from sip_gateway.trunks import dids, encryption
from sip_gateway.trunks.trunk import Trunk, TrunkKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from services.common.clock import Clock
    from sip_gateway.admission.house import House
    from sip_gateway.events import Invite
    from sip_gateway.outbound.dialling import Verdict

RETRY_AFTER_FULL_S = 10
RETRY_AFTER_STOPPING_S = 5
# A socket of PJSIP's stays reserved for half a second after its call, and its 64 places are soon
# used up: the assertion that then fails would end the process. A call takes two.
NEW_CALLS_PER_S = 10.0
NEW_CALLS_BURST = 10.0
UNKNOWN_NUMBER = Refusal(sip_status=404, why="unknown_number")
UNKNOWN_SOURCE = Refusal(sip_status=403, why="unknown_source")
FULL = Refusal(sip_status=503, why="full", retry_after_s=RETRY_AFTER_FULL_S, elsewhere=True)
TOO_FAST = Refusal(sip_status=503, why="too_fast", retry_after_s=1, elsewhere=True)
STOPPING = Refusal(
    sip_status=503, why="stopping", retry_after_s=RETRY_AFTER_STOPPING_S, elsewhere=True
)
NO_RTP_PORTS = Refusal(
    sip_status=503, why="no_rtp_ports", retry_after_s=RETRY_AFTER_FULL_S, elsewhere=True
)


@dataclass(frozen=True, slots=True)
class Sources:
    """The networks that a trunk's calls come from."""

    trunk: Trunk
    networks: tuple[ipaddress.IPv4Network, ...]

    def contains(self, ip: ipaddress.IPv4Address) -> bool:
        return any(ip in network for network in self.networks)


class Admission:
    """Knows the trunks' sources and how many conversations fit.

    `limit` is one less than PJSIP can hold. The last place is never given to a conversation: it
    is where the call too many is refused with an answer that tells it to come back.
    """

    def __init__(
        self,
        trunks: Iterable[Trunk],
        *,
        clock: Clock,
        limit: int = 0,
        country: str = "",
        house: House | None = None,
        rtp_is_free: Callable[[], bool] = lambda: True,
    ) -> None:
        """`rtp_is_free` tells whether a call would get its ports; it must not block."""
        self.limit = limit
        self._house = house
        self._rtp_is_free = rtp_is_free
        self._clock = clock
        self._country = country
        self._tokens = NEW_CALLS_BURST
        self._tokens_at_ms = clock.now_ms()
        self.stopping = False
        self._sources = tuple(Sources(trunk, tuple(trunk.allow)) for trunk in trunks)
        self.on_sources: Callable[[], None] = lambda: None  # told when they change

    def learn_registrar(self, trunk_name: str, ips: Iterable[str]) -> None:
        """A registrar's address, as it was resolved, may send calls for its trunk."""
        learned = {ipaddress.IPv4Network(ip) for ip in ips}
        self._sources = tuple(
            Sources(item.trunk, tuple(sorted({*item.networks, *learned})))
            if item.trunk.name == trunk_name
            else item
            for item in self._sources
        )
        self.on_sources()

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network, ...]:
        """Where calls of any trunk may come from, as far as it is known now."""
        return tuple({network: None for item in self._sources for network in item.networks})

    def trunk_of(self, invite: Invite) -> Trunk | None:
        """The trunk that this call belongs to.

        Several extensions may be registered at one PBX: the one that was dialled comes first.
        The edge, where there is one, has decided already.
        """
        if invite.via_edge:
            named = (item.trunk for item in self._sources if item.trunk.name == invite.trunk)
            return next(named, None)
        try:
            ip = ipaddress.IPv4Address(invite.source_ip)
        except ValueError:
            return None
        matching = [item.trunk for item in self._sources if item.contains(ip)]
        dialled = [trunk for trunk in matching if trunk.username == invite.request_user]
        peers = [trunk for trunk in matching if trunk.kind is TrunkKind.PEER]
        return next(iter(dialled or peers or matching), None)

    def networks_of(self, trunk_name: str) -> tuple[ipaddress.IPv4Network, ...]:
        """Where that trunk's calls may come from, as far as it is known now."""
        found = (item.networks for item in self._sources if item.trunk.name == trunk_name)
        return next(found, ())

    def decide(self, invite: Invite, other_legs: int) -> Refusal | None:
        """None to take the call. `other_legs` are those that PJSIP holds beside it."""
        trunk = self.trunk_of(invite)
        if trunk is None:
            return UNKNOWN_SOURCE
        emergency = self._emergency(invite)
        if emergency is None and dids.route(trunk, invite, self._country) is None:
            return UNKNOWN_NUMBER
        unfit = encryption.refusal(trunk.srtp, invite.body)
        if unfit is not None:
            return unfit
        if self.stopping:
            return STOPPING
        if other_legs >= self.limit:
            return self._no_line(FULL, emergency)
        if not self._take_token():
            return TOO_FAST if emergency is None else self._no_line(TOO_FAST, emergency)
        return None if self._rtp_is_free() else self._no_line(NO_RTP_PORTS, emergency)

    def _emergency(self, invite: Invite) -> Verdict | None:
        """What becomes of a call for help; None for any other."""
        if self._house is None:
            return None
        return self._house.emergency(invite.request_user, invite.callee)

    def _no_line(self, refusal: Refusal, emergency: Verdict | None) -> Refusal:
        """In place of a conversation: what needs no line of ours."""
        if self._house is None:
            return refusal
        if emergency is not None and emergency.outcome is Outcome.EMERGENCY:
            return self._house.redirect(refusal, emergency.target)
        return self._house.instead(refusal)

    def _take_token(self) -> bool:
        now_ms = self._clock.now_ms()
        earned = (now_ms - self._tokens_at_ms) / 1000 * NEW_CALLS_PER_S
        self._tokens = min(self._tokens + earned, NEW_CALLS_BURST)
        self._tokens_at_ms = now_ms
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def resolve_ipv4(host: str) -> list[str]:
    """The host's IPv4 addresses; OSError when it has none. Blocks."""
    answers = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    return sorted({str(sockaddr[0]) for *_, sockaddr in answers})
