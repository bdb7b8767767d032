"""The service that places calls (landline.gateway.v1), in a worker or in front of several."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from landline.gateway.v1 import gateway_pb2 as pb
from landline.gateway.v1 import gateway_pb2_grpc

from services.common.grpc_server import open_channel, start_server
from sip_gateway.outbound.origination import DialEvent, DialOrder, DialState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.common.addresses import HostPort
    from services.common.config import TlsConfig
    from services.common.grpc_server import GrpcServer
    from sip_gateway.outbound.origination import Outbound

_STATES = {
    DialState.TRYING: pb.DialEvent.STATE_TRYING,
    DialState.RINGING: pb.DialEvent.STATE_RINGING,
    DialState.ANSWERED: pb.DialEvent.STATE_ANSWERED,
    DialState.BUSY: pb.DialEvent.STATE_BUSY,
    DialState.NO_ANSWER: pb.DialEvent.STATE_NO_ANSWER,
    DialState.DECLINED: pb.DialEvent.STATE_DECLINED,
    DialState.DENIED: pb.DialEvent.STATE_DENIED,
    DialState.FAILED: pb.DialEvent.STATE_FAILED,
    DialState.ENDED: pb.DialEvent.STATE_ENDED,
}
_MOST_HEADERS = 16


async def serve(
    listen: HostPort, tls: TlsConfig | None, servicer: gateway_pb2_grpc.GatewayServicer
) -> GrpcServer:
    """Listen for orders; ConfigError when the address cannot be had."""
    return await start_server(
        listen,
        tls,
        lambda server: gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server),
    )


class DialServicer(gateway_pb2_grpc.GatewayServicer):
    """Places the calls itself."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def Dial(  # noqa: N802 - named by the protocol
        self, request: pb.DialRequest, context: Any
    ) -> AsyncIterator[pb.DialEvent]:
        order = await _order(request, context)
        events: asyncio.Queue[DialEvent | None] = asyncio.Queue()
        dialling = asyncio.create_task(self._outbound.dial(order, events.put_nowait))
        dialling.add_done_callback(lambda _task: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield _event(event)
            await dialling
        finally:
            dialling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dialling

    async def HangUp(  # noqa: N802
        self, request: pb.HangUpRequest, context: Any
    ) -> pb.HangUpResponse:
        if not await self._outbound.hang_up(request.call_id):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no call {request.call_id}")
        return pb.HangUpResponse()


class DialRelay(gateway_pb2_grpc.GatewayServicer):
    """Hands each order to the worker with the most room."""

    def __init__(
        self,
        with_room: Callable[[], list[HostPort]],
        everyone: Callable[[], list[HostPort]],
        tls: TlsConfig | None,
    ) -> None:
        """`with_room()` are the services of workers that have room, the emptiest first."""
        self._with_room = with_room
        self._everyone = everyone
        self._tls = tls

    async def Dial(  # noqa: N802
        self, request: pb.DialRequest, context: Any
    ) -> AsyncIterator[pb.DialEvent]:
        workers = self._with_room()
        if not workers:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "every line is busy")
        async with open_channel(workers[0], self._tls, "worker") as channel:
            call = gateway_pb2_grpc.GatewayStub(channel).Dial(request)
            try:
                async for event in call:
                    yield event
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "the worker has ended")
            finally:
                call.cancel()

    async def HangUp(  # noqa: N802
        self, request: pb.HangUpRequest, context: Any
    ) -> pb.HangUpResponse:
        for worker in self._everyone():  # also those that are full or draining
            async with open_channel(worker, self._tls, "worker") as channel:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    stub = gateway_pb2_grpc.GatewayStub(channel)
                    return pb.HangUpResponse.FromString(
                        (await stub.HangUp(request)).SerializeToString()
                    )
        await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no call {request.call_id}")
        raise AssertionError("unreachable")


async def _order(request: pb.DialRequest, context: Any) -> DialOrder:
    """What is asked for; the call is aborted for what could break out of a SIP header."""
    problem = _problem(request)
    if problem:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
    return DialOrder(
        number=request.number,
        agent=request.agent,
        region=request.region,
        caller_id=request.caller_id,
        trunks=tuple(request.trunks),
        ring_s=request.ring_s,
        headers=dict(request.headers),
    )


def _problem(request: pb.DialRequest) -> str:
    if not request.number.strip():
        return "number is empty"
    if len(request.headers) > _MOST_HEADERS:
        return f"at most {_MOST_HEADERS} headers"
    for name, value in request.headers.items():
        if not name.lower().startswith("x-") or not name.replace("-", "").isalnum():
            return f"header {name!r}: only X-* headers may be given"
        if not (name + value).isprintable():
            return f"header {name!r} contains what no header may"
    return ""


def _event(event: DialEvent) -> pb.DialEvent:
    return pb.DialEvent(
        state=_STATES[event.state],
        call_id=event.call_id,
        trunk=event.trunk,
        sip_status=event.sip_status,
        result=event.result,
        reason=event.reason,
    )
