"""What placing a call needs of a worker: a line, an INVITE, and an agent for who answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sip_gateway.call import Call, new_call_id
from sip_gateway.events import LegConfirmed, MediaStarted
from sip_gateway.trunks.limits import Direction

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sip_gateway.admission.admission import Admission
    from sip_gateway.call import CallContext
    from sip_gateway.config import SipConfig
    from sip_gateway.ending import Ending
    from sip_gateway.endpoint import Endpoint
    from sip_gateway.events import LegEvent
    from sip_gateway.leg import Leg
    from sip_gateway.outbound.origination import Calling
    from sip_gateway.trunks.trunk import Trunk


class WorkerLines:
    """Implements outbound.Switchboard."""

    def __init__(
        self,
        config: SipConfig,
        endpoint: Endpoint,
        admission: Admission,
        context: CallContext,
        *,
        legs: Callable[[], int],
        adopt: Callable[[Call], asyncio.Task[Ending]],
    ) -> None:
        """`legs()` are those that PJSIP holds; `adopt(call)` runs a call among the others."""
        self._config = config
        self._endpoint = endpoint
        self._admission = admission
        self._context = context
        self._legs = legs
        self._adopt = adopt

    def new_call_id(self) -> str:
        return new_call_id(self._context.clock.wall_ms())

    def has_room(self) -> bool:
        return not self._admission.stopping and self._legs() < self._admission.limit

    async def invite(
        self, trunk: Trunk, uri: str, call: Calling, on_event: Callable[[LegEvent], None]
    ) -> Leg:
        host = trunk.registrar.host if trunk.registrar else self._endpoint.contact_host
        caller = f"<sip:{call.caller_id}@{host}>" if call.caller_id else ""
        networks = self._admission.networks_of(trunk.name)
        return await self._endpoint.dial(
            uri,
            account=trunk.name,
            tap=None,
            on_event=on_event,
            caller=caller,
            headers=call.order.headers,
            sources=self._config.nat.for_trunk(trunk).sources(trunk, networks, ""),
        )

    def connect(
        self, leg: Leg, trunk: Trunk, call: Calling, since: list[LegEvent]
    ) -> asyncio.Future[Ending]:
        codecs = [event.codec for event in since if isinstance(event, MediaStarted)]
        answered = Call(
            leg,
            call.as_invite(),
            trunk,
            call.route(trunk),
            self._context,
            direction=Direction.OUTBOUND,
            call_id=call.call_id,
            codec=codecs[-1] if codecs else "",
        )
        for event in since:
            if not isinstance(event, LegConfirmed):
                leg.on_event(event)
        return self._adopt(answered)
