"""[sip]: where the gateway listens, whom it serves, and what it does with audio."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import phonenumbers
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from services.common.addresses import Address, HostPort
from services.common.config import Section
from sip_gateway.admission.config import AdmissionConfig
from sip_gateway.edge.config import EdgeConfig, WorkerPlace
from sip_gateway.media.settings import MediaConfig
from sip_gateway.nat.config import Nat, check_trunk, with_one_public_address
from sip_gateway.outbound.config import OutboundConfig
from sip_gateway.outbound.dialling import DiallingConfig
from sip_gateway.trunks.trunk import Transport, Trunk, TrunkKind

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Mapping

    from sip_gateway.media.jitter import JitterPolicy

_PORT_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


class Codec(StrEnum):
    """Encoding names as in SDP (RFC 3551)."""

    G722 = "G722"
    PCMA = "PCMA"
    PCMU = "PCMU"


class PortRange(NamedTuple):
    """UDP ports from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _parse_port_range(text: object) -> PortRange:
    if isinstance(text, PortRange):
        return text
    match = _PORT_RANGE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f'{text!r} is no range of ports; write "20000-20099"')
    ports = PortRange(int(match[1]), int(match[2]))
    if not 1024 <= ports.first <= ports.last <= 65535:
        raise ValueError(f"{ports} must lie within 1024-65535, the smaller port first")
    if ports.first % 2 or ports.last - ports.first + 1 < 16:
        raise ValueError(
            f"{ports}: begin with an even port and give at least 16: "
            "a call takes two, one for RTP and one for RTCP"
        )
    return ports


