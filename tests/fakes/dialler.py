"""Gives a gateway orders to call, over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import grpc.aio
from landline.gateway.v1 import gateway_pb2 as pb
from landline.gateway.v1 import gateway_pb2_grpc

from tests.fakes.gateway_process import GatewayProcess

WAIT_S = 12.0


class Dialling:
    """One order; `events` is what became of it so far."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.events: list[pb.DialEvent] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @property
    def states(self) -> list[str]:
        name = pb.DialEvent.State.Name
        return [name(event.state).removeprefix("STATE_").lower() for event in self.events]

    async def until(self, state: str) -> pb.DialEvent:
        """The event of that state; TimeoutError with what came instead."""
        try:
            async with asyncio.timeout(WAIT_S):
                while state not in self.states:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"no {state} in {self.events}") from None
        return self.events[self.states.index(state)]

    async def end(self) -> pb.DialEvent:
        """The last event."""
        await asyncio.wait_for(self._task, WAIT_S)
        return self.events[-1]

    def give_up(self) -> None:
        self._call.cancel()

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async for event in self._call:
                self.events.append(event)
                self._changed.set()


class Dialler:
    """`async with Dialler(gateway) as dialler:`"""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway

    async def __aenter__(self) -> Self:
        port = (await self._gateway.wait_for_log("dialler"))["port"]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = gateway_pb2_grpc.GatewayStub(self._channel)
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._channel.close()

    def dial(self, number: str, **request: Any) -> Dialling:
        return Dialling(self._stub.Dial(pb.DialRequest(number=number, **request)))

    async def hang_up(self, call_id: str) -> None:
        await self._stub.HangUp(pb.HangUpRequest(call_id=call_id))
