"""The conversations of this process: takes calls, or says why not."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from services.agent.clients.audit import AuditUnavailableError
from services.agent.clients.leases import LeaseError
from services.agent.session import Session, Surroundings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.agent.clients.leases import Leases
    from services.agent.line import Line, Started


class CallRefusedError(Exception):
    """The call cannot be taken now; the message says why in plain words.

    `full`: everything works, and all places are in use.
    """

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class ConversationService:
    """Knows the agents by name; the first is the default."""

    def __init__(self, agents: dict[str, Surroundings], max_calls: int, leases: Leases) -> None:
        self._agents = agents
        self._leases = leases
        self._default = next(iter(agents))
        self._max_calls = max_calls
        self._active = 0

    @asynccontextmanager
    async def admit(self, started: Started) -> AsyncIterator[None]:
        """Hold a place here and in each part that the conversation needs, the call on record.

        CallRefusedError when that cannot be.
        """
        if self._active >= self._max_calls:
            raise CallRefusedError(f"all {self._max_calls} conversations are in use", full=True)
        self._active += 1
        try:
            async with AsyncExitStack() as places:
                try:
                    await places.enter_async_context(self._leases.hold(started.call_id))
                except LeaseError as error:
                    raise CallRefusedError(str(error), full=error.full) from error
                await self._put_on_record(started)
                yield
        finally:
            self._active -= 1

    async def _put_on_record(self, started: Started) -> None:
        around = self._around(started)
        try:
            await around.audit.record_now(
                started.call_id,
                "call_started",
                caller=started.caller,
                callee=started.callee,
                trunk=started.trunk,
                codec=started.codec,
                region=started.region,
                direction=started.direction,
                agent=around.box.agent.name,
            )
        except AuditUnavailableError as error:
            raise CallRefusedError(str(error)) from error

    async def converse(self, line: Line, started: Started) -> None:
        """Hold the conversation until the call is over."""
        await Session(line, started, self._around(started)).run()

    def _around(self, started: Started) -> Surroundings:
        name = started.agent or self._default
        if name not in self._agents:
            known = ", ".join(self._agents)
            raise CallRefusedError(f"there is no agent {name!r}; known: {known}")
        return self._agents[name]
