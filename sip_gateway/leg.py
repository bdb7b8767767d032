"""One INVITE dialog and its media, as seen from the event loop.

A `Leg` is a handle: its methods may be used on the event loop only, and its PJSIP object lives and
dies on the PJSIP thread (see endpoint.py). Callbacks do nothing but post events.
"""

from __future__ import annotations

import asyncio
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pjsua2 as pj
import structlog

from services.common.errors import LandlineError
from sip_gateway.dialog import dtmf
from sip_gateway.dialog.dtmf import DtmfMethod
from sip_gateway.events import LegEnded
from sip_gateway.media.source_lock import NOBODY_LOCKED, SourcePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sip_gateway.config import EndpointConfig
    from sip_gateway.events import LegEvent, Refusal
    from sip_gateway.media.jitter import StreamStatistics
    from sip_gateway.media.port import MediaPort, MediaTap
    from sip_gateway.pj_call import PjCall

_log = structlog.get_logger()
_ResultT = TypeVar("_ResultT")


class LegError(LandlineError):
    """PJSIP refused an operation, or the leg has ended."""


class Host(Protocol):
    """What legs need of the endpoint that they live in. `submit` and `post` are for any thread."""

    @property
    def config(self) -> EndpointConfig: ...

    async def submit(self, function: Callable[[], _ResultT]) -> _ResultT: ...

    def post(self, function: Callable[..., object], *arguments: Any) -> None: ...

    def guard(self, callback: Callable[[], None]) -> None: ...

    def call_of(self, leg: Leg) -> PjCall | None: ...

    def leg_for_transfer(self, account: Any) -> tuple[PjCall, Leg]: ...

    def refuses_replacement(self, leg: Leg, rdata: Any) -> Refusal | None: ...

    def replace(self, leg: Leg, call: PjCall) -> None: ...

    def release_replaced(self, call: PjCall) -> None: ...

    def release(self, leg: Leg) -> None: ...

    def believe_peers(self, addresses: Iterable[str]) -> None: ...

    def take_port(self) -> MediaPort: ...

    def give_port_back(self, port: MediaPort) -> None: ...


class Leg:
    """The handle of a leg. `on_event` is called on the event loop."""

    def __init__(self, endpoint: Host, number: int) -> None:
        self._endpoint = endpoint
        self.number = number
        self.tap: MediaTap | None = None
        self.sources: SourcePolicy = NOBODY_LOCKED
        self.jitter = endpoint.config.jitter
        self.trunk = ""  # whose it is
        self.on_event: Callable[[LegEvent], None] = _log_unexpected
        self.ended = False

    async def answer(self, sip_status: int = 200) -> None:
        """Send a provisional or the final answer to their INVITE."""
        await self._do(lambda call: call.send_answer(sip_status))

    async def refuse(self, refusal: Refusal) -> None:
        """Send a final answer that is not 2xx."""
        await self._do(lambda call: call.send_refusal(refusal))

    async def hang_up(self, *, reason: str = "") -> None:
        """BYE, CANCEL or a refusal, as the state wants; nothing when the leg has ended."""
        if not self.ended:
            await self._do(lambda call: call.send_hang_up(reason), ended_is_error=False)

    async def send_dtmf(self, digits: str, method: DtmfMethod = DtmfMethod.RFC4733) -> None:
        """Send keys of 120 ms each: events are queued at once, INFOs go out one by one."""
        if not dtmf.valid_digits(digits):
            raise LegError(f"{digits!r} are not telephone keys; use 0-9 * # A-D")
        if method is DtmfMethod.RFC4733:
            await self._do(lambda call: call.send_keys(digits.upper(), method))
            return
        for digit in digits.upper():
            await self._do(methodcaller("send_keys", digit, method))
            await asyncio.sleep(dtmf.sending_ms(digit) / 1000)

    async def transfer(self, target: str) -> None:
        """Send a REFER to `target`; what becomes of it comes as TransferProgressed."""
        await self._do(lambda call: call.xfer(target, pj.CallOpParam(True)))

    async def transfer_to(self, consulted: Leg) -> None:
        """Send a REFER that puts the other side in our place on `consulted` (RFC 3891)."""

        def refer(call: PjCall) -> None:
            other = self._endpoint.call_of(consulted)
            if other is None:
                raise LegError("the consulted side has hung up")
            call.xferReplaces(other, pj.CallOpParam(True))

        await self._do(refer)

    async def hold(self, on: bool) -> None:
        """Hold the other side by re-INVITE, or take it back."""
        await self._do(lambda call: call.send_hold(on))

    async def connect_media(self) -> None:
        """Connect what runs already to `tap`, and tell it as MediaStarted once more."""
        await self._do(lambda call: call.tell_media())

    async def statistics(self) -> StreamStatistics | None:
        """Of the stream that runs now; None while none does."""
        statistics: StreamStatistics | None = await self._do(lambda call: call.read_statistics())
        return statistics

    def deliver(self, event: LegEvent) -> None:
        """Hand an event to the owner. Called on the event loop."""
        if isinstance(event, LegEnded):
            self.ended = True
        self.on_event(event)

    async def _do(self, operation: Callable[[PjCall], Any], *, ended_is_error: bool = True) -> Any:
        def on_pjsip_thread() -> Any:
            call = self._endpoint.call_of(self)
            if call is None:
                if ended_is_error:
                    raise LegError("the call has ended")
                return None
            return operation(call)

        return await self._endpoint.submit(on_pjsip_thread)


def _log_unexpected(event: LegEvent) -> None:
    _log.debug("leg_event_without_owner", kind=type(event).__name__)
