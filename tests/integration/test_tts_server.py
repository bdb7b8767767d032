"""The TTS process over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from landline.tts.v1 import tts_pb2, tts_pb2_grpc

from services.common.grpc_server import open_channel
from tests.fakes.certificates import tls_section
from tests.fakes.service_process import RunningService, running

Stub = tts_pb2_grpc.TextToSpeechStub
SENTENCE = "Thank you for calling, our offices are open from nine to five on all working days. "


def request(text: str, **how: str | float) -> tts_pb2.SynthesizeRequest:
    return tts_pb2.SynthesizeRequest(call_id="call-1", text=text, **how)  # type: ignore[arg-type]


async def speak(stub: Stub, text: str, **how: str | float) -> tuple[float, float, bytes]:
    """Seconds to the first audio and to the last, and all of it."""
    begun = time.monotonic()
    first_s = 0.0
    parts = []
    async with asyncio.timeout(30):
        async for response in stub.Synthesize(request(text, **how)):
            first_s = first_s or time.monotonic() - begun
            parts.append(response.pcm)
    return first_s, time.monotonic() - begun, b"".join(parts)


@pytest.fixture(scope="module", params=["espeak", "auto"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def service(tmp_path: Path, engine: str) -> AsyncIterator[RunningService]:
    toml = f'[tts]\nengine = "{engine}"\nmax_concurrent = 20\nmax_text_characters = 20000\n'
    async with running("tts", tmp_path, toml) as started:
        yield started


@pytest.fixture
async def stub(service: RunningService) -> AsyncIterator[Stub]:
    async with open_channel(service.address, None, "test") as channel:
        yield Stub(channel)


async def test_first_audio_comes_long_before_the_end_and_is_audible(stub: Stub) -> None:
    await speak(stub, "Warm up.")
    first_s, last_s, pcm = await speak(stub, SENTENCE * 20)
    assert first_s < last_s / 3
    assert first_s < 0.3
    assert len(pcm) > 20 * 3 * 32_000
    beginning = np.abs(np.frombuffer(pcm[: 60 * 32], dtype="<i2"))
    assert beginning.max() > 330


async def test_cancelling_stops_the_synthesis(stub: Stub) -> None:
    call = stub.Synthesize(request(SENTENCE * 200))
    assert (await call.read()).pcm
    call.cancel()
    first_s, _, _ = await speak(stub, "Hello.")
    assert first_s < 0.4


async def test_a_short_text_does_not_wait_for_a_long_one(stub: Stub) -> None:
    long = asyncio.create_task(speak(stub, SENTENCE * 80))
    await asyncio.sleep(0.05)
    shorts = await asyncio.gather(*(speak(stub, f"Hello number {n}.") for n in range(5)))
    assert not long.done()
    assert max(last_s for _, last_s, _ in shorts) < 1.0
    assert len((await long)[2]) > 80 * 3 * 32_000


async def test_requests_at_once_are_each_complete(stub: Stub) -> None:
    texts = [SENTENCE * n for n in (1, 2, 3)]
    alone = [(await speak(stub, text))[2] for text in texts]
    together = [pcm for _, _, pcm in await asyncio.gather(*(speak(stub, text) for text in texts))]
    assert [len(pcm) for pcm in together] == pytest.approx([len(p) for p in alone], rel=0.02)


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        ("x" * 100_000, {}, "max_text_characters"),
        ("hello", {"voice": "nobody"}, "'nobody'"),
        ("hello", {"language": "xx-YY"}, "'xx-YY'"),
        ("hello", {"rate": 9.0}, "rate 9"),
        ("hello", {"rate": -1.0}, "rate -1"),
    ],
)
async def test_a_request_that_cannot_be_spoken_gets_a_plain_error(
    stub: Stub, text: str, how: dict[str, str | float], message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await speak(stub, text, **how)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in (refused.value.details() or "")
    assert (await speak(stub, "hello"))[2]


@pytest.mark.parametrize("text", ["", "😀🎉", "\x07\x1b"])
async def test_text_without_sound_is_no_audio_and_no_error(stub: Stub, text: str) -> None:
    assert (await speak(stub, text))[2] == b""


async def test_more_requests_than_allowed_are_refused(stub: Stub) -> None:
    calls = [stub.Synthesize(request(SENTENCE * 200)) for _ in range(20)]
    for call in calls:
        assert (await call.read()).pcm
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await speak(stub, "hello")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()


async def test_stops_cleanly_in_the_middle_of_speech(service: RunningService, stub: Stub) -> None:
    call = stub.Synthesize(request(SENTENCE * 200))
    assert (await call.read()).pcm
    assert await service.stop() == 0


async def test_mutual_tls_takes_only_clients_with_a_certificate(tmp_path: Path) -> None:
    tls, toml = tls_section(tmp_path)
    async with running("tts", tmp_path, toml) as service:
        async with open_channel(service.address, tls, "test") as channel:
            assert (await speak(Stub(channel), "hello"))[2]
        async with open_channel(service.address, None, "test") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await speak(Stub(channel), "hello")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
