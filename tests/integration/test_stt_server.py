"""The STT process over gRPC: speech by flite over G.711, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from landline.stt.v1 import stt_pb2, stt_pb2_grpc

from services.common.audio import FRAME_BYTES
from services.common.grpc_server import open_channel
from tests.fakes import telephone
from tests.fakes.certificates import tls_section
from tests.fakes.service_process import ROOT, RunningService, running

HOURS = "what are your opening hours"
BOOK = "i want to book an appointment"
OUTSIDE = "my favourite football team has lost another match"
Request = stt_pb2.TranscribeRequest


def configure(*phrases: str) -> Request:
    phrase_set = stt_pb2.PhraseSet(name="command", phrases=phrases or (HOURS, BOOK, "goodbye"))
    return Request(
        configure=stt_pb2.Configure(call_id="call-1", language="en-US", phrase_sets=[phrase_set])
    )


def begin(utterance_id: str, *expect: str, first_sample: int = 0) -> Request:
    return Request(
        begin=stt_pb2.Begin(utterance_id=utterance_id, first_sample=first_sample, expect=expect)
    )


def audio(pcm: bytes, first_sample: int = 0) -> Iterator[Request]:
    for at in range(0, len(pcm), FRAME_BYTES):
        piece = pcm[at : at + FRAME_BYTES]
        yield Request(audio=stt_pb2.Audio(first_sample=first_sample + at // 2, pcm=piece))


def end(utterance_id: str) -> Request:
    return Request(end=stt_pb2.End(utterance_id=utterance_id))


def cancel(utterance_id: str) -> Request:
    return Request(cancel=stt_pb2.Cancel(utterance_id=utterance_id))


def whole(utterance_id: str, text: str) -> Iterator[Request]:
    yield begin(utterance_id)
    yield from audio(telephone.flite(text))
    yield end(utterance_id)


class Stream:
    """One call's stream, by hand."""

    def __init__(self, stub: stt_pb2_grpc.SpeechToTextStub) -> None:
        self._call = stub.Transcribe()

    async def send(self, *requests: Request) -> None:
        for request in requests:
            await self._call.write(request)

    async def send_live(self, pcm: bytes, *, speed: float) -> None:
        """Frames at their own pace, so many times faster."""
        for request in audio(pcm):
            await self._call.write(request)
            await asyncio.sleep(0.02 / speed)

    async def receive(self) -> stt_pb2.TranscribeResponse:
        async with asyncio.timeout(15):
            response = await self._call.read()
        assert isinstance(response, stt_pb2.TranscribeResponse), "the stream has ended"
        return response

    async def final(self) -> stt_pb2.Final:
        while (response := await self.receive()).WhichOneof("response") != "final":
            pass
        return response.final

    async def rest(self) -> list[stt_pb2.TranscribeResponse]:
        """No more requests: everything that still comes."""
        await self._call.done_writing()
        responses = []
        async with asyncio.timeout(15):
            while isinstance(response := await self._call.read(), stt_pb2.TranscribeResponse):
                responses.append(response)
        return responses

    async def error(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended the stream; what it sent before is read and dropped."""
        async with asyncio.timeout(15):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while isinstance(await self._call.read(), stt_pb2.TranscribeResponse):
                    pass
            return await self._call.code(), await self._call.details()

    def drop(self) -> None:
        self._call.cancel()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningService]:
    async with running(
        "stt", tmp_path, "[stt]\nmax_streams = 3\nmax_utterance_s = 20\npartial_interval_ms = 100\n"
    ) as started:
        yield started


@pytest.fixture
async def stub(service: RunningService) -> AsyncIterator[stt_pb2_grpc.SpeechToTextStub]:
    async with open_channel(service.address, None, "test") as channel:
        yield stt_pb2_grpc.SpeechToTextStub(channel)


async def assert_others_are_heard(stub: stt_pb2_grpc.SpeechToTextStub) -> None:
    stream = Stream(stub)
    await stream.send(configure(), *whole("after", BOOK))
    assert (await stream.final()).text == BOOK
    assert await stream.rest() == []


async def test_partials_while_speaking_and_one_final_at_the_end(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream = Stream(stub)
    pcm = telephone.flite(HOURS)
    await stream.send(configure(), begin("7", first_sample=1_000))
    await stream.send_live(pcm, speed=4)
    await stream.send(end("7"))
    responses = [await stream.receive()]
    while responses[-1].WhichOneof("response") == "partial":
        responses.append(await stream.receive())
    responses += await stream.rest()
    assert [response.WhichOneof("response") for response in responses[:-1]] == ["partial"] * (
        len(responses) - 1
    )
    partials = [response.partial for response in responses[:-1]]
    assert len(partials) >= 2
    assert partials[-1].text.startswith("what are your")
    texts = [partial.text for partial in partials]
    assert all(one != other for one, other in itertools.pairwise(texts))
    positions = [partial.through_sample for partial in partials]
    assert positions == sorted(positions)
    assert 1_000 < positions[0] < positions[-1] <= 1_000 + len(pcm) // 2
    final = responses[-1].final
    assert (final.utterance_id, final.text, final.rejected) == ("7", HOURS, False)
    assert final.confidence > 0.8
    assert [word.text for word in final.words] == HOURS.split()
    assert final.decode_ms < 200


async def test_what_may_not_be_said_is_rejected_and_shown(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream = Stream(stub)
    await stream.send(configure(), *whole("1", OUTSIDE))
    final = await stream.final()
    assert final.rejected
    assert final.text == ""
    assert final.reason
    assert final.confidence < 0.5


async def test_a_cancelled_utterance_gets_no_final(stub: stt_pb2_grpc.SpeechToTextStub) -> None:
    stream = Stream(stub)
    await stream.send(configure(), begin("1"), *audio(telephone.flite(HOURS)), cancel("1"))
    await stream.send(*whole("2", "goodbye"), cancel("unknown"))
    finals = [r.final for r in await stream.rest() if r.WhichOneof("response") == "final"]
    assert [(final.utterance_id, final.text) for final in finals] == [("2", "goodbye")]


async def test_two_calls_at_once_hear_each_their_own(stub: stt_pb2_grpc.SpeechToTextStub) -> None:
    async def one_call(text: str) -> str:
        stream = Stream(stub)
        await stream.send(configure(), begin("1"))
        await stream.send_live(telephone.flite(text), speed=4)
        await stream.send(end("1"))
        return (await stream.final()).text

    texts = [HOURS, BOOK]
    assert await asyncio.gather(*map(one_call, texts)) == texts


async def test_utterances_of_one_call_follow_each_other_at_once(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream = Stream(stub)
    texts = [HOURS, BOOK, "goodbye"]
    await stream.send(configure())
    for number, text in enumerate(texts):
        await stream.send(*whole(str(number), text))
    finals = [r.final for r in await stream.rest() if r.WhichOneof("response") == "final"]
    assert {final.utterance_id: final.text for final in finals} == {
        str(number): text for number, text in enumerate(texts)
    }


BAD: dict[str, tuple[Callable[[], list[Request]], str]] = {
    "begin before configure": (lambda: [begin("1")], "before configure"),
    "configured twice": (lambda: [configure(), configure()], "configured already"),
    "end of an unknown utterance": (lambda: [configure(), end("9")], "'9', which is not open"),
    "ended twice": (lambda: [configure(), begin("1"), end("1"), end("1")], "not open"),
    "begun twice": (lambda: [configure(), begin("1"), begin("2")], "'1' was ended"),
    "no id": (lambda: [configure(), begin("")], "empty or in use"),
    "unknown set expected": (lambda: [configure(), begin("1", "moon")], "'moon'"),
    "no phrases": (lambda: [Request(configure=stt_pb2.Configure(call_id="x"))], "no phrase sets"),
    "unreadable phrase": (lambda: [configure("say {this}")], "cannot read"),
    "unknown reference": (lambda: [configure("<moon>")], "<moon>"),
    "circle": (lambda: [configure("very <command>")], "circle"),
    "empty request": (lambda: [Request()], "empty request"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_wrong_request_gets_a_plain_error(
    stub: stt_pb2_grpc.SpeechToTextStub, case: str
) -> None:
    requests, text = BAD[case]
    stream = Stream(stub)
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        await stream.send(*requests())
    code, details = await stream.error()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details
    await assert_others_are_heard(stub)


async def test_audio_that_cannot_be_used_is_dropped(stub: stt_pb2_grpc.SpeechToTextStub) -> None:
    stray = [Request(audio=stt_pb2.Audio(pcm=pcm)) for pcm in (bytes(640), bytes(641), b"")]
    stream = Stream(stub)
    await stream.send(*stray, configure(), *stray, begin("1"), stray[1])
    await stream.send(*audio(telephone.flite(BOOK)), end("1"), *stray)
    assert (await stream.final()).text == BOOK


async def test_an_hour_in_a_second_is_cut_and_answered(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream, other = Stream(stub), Stream(stub)
    await other.send(configure(), begin("1"))
    minute = Request(audio=stt_pb2.Audio(pcm=bytes(60 * 32_000)))
    await stream.send(configure(), begin("1"), *[minute] * 60, end("1"))
    await other.send_live(telephone.flite(HOURS), speed=2)
    await other.send(end("1"))
    assert (await other.final()).text == HOURS
    final = await stream.final()
    assert (final.utterance_id, final.text) == ("1", "")


async def test_one_call_too_many_is_refused_until_another_ends(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    streams = [Stream(stub) for _ in range(3)]
    for stream in streams:
        await stream.send(configure(), *whole("1", "goodbye"))
        assert (await stream.final()).text == "goodbye"
    code, details = await Stream(stub).error()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max_streams" in details
    streams[0].drop()
    await asyncio.sleep(0.3)
    await assert_others_are_heard(stub)


_CLIENT = """
import sys, grpc
from landline.stt.v1 import stt_pb2 as p, stt_pb2_grpc
def requests():
    sets = [p.PhraseSet(name="command", phrases=["goodbye"])]
    yield p.TranscribeRequest(configure=p.Configure(call_id="x", phrase_sets=sets))
    yield p.TranscribeRequest(begin=p.Begin(utterance_id="1"))
    while True:
        yield p.TranscribeRequest(audio=p.Audio(pcm=bytes(640)))
        print("sent", flush=True)
channel = grpc.insecure_channel(sys.argv[1])
for response in stt_pb2_grpc.SpeechToTextStub(channel).Transcribe(requests()):
    pass
"""


async def test_killed_clients_give_their_places_back(
    service: RunningService, stub: stt_pb2_grpc.SpeechToTextStub
) -> None:
    clients = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CLIENT, str(service.address),
            env={**os.environ, "PYTHONPATH": str(ROOT / "proto" / "gen")},
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    for client in clients:
        assert client.stdout is not None
        async with asyncio.timeout(15):
            assert await client.stdout.readline() == b"sent\n"
        client.send_signal(signal.SIGKILL)
        await client.communicate()
    await asyncio.sleep(0.3)
    await assert_others_are_heard(stub)


async def test_stops_cleanly_in_the_middle_of_calls(
    service: RunningService, stub: stt_pb2_grpc.SpeechToTextStub
) -> None:
    stream = Stream(stub)
    await stream.send(configure(), begin("1"), *audio(telephone.flite(HOURS)))
    assert await service.stop() == 0


async def test_mutual_tls_takes_only_clients_with_a_certificate(tmp_path: Path) -> None:
    tls, toml = tls_section(tmp_path)
    async with running("stt", tmp_path, toml) as service:
        async with open_channel(service.address, tls, "test") as channel:
            await assert_others_are_heard(stt_pb2_grpc.SpeechToTextStub(channel))
        async with open_channel(service.address, None, "test") as channel:
            code, _ = await Stream(stt_pb2_grpc.SpeechToTextStub(channel)).error()
            assert code is grpc.StatusCode.UNAVAILABLE
