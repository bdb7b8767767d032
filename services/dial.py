"""Asks a running gateway to place a call, and follows it to its end (landline.gateway.v1)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from landline.gateway.v1 import gateway_pb2 as pb
from landline.gateway.v1 import gateway_pb2_grpc

from services.common.errors import LandlineError
from services.common.grpc_server import open_channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.common.addresses import HostPort
    from services.common.config import TlsConfig

_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What became of the call; `state` as in DialEvent, in small letters."""

    state: str
    call_id: str
    trunk: str
    sip_status: int
    result: str
    reason: str


async def dial(
    address: HostPort,
    tls: TlsConfig | None,
    request: pb.DialRequest,
    tell: Callable[[Step], None],
) -> bool:
    """Place a call and tell each step; True when it was answered. Cancelled, it is hung up.

    LandlineError when no gateway places calls at `address`.
    """
    answered, call_id = False, ""
    async with open_channel(address, tls, "gateway") as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        try:
            async for event in stub.Dial(request):
                step = _step(event)
                call_id = step.call_id
                answered = answered or step.state == "answered"
                tell(step)
        except asyncio.CancelledError:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.HangUp(pb.HangUpRequest(call_id=call_id))
            raise
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                raise LandlineError(error.details() or "the gateway refuses") from None
            raise LandlineError(
                f"no gateway places calls at {address} ({error.code().name}); "
                "is landline up, with [sip.outbound] listen?"
            ) from None
    return answered


def _step(event: pb.DialEvent) -> Step:
    name = pb.DialEvent.State.Name(event.state)
    return Step(
        state=name.removeprefix("STATE_").lower(),
        call_id=event.call_id,
        trunk=event.trunk,
        sip_status=event.sip_status,
        result=event.result,
        reason=event.reason,
    )
