"""A conversation that a test drives by hand: a real gRPC server, one object for each call."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from landline.agent.v1 import agent_pb2 as pb
from landline.agent.v1 import agent_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WAIT_S = 8.0


class FakeCall:
    """One call as the agent sees it. `audio` is what the caller said so far."""

    def __init__(self, started: pb.CallStarted) -> None:
        self.started = started
        self.events: list[pb.ConverseRequest] = []
        self.audio = bytearray()
        self.arrivals: list[tuple[float, int]] = []  # (when, samples until then) of each piece
        self.gaps = 0  # pieces of audio that do not follow the one before
        self._changed = asyncio.Event()
        self._commands: asyncio.Queue[pb.ConverseResponse | None] = asyncio.Queue()

    # -- commands -------------------------------------------------------------------------------

    def play(self, mark: str, pcm: bytes, *, last: bool = True) -> None:
        self._send(play=pb.PlayAudio(mark=mark, pcm=pcm, last=last))

    def clear(self, clear_id: str) -> None:
        self._send(clear=pb.Clear(clear_id=clear_id))

    def duck(self, gain: float, ramp_ms: int) -> None:
        self._send(duck=pb.Duck(gain=gain, ramp_ms=ramp_ms))

    def transfer(self, target: str, *, after_playout: bool = False, attended: bool = False) -> None:
        command = pb.Transfer(target=target, after_playout=after_playout, attended=attended)
        self._send(transfer=command)

    def send_dtmf(self, digits: str) -> None:
        self._send(send_dtmf=pb.SendDtmf(digits=digits))

    def hold(self, on: bool) -> None:
        self._send(hold=pb.Hold(on=on))

    def mute(self, on: bool) -> None:
        self._send(mute=pb.Mute(on=on))

    def hang_up(self, reason: str = "goodbye", *, after_playout: bool = False) -> None:
        self._send(
            hang_up=pb.HangUp(result="completed", reason=reason, after_playout=after_playout)
        )

    def close(self) -> None:
        """End the stream from the agent's side."""
        self._commands.put_nowait(None)

    # -- what happened --------------------------------------------------------------------------

    def all(self, kind: str) -> list[Any]:
        """Every event of a kind so far, such as `played` or `dtmf`."""
        return [getattr(event, kind) for event in self.events if event.HasField(kind)]

    async def wait_for(
        self,
        kind: str,
        accept: Callable[[Any], bool] = lambda _event: True,
        *,
        timeout_s: float = WAIT_S,
    ) -> Any:
        """The first event of a kind that `accept` takes; TimeoutError with what came instead."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = next((event for event in self.all(kind) if accept(event)), None)
                    if found is not None:
                        return found
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"no such {kind}; there were {self.all(kind)}") from None

    async def wait_for_count(self, kind: str, count: int) -> None:
        """Until there were that many events of a kind."""
        await self.wait_for(kind, lambda _event: len(self.all(kind)) >= count)

    async def hear(self, seconds: float) -> bytes:
        """The next `seconds` of the caller's audio."""
        begin = len(self.audio)
        size = int(seconds * 32_000)
        async with asyncio.timeout(seconds + WAIT_S):
            while len(self.audio) < begin + size:
                self._changed.clear()
                await self._changed.wait()
        return bytes(self.audio[begin : begin + size])

    @property
    def ended_with(self) -> pb.CallEnded:
        """The end that was told; IndexError while there is none."""
        return self.all("ended")[-1]

    async def ended(self) -> pb.CallEnded:
        return await self.wait_for("ended")

    # -- the server's side ----------------------------------------------------------------------

    def _send(self, **command: Any) -> None:
        self._commands.put_nowait(pb.ConverseResponse(**command))

    def take(self, request: pb.ConverseRequest) -> None:
        if request.HasField("audio"):
            self.gaps += request.audio.first_sample != len(self.audio) // 2
            self.audio += request.audio.pcm
            self.arrivals.append((time.monotonic(), len(self.audio) // 2))
        else:
            self.events.append(request)
        self._changed.set()

    async def commands(self) -> AsyncIterator[pb.ConverseResponse]:
        while (command := await self._commands.get()) is not None:
            yield command


class FakeAgent(agent_pb2_grpc.ConversationServicer):
    """Listens on a free loopback port; each call that comes is handed to `next_call`."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[FakeCall] = asyncio.Queue()
        self.taken = 0
        self.accepts = True  # False: answers no stream until `accept_now`
        self._accepting = asyncio.Event()
        self.refusal: tuple[grpc.StatusCode, str] | None = None  # for each stream that comes
        self.asked = 0
        self.auto_play: bytes = b""  # played to each call at once
        self._server = grpc.aio.server()
        self.port = 0

    async def start(self) -> None:
        agent_pb2_grpc.add_ConversationServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self, grace_s: float = 0.0) -> None:
        await self._server.stop(grace_s)

    def forget(self) -> None:
        """As it was before the first call."""
        self.accepts, self.taken = True, 0
        self._accepting.clear()
        while not self.calls.empty():
            self.calls.get_nowait()

    def accept_now(self) -> None:
        """Answer the streams that wait because of `accepts`."""
        self._accepting.set()

    async def next_call(self) -> FakeCall:
        return await asyncio.wait_for(self.calls.get(), WAIT_S)

    async def Converse(  # noqa: N802 - named by the protocol
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Any
    ) -> AsyncIterator[pb.ConverseResponse]:
        call = FakeCall((await anext(request_iterator)).started)
        self.asked += 1
        if self.refusal is not None:
            await context.abort(*self.refusal)
        if not self.accepts:
            await self._accepting.wait()
        await context.send_initial_metadata(())
        self.taken += 1
        self.calls.put_nowait(call)
        if self.auto_play:
            call.play("auto", self.auto_play)
        reader = asyncio.create_task(self._read(call, request_iterator))
        try:
            async for command in call.commands():
                yield command
        finally:
            reader.cancel()

    @staticmethod
    async def _read(call: FakeCall, requests: AsyncIterator[pb.ConverseRequest]) -> None:
        async for request in requests:
            call.take(request)
        call.close()