Ports = Annotated[PortRange, BeforeValidator(_parse_port_range), PlainSerializer(str)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """What an endpoint is made with. `screen` runs on the PJSIP thread and must not block."""

    listen: HostPort
    transports: tuple[Transport, ...]
    rtp_ports: PortRange
    codecs: tuple[Codec, ...]
    jitter: JitterPolicy
    jitter_of: Mapping[str, JitterPolicy] = field(default_factory=dict)  # by name of the account
    nat: Nat = field(default_factory=Nat)
    user_agent: str = "Landline"
    accept_transfers: bool = False
    edge_proxy: HostPort | None = None
    place: WorkerPlace | None = None
    nameservers: tuple[str, ...] = ()  # whom PJSIP asks; without any it blocks on names
    # Whose requests may reach PJSIP; None: everybody's.
    only_from: tuple[ipaddress.IPv4Network, ...] | None = None


class SipConfig(Section):
    """The gateway's section."""

    listen: Address = HostPort("127.0.0.1", 5060)
    transports: list[Transport] = Field(
        default_factory=lambda: [Transport.UDP, Transport.TCP], min_length=1
    )
    public_address: str | None = None  # short for nat.public_address
    nat: Nat = Field(default_factory=Nat)
    rtp_ports: Ports = PortRange(20000, 20399)
    # For calls that let us choose: G.722 first, because its 7 kHz are what recognition wants and
    # it costs no more bandwidth; then A-law, which G.711 makes the rule between countries.
    codecs: list[Codec] = Field(
        default_factory=lambda: [Codec.G722, Codec.PCMA, Codec.PCMU], min_length=1
    )
    media: MediaConfig = Field(default_factory=MediaConfig)
    recording: bool = True
    agent: Address  # of services/agent
    agent_timeout_ms: int = Field(default=3000, ge=100, le=30_000)
    transfer_allow: list[str] = Field(default_factory=list)
    dialling: DiallingConfig = DiallingConfig()
    admission: AdmissionConfig = AdmissionConfig()
    outbound: OutboundConfig = OutboundConfig()
    trunks: list[Trunk] = Field(default_factory=list)
    nameservers: list[Address] = Field(default_factory=list)  # empty: those of this machine
    country: str = ""  # ISO 3166: how numbers without a country code are read
    metrics: Address | None = None
    # How long live calls may go on after SIGTERM before the agent says goodbye.
    drain_limit_s: float = Field(default=120.0, ge=0, le=86_400)
    ledger: Path | None = None  # the supervisor's socket; None: this process counts alone
    calls: int | None = Field(default=None, ge=1)  # at a time; None: what one process holds
    edge: EdgeConfig = EdgeConfig()
    worker: WorkerPlace | None = None
    edge_proxy: Address | None = None  # our own edge: its word on a call's trunk is believed

    def media_of(self, trunk: Trunk) -> MediaConfig:
        """[sip.media] as it holds for a trunk."""
        return self.media.for_trunk(trunk.media)

    @model_validator(mode="before")
    @classmethod
    def _one_public_address(cls, data: Any) -> Any:
        return with_one_public_address(data)

    @model_validator(mode="after")
    def _consistent(self) -> SipConfig:
        _reject_repeats("transports", self.transports)
        _reject_repeats("codecs", self.codecs)
        _reject_repeats("trunks: name", [trunk.name for trunk in self.trunks])
        for trunk in self.trunks:
            if trunk.next_hop and trunk.transport not in self.transports:
                raise ValueError(
                    f"trunk {trunk.name!r} is reached over {trunk.transport}, "
                    f"which transports does not have"
                )
        _reject_overlaps(self.trunks)
        self._check_outbound()
        if self.country and self.country not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f'country {self.country!r}: write two capitals, such as "DE"')
        first, last = self.rtp_ports
        if Transport.UDP in self.transports and first <= self.listen.port <= last:
            raise ValueError(f"rtp_ports {self.rtp_ports} contain the listening port")
        self._check_tls_port()
        for trunk in self.trunks:
            self.media_of(trunk)
            check_trunk(trunk, self.nat.for_trunk(trunk), self.listen)
        for pattern in self.transfer_allow:
            if not pattern.startswith(("sip:", "tel:")):
                raise ValueError(
                    f"transfer_allow {pattern!r}: patterns match whole URIs, "
                    'such as "sip:*@192.0.2.10"'
                )
        return self

    def _check_tls_port(self) -> None:
        tls = self.edge.tls
        if tls is None or Transport.TCP not in self.transports:
            return
        hosts = {tls.listen.host, self.listen.host}
        one_host = len(hosts) == 1 or hosts & {"0.0.0.0", "*"}
        if one_host and tls.listen.port == self.listen.port != 0:
            raise ValueError(
                f"edge.tls.listen {tls.listen} and listen have the same port: TLS is TCP too, "
                "so give it one of its own, such as 5061"
            )

    def _check_outbound(self) -> None:
        servers = [trunk.name for trunk in self.trunks if trunk.next_hop is not None]
        for name in self.outbound.trunks:
            if name not in servers:
                raise ValueError(
                    f"outbound.trunks: {name!r} is no trunk with a server or registrar"
                )
        if self.outbound.listen is not None and not servers:
            raise ValueError("outbound.listen: no trunk has a server or registrar to call through")
        if self.outbound.listen is not None and not self.dialling.allow:
            raise ValueError(
                "outbound.listen: nothing may be dialled; name the numbers in [sip.dialling] allow"
            )

    @property
    def media_host(self) -> str:
        """Where RTP is received: behind an edge not where SIP is."""
        return self.worker.media_host if self.worker is not None else self.listen.host


def _reject_repeats(what: str, values: list[Any]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{what} {', '.join(repeated)}: given more than once")


def _reject_overlaps(trunks: list[Trunk]) -> None:
    peers = [trunk for trunk in trunks if trunk.kind is TrunkKind.PEER]
    for one, other in itertools.combinations(peers, 2):
        for mine, theirs in itertools.product(one.allow, other.allow):
            if mine.overlaps(theirs):
                raise ValueError(
                    f"trunks {one.name!r} and {other.name!r} both allow {mine} / {theirs}: "
                    "a call from there could belong to either"
                )
