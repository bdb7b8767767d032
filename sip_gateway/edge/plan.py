"""What the edge is made of: addresses, trunks, limits and seats for workers. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sip_gateway.trunks.trunk import Server, Transport, Trunk, TrunkKind

if TYPE_CHECKING:
    import ipaddress
    from pathlib import Path

    from services.common.addresses import HostPort
    from sip_gateway.edge.config import EdgeConfig

CLOSED = 10_000  # a load that no worker reaches: it takes no calls


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTrunk:
    """One trunk as the edge knows it; `key` names it in tables and as our Contact's user."""

    key: str
    name: str
    kind: TrunkKind
    networks: tuple[ipaddress.IPv4Network, ...] = ()
    username: str = ""
    password: str = ""
    registrar: Server | None = None
    transport: Transport = Transport.UDP

    @property
    def registers(self) -> bool:
        return self.registrar is not None

    def __repr__(self) -> str:  # it may end up in a log
        return f"EdgeTrunk({self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A worker's place at the edge. `name` is new with each process: old Contacts lead nowhere."""

    number: int  # from 1
    name: str
    address: HostPort
    load: int  # legs, or CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePlan:
    """Everything of the edge that stays the same while it runs."""

    config: EdgeConfig
    outside: HostPort  # where peers reach it
    advertised: HostPort  # what it writes into messages
    inside: HostPort  # where the workers reach it
    transports: tuple[Transport, ...]
    trunks: tuple[EdgeTrunk, ...]
    workers: int
    slots: int  # conversations in each worker
    folder: Path  # of the generated files and sockets


def edge_trunks(trunks: list[Trunk]) -> tuple[EdgeTrunk, ...]:
    """The trunks with their passwords read; ConfigError for a secret that is not there."""
    return tuple(
        EdgeTrunk(
            key=f"trunk{number}",
            name=trunk.name,
            kind=trunk.kind,
            networks=tuple(trunk.allow),
            username=trunk.username or "",
            password=trunk.password.read() if trunk.password else "",
            registrar=trunk.registrar if trunk.kind is TrunkKind.REGISTRATION else None,
            transport=trunk.transport,
        )
        for number, trunk in enumerate(trunks, start=1)
    )
