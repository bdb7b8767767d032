"""[[sip.trunks]]: the SIP trunks and PBX extensions that calls come from."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from services.common.addresses import Address
from services.common.config import Secret, Section
from sip_gateway.limits import TrunkLimits


class Transport(StrEnum):
    UDP = "udp"
    TCP = "tcp"


class TrunkKind(StrEnum):
    """How calls from a trunk are known to be its own."""

    REGISTRATION = "registration"  # we register there; its registrar's address may call
    PEER = "peer"  # its addresses may call


def _parse_network(text: object) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IPv4 network such as 192.0.2.0/24: {error}") from None


Network = Annotated[ipaddress.IPv4Network, BeforeValidator(_parse_network), PlainSerializer(str)]


class Trunk(Section):
    """A SIP trunk or PBX extension that may send calls."""

    name: str
    kind: TrunkKind
    registrar: Address | None = None
    transport: Transport = Transport.UDP  # towards the registrar
    username: str | None = None
    password: Secret | None = None
    allow: list[Network] = Field(default_factory=list)
    agent: str = ""
    limits: TrunkLimits = TrunkLimits()

    @model_validator(mode="after")
    def _consistent(self) -> Trunk:
        credentials = (self.registrar, self.username, self.password)
        if self.kind is TrunkKind.REGISTRATION and not all(credentials):
            raise ValueError(
                f"trunk {self.name!r} registers, so it needs registrar, username and password"
            )
        if self.kind is TrunkKind.PEER and any(credentials):
            raise ValueError(
                f"trunk {self.name!r} is a peer: it is known by its address alone, so leave out "
                'registrar, username and password, or make it kind = "registration"'
            )
        if self.kind is TrunkKind.PEER and not self.allow:
            raise ValueError(
                f"trunk {self.name!r} is a peer without allow: name the networks it calls from"
            )
        return self
