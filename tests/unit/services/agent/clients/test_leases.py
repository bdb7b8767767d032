"""A call holds a place in every part, or in none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from landline.lease.v1 import lease_pb2_grpc

from services.agent.clients.leases import LeaseError, Leases
from services.agent.clients.llm import LlmClient
from services.common.clock import ManualClock
from services.common.leases import LeaseServicer


class Part:
    """A service with places, on a port that stays the same when it is started again."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.port = 0
        self.servicer = LeaseServicer(capacity)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.servicer = LeaseServicer(self.capacity)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        lease_pb2_grpc.add_LeasesServicer_to_server(self.servicer, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"127.0.0.1:{self.port}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )


class Model:
    """An HTTP server that answers every request with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        writer.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - it happens on the other side of a socket
            await asyncio.sleep(0.01)


class World:
    def __init__(self, stt: Part, tts: Part, model: Model, leases: Leases, clock: ManualClock):
        self.stt, self.tts, self.model, self.leases, self.clock = stt, tts, model, leases, clock

    @property
    def in_use(self) -> tuple[int, int]:
        return self.stt.servicer.in_use, self.tts.servicer.in_use


@pytest.fixture
async def world() -> AsyncIterator[World]:
    stt, tts, model, clock = Part(2), Part(3), Model(), ManualClock()
    await stt.start()
    await tts.start()
    listening = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    model.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    llm = LlmClient(model.url, None, clock, retry_s=1.0)
    channels = {"speech recognition": stt.channel(), "speech": tts.channel()}
    async with listening:
        yield World(stt, tts, model, Leases(channels, llm), clock)
        await llm.close()
        for channel in channels.values():
            await channel.close()
        await stt.stop()
        await tts.stop()


async def test_a_call_holds_its_places_until_it_ends(world: World) -> None:
    async with world.leases.hold("a"), world.leases.hold("b"):
        assert world.in_use == (2, 2)
    await until(lambda: world.in_use == (0, 0))


async def test_a_full_part_is_named_and_the_others_are_given_back(world: World) -> None:
    async with AsyncExitStack() as calls:
        for name in ("a", "b"):
            await calls.enter_async_context(world.leases.hold(name))
        with pytest.raises(LeaseError, match="speech recognition: all 2 places are in use") as full:
            await calls.enter_async_context(world.leases.hold("c"))
        assert full.value.full
        await until(lambda: world.in_use == (2, 2))


async def test_a_part_that_is_away_is_named(world: World) -> None:
    await world.tts.stop()
    with pytest.raises(LeaseError, match=r"^speech: cannot be reached") as away:
        async with world.leases.hold("a"):
            pass
    assert not away.value.full
    await until(lambda: world.in_use[0] == 0)


@pytest.mark.parametrize("status", [500, 503])
async def test_a_model_that_is_ill_is_named(world: World, status: int) -> None:
    world.model.status = status
    with pytest.raises(LeaseError, match=f"language model: .*HTTP {status}"):
        async with world.leases.hold("a"):
            pass
    world.model.status = 200
    async with world.leases.hold("a"):
        assert world.in_use == (1, 1)


async def test_the_model_is_asked_once_a_second_not_for_each_call(world: World) -> None:
    for _ in range(5):
        async with world.leases.hold("a"):
            pass
    assert world.model.asked == 1
    world.clock.advance(1_001)
    async with world.leases.hold("a"):
        pass
    assert world.model.asked == 2


async def test_a_part_that_restarts_gets_the_living_calls_back(world: World) -> None:
    async with world.leases.hold("a"):
        await world.stt.stop()
        await world.stt.start()
        await until(lambda: world.in_use == (1, 1))
    await until(lambda: world.in_use == (0, 0))


async def test_giving_up_in_the_middle_leaves_nothing_held(world: World) -> None:
    async def hold() -> None:
        async with world.leases.hold("a"):
            await asyncio.Event().wait()

    for delay_s in (0.0, 0.001, 0.003, 0.1):
        taking = asyncio.create_task(hold())
        await asyncio.sleep(delay_s)
        taking.cancel()
        await asyncio.wait([taking])
    await until(lambda: world.in_use == (0, 0))
