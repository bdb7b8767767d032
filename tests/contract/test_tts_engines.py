"""One suite for every voice: what services.tts.engine promises, and how it sounds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from services.common.clock import SystemClock
from services.tts.config import EngineName, TtsConfig
from services.tts.engine import Engine, SpokenWord, UnknownVoiceError
from services.tts.engines.choice import open_engine
from services.tts.service import Speech, SpeechRequest, SpeechService
from tests.fakes.tts_engine import FakeEngine

TEXT = "Thank you for calling. Our offices are open from nine to five, how can I help you?"
AUDIBLE = 330  # -40 dBFS


@dataclass(frozen=True)
class Subject:
    engine: Engine
    voices: tuple[str, ...]

    def raw(self, text: str, *, rate: float = 1.0, stop_after: int | None = None) -> list[int]:
        """Sizes of what the engine delivers."""
        sizes: list[int] = []

        def deliver(pcm: bytes, words: Sequence[SpokenWord]) -> bool:
            sizes.append(len(pcm))
            return stop_after is None or len(sizes) < stop_after

        self.engine.speak(text, self.engine.voice("", "en-US"), rate, deliver)
        return sizes

    async def speak(self, text: str, **how: str | float) -> Speech:
        """All of a text by way of the service."""
        service = SpeechService(self.engine, TtsConfig(), SystemClock())
        request = SpeechRequest(text=text, **how)  # type: ignore[arg-type]
        parts = [part async for part in service.synthesize(request)]
        service.stop()
        return Speech(
            pcm=b"".join(part.pcm for part in parts),
            words=tuple(word for part in parts for word in part.words),
        )


@pytest.fixture(scope="module", params=["fake", "espeak", "flite", "auto"])
def subject(request: pytest.FixtureRequest) -> Subject:
    voices = {
        "fake": ("", "beep"),
        "espeak": ("", "en-us", "en-gb+f3"),
        "flite": ("", "slt", "rms"),
        "auto": ("", "rms", "en-us+m2"),
    }
    if request.param == "fake":
        return Subject(FakeEngine(), voices["fake"])
    config = TtsConfig(engine=EngineName(request.param))
    return Subject(open_engine(config), voices[request.param])


def samples(speech: Speech) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.frombuffer(speech.pcm, dtype="<i2")


async def test_every_voice_speaks_at_one_level_and_never_clips(subject: Subject) -> None:
    for voice in subject.voices:
        audio = samples(await subject.speak(TEXT, voice=voice)).astype(np.float64)
        level_db = 20 * np.log10(np.sqrt(np.mean(audio**2)) / 32768)
        assert -23 < level_db < -17, f"{voice}: {level_db:.1f} dBFS"
        assert np.abs(audio).max() < 32_767


async def test_first_audio_is_audible_and_the_end_is_a_short_silence(subject: Subject) -> None:
    audible = np.flatnonzero(np.abs(samples(speech := await subject.speak(TEXT))) > AUDIBLE)
    assert audible[0] < 16 * 60
    assert 16 * 100 < len(speech.pcm) // 2 - audible[-1] < 16 * 250


async def test_every_word_is_named_once_at_its_place_and_in_time(subject: Subject) -> None:
    speech = await subject.speak(TEXT)
    named = [TEXT[w.text_offset : w.text_offset + w.text_length] for w in speech.words]
    expected = TEXT.replace(",", "").replace(".", "").replace("?", "").split()
    assert [word.strip(".,?") for word in named] == expected
    times = [word.start_ms for word in speech.words]
    assert times == sorted(times)
    assert 0 <= times[0] < 100
    assert times[-1] < len(speech.pcm) / 32
    # Seventeen words; none lasts longer than a second and a half, none sits on another.
    assert all(20 < b - a < 1_500 for a, b in itertools.pairwise(times))


async def test_offsets_count_characters_not_bytes(subject: Subject) -> None:
    text = "Zoë\u2019s café — naïve 😀 friends"
    speech = await subject.speak(text)
    named = [text[w.text_offset : w.text_offset + w.text_length] for w in speech.words]
    assert named[-1].strip() == "friends"
    assert any("caf" in word for word in named)
    assert "😀" not in "".join(named)


async def test_a_long_text_keeps_its_offsets_over_all_pieces(subject: Subject) -> None:
    text = " ".join(
        f"This is sentence number {n} of a long text, said in pieces." for n in range(30)
    )
    speech = await subject.speak(text)
    ends = [m.text_offset for m in speech.words if text[m.text_offset :].startswith("pieces")]
    assert len(ends) == 30
    times = [word.start_ms for word in speech.words]
    assert times == sorted(times)


def test_audio_comes_before_the_sentence_is_done(subject: Subject) -> None:
    assert len([size for size in subject.raw(TEXT) if size]) > 5


def test_stops_when_told_to(subject: Subject) -> None:
    assert len(subject.raw(TEXT, stop_after=2)) == 2
    assert len(subject.raw(TEXT)) > 5


def test_rate_changes_the_length(subject: Subject) -> None:
    slow, normal, fast = (sum(subject.raw(TEXT, rate=rate)) for rate in (0.7, 1.0, 1.5))
    assert slow > 1.2 * normal
    assert fast < 0.8 * normal
    assert sum(subject.raw(TEXT)) == pytest.approx(normal, rel=0.02)


async def test_markup_is_spoken_and_never_interpreted(subject: Subject) -> None:
    pause = await subject.speak('one <break time="9s"/> two')
    plain = await subject.speak("one two")
    assert len(plain.pcm) < len(pause.pcm) < len(plain.pcm) + 7 * 32_000
    named = [w.text_length for w in pause.words]
    assert len(named) > 2


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t", "😀🎉", "\x01\x02\x1b", "...", "?!", "\u200d\ufe0f"]
)
async def test_text_without_sound_is_no_audio(subject: Subject, text: str) -> None:
    assert await subject.speak(text) == Speech(pcm=b"", words=())


@pytest.mark.parametrize(
    "text", ["x" * 2_000, "\x00hello\x00", "\ud7ff\U0010ffff ok", "[[h@'loU]] <mark>", "% %s %n %d"]
)
async def test_strange_text_breaks_nothing(subject: Subject, text: str) -> None:
    assert (await subject.speak(text)).pcm
    assert (await subject.speak("hello")).pcm


@pytest.mark.parametrize(
    "voice", ["nobody", "../../etc/passwd", "en-us+nobody", "en us", "x" * 999]
)
def test_an_unknown_voice_is_named(subject: Subject, voice: str) -> None:
    with pytest.raises(UnknownVoiceError, match=r"voice"):
        subject.engine.voice(voice, "en-US")


def test_an_unknown_language_is_named(subject: Subject) -> None:
    with pytest.raises(UnknownVoiceError, match="'xx-YY'"):
        subject.engine.voice("", "xx-YY")
