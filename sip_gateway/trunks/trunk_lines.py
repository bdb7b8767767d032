"""Every trunk of a worker: its account, its registration, and whether it can be reached."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from sip_gateway.trunks import accounts
from sip_gateway.trunks.next_hop import NextHop, Qualifier
from sip_gateway.trunks.registration import Registration
from sip_gateway.trunks.trunk import TrunkKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sip_gateway.admission.admission import Admission
    from sip_gateway.endpoint import Endpoint
    from sip_gateway.trunks.resolving import Resolver
    from sip_gateway.trunks.trunk import Trunk

_log = structlog.get_logger()


class TrunkLines:
    """Keeps the trunks in order from `start` to `stop`. The gateway stays up whatever they do.

    `behind_edge`: the edge registers, and knows who can be reached.
    """

    def __init__(
        self,
        trunks: Iterable[Trunk],
        endpoint: Endpoint,
        admission: Admission,
        resolver: Resolver,
        *,
        behind_edge: bool,
    ) -> None:
        self._trunks = tuple(trunks)
        self._endpoint = endpoint
        self._admission = admission
        self._resolver = resolver
        self._behind_edge = behind_edge
        self.hops: dict[str, NextHop] = {}
        self._registrations: dict[str, Registration] = {}
        self._qualifiers: dict[str, Qualifier] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Add the accounts, and begin to register and to ask; ConfigError without a password."""
        for trunk in self._trunks:
            await self._add(trunk)
        for registration in self._registrations.values():
            registration.start()
        self._tasks = [asyncio.create_task(item.run()) for item in self._qualifiers.values()]

    def renew(self) -> None:
        """Find, register and ask all again now: the network has changed."""
        _log.info("trunks_renewed")
        for registration in self._registrations.values():
            registration.renew()
        for qualifier in self._qualifiers.values():
            qualifier.ask_now()

    async def unregister(self) -> None:
        """Take the registrations back and wait a moment for the answers."""
        await asyncio.gather(*(item.stop() for item in self._registrations.values()))

    async def stop(self) -> None:
        await self.unregister()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._resolver.close()

    async def route_by(self, trunk: str, route: str) -> None:
        """Send what begins from now on that way; an edge leaves no choice."""
        if not self._behind_edge:
            await self._endpoint.with_account(trunk, lambda account: account.route_by(route))

    async def send_options(self, trunk: str, uri: str) -> None:
        await self._endpoint.with_account(trunk, lambda account: account.send_options(uri))

    async def _add(self, trunk: Trunk) -> None:
        server, registration, qualifier = trunk.next_hop, None, None
        if server is not None:
            registers = trunk.kind is TrunkKind.REGISTRATION  # a peer's list is its own
            learn = self._admission.learn_registrar if registers else lambda _trunk, _ips: None
            hop = NextHop(trunk, server, self._resolver, self, learn=learn)
            self.hops[trunk.name] = hop
            if not self._behind_edge and registers:
                registration = Registration(trunk, self._endpoint, self._admission, hop)
                self._registrations[trunk.name] = registration
            if not self._behind_edge and trunk.qualify_s:
                qualifier = Qualifier(trunk, hop, self)
                self._qualifiers[trunk.name] = qualifier
        make = accounts.trunk_account(
            trunk,
            on_registration=registration.on_changed if registration else lambda _event: None,
            on_options=qualifier.answered if qualifier else lambda _event: None,
        )
        await self._endpoint.add_account(trunk.name, make)
