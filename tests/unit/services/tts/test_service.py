"""Turns, limits and cancellation, with a voice that can be held up and made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.clock import ManualClock
from services.tts.config import TtsConfig
from services.tts.engine import EngineError, UnknownVoiceError
from services.tts.service import (
    BadRequestError,
    ServiceFullError,
    Speech,
    SpeechRequest,
    SpeechService,
)
from tests.fakes.tts_engine import FakeEngine

LONG = "word " * 100  # five pieces of a hundred characters


class Bench:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        config = TtsConfig(max_concurrent=2, max_text_characters=1_000)
        self.service = SpeechService(self.engine, config, ManualClock())

    async def all_of(self, text: str, **how: str | float) -> list[Speech]:
        request = SpeechRequest(text=text, **how)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            return [speech async for speech in self.service.synthesize(request)]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.go_on.set()
    bench.service.stop()


async def test_words_count_over_all_pieces(bench: Bench) -> None:
    words = [word for speech in await bench.all_of(LONG) for word in speech.words]
    assert [word.text_offset for word in words] == list(range(0, 500, 5))
    assert [round(word.start_ms) for word in words] == list(range(0, 25_000, 250))


async def test_a_short_text_waits_for_one_piece_of_a_long_one(bench: Bench) -> None:
    await asyncio.gather(bench.all_of(LONG), bench.all_of("hello"))
    assert bench.engine.spoken.index("hello") == 1
    assert len(bench.engine.spoken) == 6


async def test_giving_up_stops_the_voice(bench: Bench) -> None:
    speeches = bench.service.synthesize(SpeechRequest(text=LONG))
    await anext(speeches)
    bench.engine.go_on.clear()
    await speeches.aclose()
    bench.engine.go_on.set()
    assert await bench.all_of("hello")
    assert bench.engine.spoken[-1] == "hello"
    assert len(bench.engine.spoken) == 2 or bench.engine.stopped == 1
    assert len(bench.engine.spoken) < 5


async def test_a_request_that_gives_up_while_it_waits_is_never_spoken(bench: Bench) -> None:
    bench.engine.go_on.clear()
    first = asyncio.create_task(bench.all_of("first"))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(bench.all_of("second"))
    await asyncio.sleep(0.02)
    second.cancel()
    await asyncio.wait([second])
    bench.engine.go_on.set()
    assert await first
    assert await bench.all_of("third")
    assert bench.engine.spoken == ["first", "third"]


async def test_one_request_too_many_is_refused(bench: Bench) -> None:
    bench.engine.go_on.clear()
    busy = [asyncio.create_task(bench.all_of("hello")) for _ in range(2)]
    await asyncio.sleep(0.02)
    with pytest.raises(ServiceFullError, match="max_concurrent"):
        await bench.all_of("one more")
    bench.engine.go_on.set()
    await asyncio.gather(*busy)
    assert await bench.all_of("one more")


@pytest.mark.parametrize("rate", [0.0, 0.49, 2.01, -1.0, float("nan"), float("inf")])
async def test_a_rate_that_nobody_understands_is_refused(bench: Bench, rate: float) -> None:
    with pytest.raises(BadRequestError, match="rate"):
        await bench.all_of("hello", rate=rate)


async def test_a_text_that_is_too_long_is_refused(bench: Bench) -> None:
    assert await bench.all_of("x" * 1_000)
    with pytest.raises(BadRequestError, match="1001 characters, more than the 1000"):
        await bench.all_of("x" * 1_001)


async def test_errors_of_the_engine_come_through_and_the_next_request_is_spoken(
    bench: Bench,
) -> None:
    with pytest.raises(UnknownVoiceError, match="nobody"):
        await bench.all_of("hello", voice="nobody")
    with pytest.raises(EngineError, match="told to break"):
        await bench.all_of("BREAK")
    assert await bench.all_of("hello")
