from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from landline.tts.v1 import tts_pb2, tts_pb2_grpc

from services.agent.clients.tts import TtsClient, TtsUnavailableError
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.grpc_server import open_channel, start_server

AUDIO = b"".join(bytes([number]) * 320 for number in range(10))


class FakeTts(tts_pb2_grpc.TextToSpeechServicer):
    """Ten chunks of known audio; dies after as many as it is told, once."""

    def __init__(self) -> None:
        self.die_after: int | None = None
        self.requests = 0

    async def Synthesize(  # noqa: N802
        self, request: tts_pb2.SynthesizeRequest, context: Any
    ) -> AsyncIterator[tts_pb2.SynthesizeResponse]:
        self.requests += 1
        if request.text == "unspeakable":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "it cannot be spoken")
        for number in range(10):
            if number == self.die_after:
                self.die_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
            chunk = AUDIO[number * 320 : (number + 1) * 320]
            yield tts_pb2.SynthesizeResponse(pcm=chunk)


@pytest.fixture
async def service() -> AsyncIterator[tuple[FakeTts, TtsClient]]:
    fake = FakeTts()
    add = partial(tts_pb2_grpc.add_TextToSpeechServicer_to_server, fake)
    server = await start_server(HostPort("127.0.0.1", 0), None, add)
    channel = open_channel(HostPort("127.0.0.1", server.port), None, "a test")
    yield fake, TtsClient(channel, SystemClock())
    await channel.close()
    await server.stop(0)


async def speak(client: TtsClient, text: str) -> bytes:
    pieces = client.synthesize("c1", text, voice="", language="en-US")
    return b"".join([piece.pcm async for piece in pieces])


@pytest.mark.parametrize("die_after", [None, 0, 4])
async def test_a_sentence_is_whole_and_nothing_is_said_twice(
    service: tuple[FakeTts, TtsClient], die_after: int | None
) -> None:
    fake, client = service
    fake.die_after = die_after
    assert await speak(client, "hello") == AUDIO
    assert fake.requests == (1 if die_after is None else 2)


async def test_what_is_refused_is_not_tried_again(service: tuple[FakeTts, TtsClient]) -> None:
    fake, client = service
    with pytest.raises(TtsUnavailableError, match="it cannot be spoken"):
        await speak(client, "unspeakable")
    assert fake.requests == 1


async def test_a_service_that_stays_away_is_an_error() -> None:
    channel = open_channel(HostPort("127.0.0.1", 9), None, "a test")
    client = TtsClient(channel, SystemClock(), retry_ms=300)
    with pytest.raises(TtsUnavailableError, match="UNAVAILABLE"):
        await speak(client, "hello")
    await channel.close()
