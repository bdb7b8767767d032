from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.agent import line as on_line
from services.agent.clients.tts import SpokenAudio, TtsUnavailableError
from services.agent.conversation import Piece, SpokenWord
from services.agent.voice import PieceTiming, Voice
from services.common.clock import ManualClock
from tests.fakes.line import FakeLine

MS = 32  # bytes of one millisecond


class FakeTts:
    """100 ms and one word for each word of the text; waits for `go` before each when asked to."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        self.made: list[str] = []

    async def synthesize(
        self, _call_id: str, text: str, *, voice: str, language: str
    ) -> AsyncIterator[SpokenAudio]:
        if text == "broken":
            raise TtsUnavailableError("no voice")
        end = 0
        for index, word in enumerate(text.split()):
            end = text.index(word, end) + len(word)
            yield SpokenAudio(bytes(100 * MS), (SpokenWord(end, index * 100),))
            if self.gate is not None:
                await self.gate.wait()
        self.made.append(text)


class Rig:
    def __init__(self) -> None:
        self.line = FakeLine()
        self.tts = FakeTts()
        self.begun: list[str] = []
        self.first_audio = asyncio.Event()
        self.heard: list[str] = []
        self.failures: list[Exception] = []
        self.voice = Voice(
            self.line,
            self.tts,  # type: ignore[arg-type]
            ManualClock(),
            call_id="c",
            voice="",
            language="en-US",
            on_first_audio=self._began,
            on_heard=lambda piece: self.heard.append(piece.heard()),
            on_failure=self.failures.append,
        )

    def _began(self, piece: Piece, timing: PieceTiming) -> None:
        assert timing.first_audio_ms is not None
        self.begun.append(piece.text)
        self.first_audio.set()

    async def pump(self) -> None:
        """Deliver what the line reports."""
        async for event in self.line.events():
            if isinstance(event, on_line.Played):
                await self.voice.played(event)
            elif isinstance(event, on_line.Cleared):
                self.voice.cleared(event)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    tasks = [asyncio.create_task(made.voice.run()), asyncio.create_task(made.pump())]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_pieces_are_spoken_in_order_and_heard_when_played(rig: Rig) -> None:
    rig.voice.say("one two")
    rig.voice.say("three")
    await rig.voice.all_made()
    assert rig.begun == ["one two", "three"]
    assert rig.heard == []
    assert rig.voice.speaking
    rig.line.play_out()
    await rig.voice.all_heard()
    assert rig.heard == ["one two", "three"]
    assert not rig.voice.speaking


async def test_a_cut_keeps_only_what_the_gateway_says_was_heard(rig: Rig) -> None:
    rig.voice.say("one two three four")
    rig.voice.say("never begun")
    await rig.voice.all_made()
    rig.line.queued_ms.popitem()
    await rig.voice.cut()
    assert rig.heard == ["one two", ""]
    await rig.voice.all_heard()


async def test_a_cut_ends_the_synthesis_that_is_under_way(rig: Rig) -> None:
    rig.tts.gate = asyncio.Event()
    rig.voice.say("one two three")
    await rig.first_audio.wait()
    await rig.voice.cut()
    rig.tts.gate.set()
    rig.voice.say("after")
    await rig.voice.all_made()
    assert rig.tts.made == ["after"]


async def test_a_failed_piece_is_reported_and_the_next_is_spoken(rig: Rig) -> None:
    rig.voice.say("broken")
    rig.voice.say("fine")
    await rig.voice.all_made()
    assert [str(error) for error in rig.failures] == ["no voice"]
    rig.line.play_out()
    await rig.voice.all_heard()
    assert rig.heard == ["", "fine"]


async def test_when_the_line_is_gone_the_last_report_stands(rig: Rig) -> None:
    piece = rig.voice.say("one two three")
    await rig.voice.all_made()
    await rig.voice.played(on_line.Played(piece.mark, 150, False))
    rig.voice.settle_all()
    assert rig.heard == ["one two"]


async def test_cutting_silence_does_nothing(rig: Rig) -> None:
    await rig.voice.cut()
    assert rig.line.commands == []
