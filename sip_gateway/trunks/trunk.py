"""[[sip.trunks]]: the SIP trunks and PBX extensions that calls come from."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from services.common.addresses import HostPort, parse_host_port
from services.common.config import Secret, Section
from sip_gateway.dialog.dtmf import DtmfMode
from sip_gateway.media.settings import TrunkMedia
from sip_gateway.nat.config import TrunkNat
from sip_gateway.trunks.limits import TrunkLimits

MIN_SESSION_EXPIRES_S = 90  # RFC 4028, 5


class Transport(StrEnum):
    UDP = "udp"
    TCP = "tcp"


class Srtp(StrEnum):
    """Encryption of audio with keys in SDP (SDES, RFC 4568)."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


# What may stand before the @ of a URI (RFC 3261, 25.1); PJSIP refuses the rest, "@" too.
_URI_USER = r"^[A-Za-z0-9_.!~*'()&=+,;?/%-]{1,128}$"


class TrunkKind(StrEnum):
    """How calls from a trunk are known to be its own."""

    REGISTRATION = "registration"  # we register there; its registrar's address may call
    PEER = "peer"  # its addresses may call


class DidSource(StrEnum):
    """Where in an INVITE the number stands that the caller dialled."""

    REQUEST_URI = "r-uri"
    TO = "to"
    P_CALLED_PARTY_ID = "p-called-party-id"  # RFC 7315, 4.2
    DIVERSION = "diversion"  # RFC 5806: the number that the call was diverted from


class DialFormat(StrEnum):
    """How a trunk wants numbers that are called through it."""

    PLUS_E164 = "+e164"  # +4930123456
    E164 = "e164"  # 4930123456
    AS_DIALLED = "as-dialled"


class RingWith(StrEnum):
    """What a caller gets until the agent answers."""

    RINGING = "180"  # his own network makes the tone
    EARLY_MEDIA = "183"  # we play it (RFC 3960)


class Server(NamedTuple):
    """A SIP server as configuration names it. Port 0: the one that DNS says (RFC 3263)."""

    host: str
    port: int

    def __str__(self) -> str:
        return str(HostPort(self.host, self.port)) if self.port else self.host


def _parse_server(text: object) -> Server:
    if isinstance(text, tuple):
        return Server(*text)
    if ":" in str(text):
        return Server(*parse_host_port(text))
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", str(text)):
        raise ValueError(f"{text!r} is no server; write a name, or host:port")
    return Server(str(text), 0)


ServerAddress = Annotated[Server, BeforeValidator(_parse_server), PlainSerializer(str)]


class Did(Section):
    """A number of a trunk, or a pattern (`*`, `?`) of numbers, and who answers it."""

    number: str = Field(pattern=r"^\S(.*\S)?$")
    agent: str = ""
    region: str = ""


def _parse_network(text: object) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IPv4 network such as 192.0.2.0/24: {error}") from None


Network = Annotated[ipaddress.IPv4Network, BeforeValidator(_parse_network), PlainSerializer(str)]


class Trunk(Section):
    """A SIP trunk or PBX extension that may send calls."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    kind: TrunkKind
    registrar: ServerAddress | None = None
    server: ServerAddress | None = None  # gets our calls; None: the registrar
    transport: Transport = Transport.UDP  # towards both
    username: str | None = Field(default=None, pattern=_URI_USER)
    password: Secret | None = None
    allow: list[Network] = Field(default_factory=list)
    agent: str = ""
    did_from: DidSource | None = None  # None: To where we register, else the Request-URI
    dids: list[Did] = Field(default_factory=list)
    dtmf: DtmfMode = DtmfMode.AUTO
    ring_with: RingWith = RingWith.RINGING
    caller_id: str = Field(default="", pattern=rf"^$|{_URI_USER}")  # ours, on calls out
    dial_as: DialFormat = DialFormat.PLUS_E164
    session_expires_s: int = Field(default=1800, ge=0, le=86_400)  # RFC 4028; 0: no session timer
    qualify_s: int = Field(default=30, ge=0, le=3600)  # an OPTIONS each so often; 0: none
    limits: TrunkLimits = TrunkLimits()
    media: TrunkMedia = TrunkMedia()
    internet: bool = False  # reached over the public internet
    nat: TrunkNat = Field(default_factory=TrunkNat)
    media_allow: list[Network] = Field(default_factory=list)  # audio may come from there too
    srtp: Srtp = Srtp.OFF

    @model_validator(mode="after")
    def _consistent(self) -> Trunk:
        credentials = (self.registrar, self.username, self.password)
        if self.kind is TrunkKind.REGISTRATION and not all(credentials):
            raise ValueError(
                f"trunk {self.name!r} registers, so it needs registrar, username and password"
            )
        if self.kind is TrunkKind.PEER and self.registrar:
            raise ValueError(
                f"trunk {self.name!r} is a peer: it is known by its address alone, so leave out "
                'registrar, or make it kind = "registration"'
            )
        if self.kind is TrunkKind.PEER and any(credentials) != all(
            (self.username, self.password, self.server)
        ):
            raise ValueError(
                f"trunk {self.name!r} is a peer: username and password are for the calls that we "
                "send it, so give both, and the server that asks for them"
            )
        if 0 < self.session_expires_s < MIN_SESSION_EXPIRES_S:
            raise ValueError(
                f"trunk {self.name!r}: session_expires_s is 0 or at least {MIN_SESSION_EXPIRES_S}"
            )
        if self.kind is TrunkKind.PEER and not self.allow:
            raise ValueError(
                f"trunk {self.name!r} is a peer without allow: name the networks it calls from"
            )
        numbers = [did.number for did in self.dids]
        repeated = sorted({number for number in numbers if numbers.count(number) > 1})
        if repeated:
            raise ValueError(f"trunk {self.name!r}: dids {', '.join(repeated)} given twice")
        return self

    @property
    def next_hop(self) -> Server | None:
        """Where requests to this trunk go; None when it only calls us."""
        return self.server or self.registrar

    @property
    def did_source(self) -> DidSource:
        """Where the dialled number is. A registrar sends calls to our Contact, so not there."""
        if self.did_from is not None:
            return self.did_from
        registers = self.kind is TrunkKind.REGISTRATION
        return DidSource.TO if registers else DidSource.REQUEST_URI
