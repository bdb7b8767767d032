"""Where the requests of one trunk go: its server's addresses, one at a time (RFC 3263, 4.3)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

import structlog

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.trunks.resolving import UnknownServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sip_gateway.events import OptionsAnswered
    from sip_gateway.trunks.resolving import Resolver, Target
    from sip_gateway.trunks.trunk import Server, Trunk

_log = structlog.get_logger()
_ANSWER_S = 4.0  # PJSIP itself waits 32 s for an answer over UDP
_SOON_S = 2.0


class Line(Protocol):
    """What a trunk's account can do, from the event loop."""

    async def route_by(self, trunk: str, route: str) -> None: ...

    async def send_options(self, trunk: str, uri: str) -> None: ...


def is_out_of_reach(sip_status: int) -> bool:
    """True for an answer that another address may better (RFC 3263, 4.3): none, or a broken one."""
    return sip_status == 408 or 500 <= sip_status < 600


class NextHop:
    """The addresses of a trunk's server, and the one that is used now."""

    def __init__(
        self,
        trunk: Trunk,
        server: Server,
        resolver: Resolver,
        line: Line,
        *,
        learn: Callable[[str, Iterable[str]], None],
    ) -> None:
        """`learn(trunk, ips)` hears of every address found."""
        self._trunk = trunk
        self._server = server
        self._resolver = resolver
        self._line = line
        self._learn = learn
        self._log = _log.bind(trunk=trunk.name, server=str(server))
        self._targets: list[Target] = []
        self._at = 0
        self.reachable: bool | None = None  # None: not known

    @property
    def current(self) -> Target | None:
        return self._targets[self._at] if self._targets else None

    @property
    def uri(self) -> str:
        """The server's own URI, as it is written into requests."""
        return f"sip:{self._server}"

    async def find(self) -> Target:
        """Ask DNS again and use the best address, or the one in use while it is still named.

        What was known stays in use when DNS does not answer; UnknownServerError when nothing was.
        """
        try:
            found = await self._resolver.targets(self._server, self._trunk.transport)
        except UnknownServerError as error:
            if not self._targets:
                raise
            self._log.warning("server_not_found", reason=str(error), keeping=str(self.current))
            found = self._targets
        before = self.current
        self._targets = found
        self._at = found.index(before) if before in found else 0
        self._learn(self._trunk.name, [target.ip for target in found])
        await self._use()
        return found[self._at]

    def advance(self) -> bool:
        """Use the next address from the next request on; False when that is the first one again."""
        if len(self._targets) < 2:
            return False
        self._at = (self._at + 1) % len(self._targets)
        self._log.info("next_address", target=str(self.current))
        return self._at != 0

    async def use_next(self) -> bool:
        """The same, at once."""
        more = self.advance()
        await self._use()
        return more

    async def _use(self) -> None:
        target = self.current
        if target is not None:
            await self._line.route_by(self._trunk.name, target.route())


class Qualifier:
    """Asks a trunk's server by OPTIONS whether it is there, and tells when that changes."""

    def __init__(self, trunk: Trunk, hop: NextHop, line: Line) -> None:
        self._trunk = trunk
        self._hop = hop
        self._line = line
        self._log = _log.bind(trunk=trunk.name)
        self._answer: asyncio.Future[OptionsAnswered] | None = None
        self._again = asyncio.Event()

    async def run(self) -> None:
        """For ever, each `qualify_s`; sooner after a failure."""
        while True:
            reachable, why = await self._ask()
            self._note(reachable, why)
            self._again.clear()
            pause_s = self._trunk.qualify_s if reachable else min(_SOON_S, self._trunk.qualify_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), pause_s)

    def ask_now(self) -> None:
        """Do not wait for the next time."""
        self._again.set()

    def answered(self, event: OptionsAnswered) -> None:
        """What became of the OPTIONS."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(event)

    async def _ask(self) -> tuple[bool, str]:
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await self._hop.find()
            await self._line.send_options(self._trunk.name, self._hop.uri)
            answer = await asyncio.wait_for(self._answer, _ANSWER_S)
        except TimeoutError:
            await self._hop.use_next()
            return False, "no answer to OPTIONS"
        except LandlineError as error:
            return False, str(error)
        if not answer.by_peer or answer.sip_status == 503:
            await self._hop.use_next()
            return False, f"OPTIONS got {answer.sip_status}"
        return True, f"OPTIONS got {answer.sip_status}"

    def _note(self, reachable: bool, why: str) -> None:
        if reachable != self._hop.reachable:
            say = self._log.info if reachable else self._log.error
            target = str(self._hop.current) if self._hop.current else ""
            say("trunk_reachable" if reachable else "trunk_unreachable", reason=why, target=target)
        self._hop.reachable = reachable
        telemetry.REACHABLE.labels(self._trunk.name).set(int(reachable))
