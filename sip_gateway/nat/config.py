"""[sip.nat]: how the gateway is reached from behind, or by callers behind, address translation."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from services.common.addresses import Address
from services.common.config import Secret, Section
from sip_gateway.media.source_lock import SourceMode, SourcePolicy
from sip_gateway.nat.reach import is_on_internet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.common.addresses import HostPort
    from sip_gateway.trunks.trunk import Trunk


class TurnTransport(StrEnum):
    """How the gateway reaches the TURN server; what the server relays is UDP (RFC 8656)."""

    UDP = "udp"
    TCP = "tcp"


class Turn(Section):
    """[sip.nat.turn]: a relay for callers that cannot be reached directly."""

    server: Address
    transport: TurnTransport = TurnTransport.UDP
    username: str = ""
    password: Secret | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Turn:
        if not self.username or self.password is None:
            raise ValueError(
                f"turn server {self.server} needs username and password: "
                "a relay open to everybody would be used by everybody"
            )
        return self


class Nat(Section):
    """The section itself. What a trunk says in its own `nat` comes before it."""

    public_address: str | None = None  # what SDP and Contact say instead of our own address
    stun: list[Address] = Field(default_factory=list)
    ice: bool = False
    turn: Turn | None = None
    keepalive_s: int = Field(default=15, ge=0, le=600)  # SIP over UDP; 0 sends none
    rtp_keepalive: bool = True
    rewrite_contact: bool = True  # after REGISTER, as the registrar saw us
    rewrite_sdp: bool = False  # the address in SDP too
    answer_source: bool = True  # requests in a dialog go to where its INVITE came from
    source_lock: SourceMode = SourceMode.SIGNALLED
    rebind_after_ms: int = Field(default=2000, ge=500, le=60_000)

    @model_validator(mode="after")
    def _consistent(self) -> Nat:
        check_public_address(self.public_address)
        if self.turn is not None and not self.ice:
            raise ValueError(
                "turn without ice: the relay's address can only be told to the other side as an "
                "ICE candidate; set ice = true, or leave turn out"
            )
        if self.public_address and self.stun and not self.ice:
            raise ValueError(
                "public_address and stun: both answer the same question; keep public_address if "
                "it never changes, stun if it does"
            )
        return self

    def for_trunk(self, trunk: Trunk) -> Nat:
        """What holds for that trunk."""
        own = trunk.nat
        changes = own.model_dump(exclude_none=True, exclude={"stun", "turn"})
        if own.stun is False:
            changes["stun"] = []
        if own.turn is False:
            changes["turn"] = None
        if own.public_address == "":
            changes["public_address"] = None
        return self.model_copy(update=changes)

    def sources(
        self, trunk: Trunk, networks: Iterable[ipaddress.IPv4Network], sip_source: str
    ) -> SourcePolicy:
        """Whose RTP a call of `trunk` believes; its SIP came from `sip_source`."""
        return SourcePolicy(
            mode=self.source_lock,
            networks=(*networks, *trunk.media_allow),
            sip_source=sip_source,
            rebind_after_ms=self.rebind_after_ms,
        )


class TrunkNat(Section):
    """[sip.trunks.nat]: what is different for one trunk; what is left out is as in [sip.nat]."""

    public_address: str | None = None  # "" for none
    stun: bool | None = None  # False: do not ask the STUN servers for this trunk
    ice: bool | None = None
    turn: bool | None = None  # False: offer no relay
    keepalive_s: int | None = Field(default=None, ge=0, le=600)
    rtp_keepalive: bool | None = None
    rewrite_contact: bool | None = None
    rewrite_sdp: bool | None = None
    answer_source: bool | None = None
    source_lock: SourceMode | None = None
    rebind_after_ms: int | None = Field(default=None, ge=500, le=60_000)

    @model_validator(mode="after")
    def _consistent(self) -> TrunkNat:
        check_public_address(self.public_address or None)
        return self


def with_one_public_address(data: Any) -> Any:
    """A [sip] table in which `public_address` stands in `nat` too; ValueError if they differ."""
    if not isinstance(data, dict) or not data.get("public_address"):
        return data
    address = data["public_address"]
    nat = {"public_address": address, **(data.get("nat") or {})}
    if nat["public_address"] != address:
        raise ValueError("public_address and nat.public_address differ: keep the one in [sip.nat]")
    return {**data, "nat": nat}


def check_public_address(text: str | None) -> None:
    """ValueError unless it is None or an IPv4 address that a packet can be sent to."""
    if text is None:
        return
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError(f"public_address {text!r} must be an IPv4 address") from None
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        raise ValueError(f"public_address {text}: nobody can send anything there")


def check_trunk(trunk: Trunk, nat: Nat, listen: HostPort) -> None:
    """ValueError when a trunk on the internet would be told an address it cannot reach.

    `nat` is what holds for the trunk.
    """
    if not trunk.internet:
        return
    if nat.public_address and not is_on_internet(nat.public_address):
        raise ValueError(
            f"trunk {trunk.name!r} is on the internet, which cannot reach the private "
            f"public_address {nat.public_address}: give the address that your router has "
            "outside, or use stun, or leave out internet = true"
        )
    if nat.ice and not (nat.stun or nat.turn or is_on_internet(listen.host)):
        raise ValueError(
            f"trunk {trunk.name!r} is on the internet and uses ice without stun or turn: its "
            "candidates would be private addresses only; name a STUN or TURN server"
        )
    if listen.host in ("127.0.0.1", "localhost"):
        raise ValueError(
            f"trunk {trunk.name!r} is on the internet, but listen = {listen} hears this machine "
            'only: listen on "0.0.0.0:5060" or on the address towards the router'
        )


def is_probably_unreachable(trunk: Trunk, nat: Nat, listen: HostPort) -> bool:
    """Whether the trunk's media will have to find us by itself, which not every carrier does."""
    told = nat.public_address or nat.stun or nat.ice
    return trunk.internet and not told and not is_on_internet(listen.host)
