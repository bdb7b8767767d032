"""Places for a call in every part that a conversation needs, all or none."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog
from landline.lease.v1 import lease_pb2, lease_pb2_grpc

from services.agent.clients.llm import LlmUnavailableError
from services.common.errors import LandlineError
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from services.agent.clients.llm import LlmClient

    Hold = grpc.aio.UnaryStreamCall[lease_pb2.HoldRequest, lease_pb2.Held]

_BROKEN = Counter(
    "landline_agent_leases_broken", "Places taken again after a service went", ["part"]
)
_ANSWER_S = 1.0
_RETRY_S = 0.5
_log = structlog.get_logger()


class LeaseError(LandlineError):
    """A part has no place for the call. `full`: it works, and all its places are in use."""

    def __init__(self, message: str, *, full: bool) -> None:
        super().__init__(message)
        self.full = full


class Leases:
    """`parts`: channels by the name that is shown when one is missing."""

    def __init__(self, parts: Mapping[str, grpc.aio.Channel], llm: LlmClient) -> None:
        self._parts = {name: lease_pb2_grpc.LeasesStub(channel) for name, channel in parts.items()}
        self._llm = llm

    @asynccontextmanager
    async def hold(self, call_id: str) -> AsyncIterator[None]:
        """Hold a place in each part, and know that the model answers; LeaseError names who cannot.

        A part that dies later costs no call its life: its place is taken again when it is back.
        """
        held: dict[str, Hold] = {}
        keepers: list[asyncio.Task[None]] = []
        try:
            takes = (self._take(name, call_id, held) for name in self._parts)
            for result in await asyncio.gather(*takes, self._ask_llm(), return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
            keepers = [asyncio.create_task(self._keep(name, call_id, held)) for name in self._parts]
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            if keepers:
                await asyncio.wait(keepers)
            for hold in held.values():
                hold.cancel()

    async def _take(self, name: str, call_id: str, held: dict[str, Hold]) -> None:
        """Put a place into `held`; LeaseError when there is none."""
        request = lease_pb2.HoldRequest(call_id=call_id)
        hold: Hold = self._parts[name].Hold(request, wait_for_ready=False)
        held[name] = hold
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await hold.read()
        except grpc.aio.AioRpcError as error:
            full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            what = error.details() if full else f"cannot be reached: {error.details()}"
            raise LeaseError(f"{name}: {what}", full=full) from None
        except TimeoutError:
            hold.cancel()
            raise LeaseError(f"{name}: no answer within {_ANSWER_S:.0f} s", full=False) from None
        if answer is grpc.aio.EOF:
            raise LeaseError(f"{name}: it gave no place", full=False)

    async def _ask_llm(self) -> None:
        try:
            await self._llm.probe()
        except LlmUnavailableError as error:
            raise LeaseError(f"language model: {error}", full=False) from None

    async def _keep(self, name: str, call_id: str, held: dict[str, Hold]) -> None:
        """Until cancelled: take the place again whenever the service went away with it."""
        while True:
            try:
                await held[name].read()  # nothing more is said: it returns when the stream ends
            except grpc.aio.AioRpcError as error:
                _log.warning("lease_broken", part=name, call_id=call_id, reason=error.details())
            _BROKEN.labels(part=name).inc()
            await self._take_again(name, call_id, held)

    async def _take_again(self, name: str, call_id: str, held: dict[str, Hold]) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._take(name, call_id, held)
            except LeaseError as error:
                _log.debug("lease_not_yet_back", part=name, call_id=call_id, reason=str(error))
            else:
                return
