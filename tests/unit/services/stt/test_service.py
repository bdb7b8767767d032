"""The life of an utterance, with a recogniser that can be held up and made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.clock import ManualClock
from services.common.phrases import PhraseSet
from services.stt.config import SttConfig
from services.stt.engine import EngineError, Vocabulary, VocabularyError
from services.stt.service import (
    Final,
    Partial,
    ProtocolError,
    RecognitionService,
    Result,
    Resumed,
    ServiceFullError,
    Session,
)
from tests.fakes.stt_engine import FakeEngine, spoken

VOCABULARY = Vocabulary(
    language="en-US", phrase_sets=(PhraseSet(name="command", phrases=("hello", "good day")),)
)


class Bench:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.clock = ManualClock()
        config = SttConfig(
            max_streams=2,
            threads=2,
            partial_interval_ms=300,
            max_utterance_s=2.0,
            idle_limit_s=0.3,
            resume_limit_s=0.5,
        )
        self.service = RecognitionService(self.engine, config, self.clock)
        self.sessions: list[Session] = []
        self.parked: list[asyncio.Task[None]] = []

    async def session(self, call_id: str = "", vocabulary: Vocabulary = VOCABULARY) -> Session:
        """With a call id, one that may be resumed."""
        session = self.service.open()
        self.sessions.append(session)
        await session.configure(vocabulary, call_id=call_id, resume_ms=500 if call_id else 0)
        return session

    def breaks(self, session: Session) -> None:
        """The stream of this session is lost."""
        self.sessions.remove(session)
        self.parked.append(asyncio.create_task(session.park()))

    async def idle(self) -> None:
        """Until nothing happens any more."""
        for _ in range(20):
            await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.go_on.set()
    for session in bench.sessions:
        await session.close()
    await asyncio.gather(*bench.parked)
    assert bench.engine.open_utterances == 0
    bench.service.stop()


async def collect(session: Session) -> list[Result]:
    async with asyncio.timeout(5):
        return [result async for result in session.results()]


def finals(results: list[Result]) -> list[tuple[str, str]]:
    return [(r.utterance_id, r.recognition.text) for r in results if isinstance(r, Final)]


async def test_an_ended_utterance_gets_one_final(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 0, ())
    session.audio(spoken("hello"))
    session.end("1")
    await session.finish()
    assert finals(await collect(session)) == [("1", "hello")]


async def test_partials_come_at_most_each_interval_and_only_when_changed(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 1_000, ())
    for text, wait_ms in (("go", 100), ("od", 250), ("", 300), (" day", 300)):
        bench.clock.advance(wait_ms)
        session.audio(spoken(text) if text else bytes(1_600))
        await bench.idle()
    session.cancel("1")
    await session.finish()
    partials = [r for r in await collect(session) if isinstance(r, Partial)]
    assert [partial.text for partial in partials] == ["good", "good day"]
    assert [partial.through_sample for partial in partials] == [1_000 + 3_200, 1_000 + 7_200]


async def test_a_cancelled_utterance_is_forgotten_even_while_it_is_decoded(bench: Bench) -> None:
    session = await bench.session()
    bench.engine.go_on.clear()
    session.begin("1", 0, ())
    session.audio(spoken("hello"))
    session.end("1")
    await bench.idle()
    session.cancel("1")
    session.begin("2", 0, ())
    session.audio(spoken("good day"))
    session.end("2")
    bench.engine.go_on.set()
    await session.finish()
    assert finals(await collect(session)) == [("2", "good day")]


async def test_a_long_wait_of_audio_is_decoded_in_short_pieces(bench: Bench) -> None:
    session = await bench.session()
    bench.engine.go_on.clear()
    session.begin("1", 0, ())
    session.audio(spoken("hello"))
    await bench.idle()
    session.audio(bytes(48_000))
    session.end("1")
    bench.engine.go_on.set()
    await session.finish()
    assert finals(await collect(session)) == [("1", "hello")]
    assert max(bench.engine.pieces) <= 16_000


async def test_audio_beyond_the_longest_utterance_is_dropped(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 0, ())
    session.audio(spoken("hello"))
    for _ in range(100):
        session.audio(bytes(64_000))
    session.end("1")
    await session.finish()
    assert finals(await collect(session)) == [("1", "hello")]
    assert sum(bench.engine.pieces) == 2 * 32_000


async def test_audio_outside_an_utterance_and_half_samples_are_dropped(bench: Bench) -> None:
    session = bench.service.open()
    bench.sessions.append(session)
    session.audio(bytes(640))
    await session.configure(VOCABULARY)
    session.audio(bytes(640))
    session.begin("1", 0, ())
    session.audio(bytes(641))
    session.audio(b"")
    session.audio(spoken("hello"))
    session.end("1")
    session.audio(spoken("good day"))
    await session.finish()
    assert finals(await collect(session)) == [("1", "hello")]


async def test_a_failing_recogniser_ends_the_stream_and_no_other(bench: Bench) -> None:
    broken, sound = await bench.session(), await bench.session()
    broken.begin("1", 0, ())
    broken.audio(spoken("!"))
    with pytest.raises(EngineError, match="told to break"):
        await collect(broken)
    sound.begin("1", 0, ())
    sound.audio(spoken("hello"))
    sound.end("1")
    await sound.finish()
    assert finals(await collect(sound)) == [("1", "hello")]


async def test_an_unknown_expectation_ends_the_stream(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 0, ("nonsense",))
    with pytest.raises(VocabularyError, match="nonsense"):
        await collect(session)


async def test_requests_out_of_order_are_refused(bench: Bench) -> None:
    session = bench.service.open()
    bench.sessions.append(session)
    with pytest.raises(ProtocolError, match="before configure"):
        session.begin("1", 0, ())
    await session.configure(VOCABULARY)
    with pytest.raises(ProtocolError, match="configured already"):
        await session.configure(VOCABULARY)
    with pytest.raises(ProtocolError, match="not open"):
        session.end("1")
    session.begin("1", 0, ())
    with pytest.raises(ProtocolError, match="'2' began before '1'"):
        session.begin("2", 0, ())


async def test_utterances_that_wait_for_results_are_bounded(bench: Bench) -> None:
    session = await bench.session()
    bench.engine.go_on.clear()
    for number in range(8):
        session.begin(str(number), 0, ())
        session.audio(spoken("hello"))
        session.end(str(number))
    with pytest.raises(ServiceFullError, match="wait for results"):
        session.begin("8", 0, ())


async def test_a_full_service_refuses_and_takes_again_when_a_call_has_ended(bench: Bench) -> None:
    first, _ = await bench.session(), await bench.session()
    with pytest.raises(ServiceFullError, match="2 calls"):
        bench.service.open()
    bench.sessions.remove(first)
    await first.close()
    await bench.session()


async def test_closing_ends_what_is_still_decoded(bench: Bench) -> None:
    session = await bench.session()
    bench.engine.go_on.clear()
    session.begin("1", 0, ())
    session.audio(spoken("hello"))
    await bench.idle()
    bench.sessions.remove(session)
    closing = asyncio.create_task(session.close())
    await bench.idle()
    assert not closing.done()
    bench.engine.go_on.set()
    async with asyncio.timeout(5):
        await closing
    assert bench.engine.open_utterances == 0


async def test_a_broken_stream_is_taken_up_where_it_was(bench: Bench) -> None:
    first = await bench.session("call")
    first.begin("1", 1_000, ())
    first.audio(spoken("good "), 1_000)
    bench.breaks(first)
    second = await bench.session("call")
    second.audio(spoken("day"), 1_000 + 5 * 800)
    second.end("1")
    await second.finish()
    results = await collect(second)
    assert results[0] == Resumed(utterance_id="1", next_sample=1_000 + 5 * 800)
    assert finals(results) == [("1", "good day")]


async def test_an_utterance_replayed_from_its_beginning_is_not_heard_twice(bench: Bench) -> None:
    first = await bench.session("call")
    first.begin("1", 0, ())
    first.audio(spoken("good "), 0)
    await bench.idle()
    bench.breaks(first)
    second = await bench.session("call")
    second.begin("1", 0, ())
    pcm = spoken("good day")
    for at in range(0, len(pcm), 640):
        second.audio(pcm[at : at + 640], at // 2)
    second.end("1")
    await second.finish()
    assert finals(await collect(second)) == [("1", "good day")]
    assert sum(bench.engine.pieces) == len(pcm)


async def test_what_was_answered_is_answered_again_and_not_decoded_again(bench: Bench) -> None:
    first = await bench.session("call")
    first.begin("1", 0, ())
    first.audio(spoken("hello"))
    first.end("1")
    await bench.idle()
    decoded = sum(bench.engine.pieces)
    bench.breaks(first)
    second = await bench.session("call")
    second.begin("1", 0, ())
    second.audio(spoken("hello"), 0)
    second.end("1")
    second.begin("2", 4_000, ())
    second.audio(spoken("good day"), 4_000)
    second.end("2")
    await second.finish()
    answers = finals(await collect(second))
    assert set(answers) == {("1", "hello"), ("2", "good day")}
    assert sum(bench.engine.pieces) == decoded + len(spoken("good day"))


async def test_an_end_that_was_heard_before_the_break_is_answered_after_it(bench: Bench) -> None:
    first = await bench.session("call")
    bench.engine.go_on.clear()
    first.begin("1", 0, ())
    first.audio(spoken("hello"), 0)
    first.end("1")
    bench.breaks(first)
    second = await bench.session("call")
    second.begin("1", 0, ())
    second.audio(spoken("hello"), 0)
    second.end("1")
    bench.engine.go_on.set()
    await second.finish()
    assert finals(await collect(second)) == [("1", "hello")]


async def test_a_second_stream_of_a_call_ends_the_first(bench: Bench) -> None:
    first = await bench.session("call")
    first.begin("1", 0, ())
    first.audio(spoken("hello"), 0)
    second = await bench.session("call")
    assert finals(await collect(first)) == []
    second.end("1")
    await second.finish()
    assert finals(await collect(second)) == [("1", "hello")]


async def test_nobody_resumes_what_is_not_his(bench: Bench) -> None:
    first = await bench.session("call")
    first.begin("1", 0, ())
    bench.breaks(first)
    other = Vocabulary(language="en", phrase_sets=VOCABULARY.phrase_sets)
    for session in (await bench.session("call", other), await bench.session("another")):
        with pytest.raises(ProtocolError, match="not open"):
            session.end("1")


async def test_a_call_that_does_not_come_back_is_dropped_in_the_end(bench: Bench) -> None:
    first = await bench.session("call")
    first.begin("1", 0, ())
    first.audio(spoken("hello"), 0)
    bench.breaks(first)
    await asyncio.gather(*bench.parked)
    assert bench.engine.open_utterances == 0
    second = await bench.session("call")
    with pytest.raises(ProtocolError, match="not open"):
        second.end("1")


async def test_a_broken_stream_gives_its_place_back_at_once(bench: Bench) -> None:
    first, _ = await bench.session("call"), await bench.session()
    bench.breaks(first)
    await asyncio.sleep(0)
    await bench.session()


async def test_missing_audio_is_silence_and_repeated_audio_is_dropped(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 0, ())
    session.audio(spoken("he"), 0)
    session.audio(spoken("he"), 0)
    session.audio(spoken("xhe"), 0)
    session.audio(spoken("llo"), 2 * 800 + 800)
    session.end("1")
    await session.finish()
    [(_, text)] = finals(await collect(session))
    assert text == ""
    assert sum(bench.engine.pieces) == 2 * 6 * 800


async def test_a_gap_beyond_reason_costs_five_seconds_at_most(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 0, ())
    session.audio(spoken("hello"), 2**63)
    session.end("1")
    await session.finish()
    assert len(finals(await collect(session))) == 1
    assert sum(bench.engine.pieces) <= 2 * 32_000


async def test_an_utterance_that_nobody_feeds_is_ended(bench: Bench) -> None:
    session = await bench.session()
    session.begin("1", 0, ())
    session.audio(spoken("hello"))
    await asyncio.sleep(0.5)
    session.audio(spoken("hello"))
    session.end("1")
    session.begin("2", 0, ())
    session.audio(spoken("good day"))
    session.end("2")
    await session.finish()
    assert finals(await collect(session)) == [("1", "hello"), ("2", "good day")]


async def test_the_end_hurries_and_a_cancel_abandons(bench: Bench) -> None:
    session = await bench.session()
    for number in ("1", "2"):
        session.begin(number, 0, ())
        session.audio(spoken("hello"))
        await bench.idle()
        (session.end if number == "1" else session.cancel)(number)
    await session.finish()
    assert finals(await collect(session)) == [("1", "hello")]
    assert bench.engine.hurried == 1
    assert bench.engine.abandoned == 1


async def test_a_busy_engine_takes_no_new_call(bench: Bench) -> None:
    bench.engine.full = "too busy"
    assert bench.service.refusal() == "too busy"


async def test_the_check_decodes(bench: Bench) -> None:
    await bench.service.check()
    bench.engine.go_on.clear()
    with pytest.raises(EngineError, match="held up"):
        await bench.service.check()
