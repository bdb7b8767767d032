from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from landline.stt.v1 import stt_pb2, stt_pb2_grpc

from services.agent.clients.stt import Recognised, SttClient
from services.common.addresses import HostPort
from services.common.grpc_server import open_channel, start_server
from services.common.phrases import PhraseSet

FRAME = bytes(range(256)) * 2 + bytes(128)
SAMPLES = len(FRAME) // 2


class FakeStt(stt_pb2_grpc.SpeechToTextServicer):
    """Keeps what each stream sent; answers each End; breaks streams when told to."""

    def __init__(self) -> None:
        self.streams: list[list[stt_pb2.TranscribeRequest]] = []
        self.break_after_audio: int | None = None

    async def Transcribe(  # noqa: N802
        self, request_iterator: AsyncIterator[stt_pb2.TranscribeRequest], context: Any
    ) -> AsyncIterator[stt_pb2.TranscribeResponse]:
        seen: list[stt_pb2.TranscribeRequest] = []
        self.streams.append(seen)
        async for request in request_iterator:
            seen.append(request)
            kind = request.WhichOneof("request")
            audio = sum(item.HasField("audio") for item in seen)
            if kind == "audio" and audio == self.break_after_audio:
                self.break_after_audio = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
            if kind == "end":
                heard = b"".join(item.audio.pcm for item in seen)
                final = stt_pb2.Final(
                    utterance_id=request.end.utterance_id, text=f"{len(heard)} bytes"
                )
                yield stt_pb2.TranscribeResponse(final=final)


class Rig:
    def __init__(self, service: FakeStt, client: SttClient) -> None:
        self.service = service
        self.client = client
        self.finals: asyncio.Queue[Recognised] = asyncio.Queue()
        self.sample = 0

    async def hear(self, frames: int) -> None:
        for _ in range(frames):
            self.client.push(self.sample, FRAME)
            self.sample += SAMPLES
            await asyncio.sleep(0.002)

    async def final(self) -> Recognised:
        async with asyncio.timeout(10):
            return await self.finals.get()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    service = FakeStt()
    add = partial(stt_pb2_grpc.add_SpeechToTextServicer_to_server, service)
    server = await start_server(HostPort("127.0.0.1", 0), None, add)
    channel = open_channel(HostPort("127.0.0.1", server.port), None, "a test")
    made = Rig(
        service,
        SttClient(
            channel,
            call_id="c1",
            language="en-US",
            phrase_sets=(PhraseSet(name="command", phrases=("hello",)),),
            on_partial=lambda _utterance, _text: None,
            on_final=lambda final: made.finals.put_nowait(final),
            give_up_after_ms=600,
        ),
    )
    running = asyncio.create_task(made.client.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await channel.close()
    await server.stop(0)


async def test_an_utterance_begins_before_it_was_noticed(rig: Rig) -> None:
    await rig.hear(60)
    rig.client.begin(1, ("command",))
    await rig.hear(3)
    rig.client.end(1)
    final = await rig.final()
    pre_roll = 30 * len(FRAME)  # 600 ms
    assert final.text == f"{pre_roll + 3 * len(FRAME)} bytes"
    begin = next(item.begin for item in rig.service.streams[0] if item.HasField("begin"))
    assert begin.first_sample == 30 * SAMPLES
    assert list(begin.expect) == ["command"]


async def test_nothing_is_sent_between_utterances(rig: Rig) -> None:
    rig.client.begin(1, ())
    await rig.hear(2)
    rig.client.end(1)
    await rig.final()
    await rig.hear(5)
    assert sum(item.HasField("audio") for item in rig.service.streams[0]) == 2


async def test_a_broken_stream_is_opened_again_and_all_of_the_utterance_replayed(rig: Rig) -> None:
    rig.service.break_after_audio = 4
    rig.client.begin(1, ("command",))
    await rig.hear(8)
    rig.client.end(1)
    final = await rig.final()
    assert final.text == f"{8 * len(FRAME)} bytes"
    second = rig.service.streams[1]
    assert second[0].configure.call_id == "c1"
    assert [item.audio.first_sample for item in second if item.HasField("audio")] == [
        number * SAMPLES for number in range(8)
    ]


async def test_a_cancelled_utterance_gets_no_final(rig: Rig) -> None:
    rig.client.begin(1, ())
    await rig.hear(2)
    rig.client.cancel(1)
    rig.client.end(1)
    rig.client.begin(2, ())
    rig.client.end(2)
    assert (await rig.final()).utterance == 2


async def test_when_no_service_comes_back_the_utterance_is_given_up() -> None:
    channel = open_channel(HostPort("127.0.0.1", 9), None, "a test")
    finals: asyncio.Queue[Recognised] = asyncio.Queue()
    client = SttClient(
        channel,
        call_id="c1",
        language="",
        phrase_sets=(),
        on_partial=lambda _utterance, _text: None,
        on_final=finals.put_nowait,
        give_up_after_ms=400,
    )
    running = asyncio.create_task(client.run())
    client.begin(1, ())
    client.push(0, FRAME)
    client.end(1)
    async with asyncio.timeout(10):
        lost = await finals.get()
    assert (lost.utterance, lost.lost, lost.text) == (1, True, "")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await channel.close()
