"""One suite for every recogniser: what services.stt.engine promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from services.common.phrases import PhraseSet
from services.stt.config import SttConfig
from services.stt.engine import (
    Engine,
    Recogniser,
    Recognition,
    Slot,
    Utterance,
    Vocabulary,
    VocabularyError,
)
from services.stt.engines.pocketsphinx import PocketSphinxEngine
from services.stt.engines.whisper.engine import WhisperEngine
from tests.fakes import stt_engine, telephone, tone_whisper

VOCABULARY = Vocabulary(
    language="en-US",
    phrase_sets=(
        PhraseSet(
            name="command",
            phrases=("what are your opening hours", "i want to book an appointment", "goodbye"),
        ),
        PhraseSet(name="day", phrases=("[on] (monday|tuesday|wednesday)",)),
    ),
)
OUTSIDE = "my favourite football team has lost another match"


@dataclass(frozen=True)
class Subject:
    make: Callable[[], Engine]
    engine: Engine
    speak: Callable[[str], bytes]

    def recogniser(self) -> Recogniser:
        return self.engine.prepare(VOCABULARY)

    def begin(self, *expect: str) -> Utterance:
        """Only what is expected may be said: what grammars always do, and others when asked."""
        return self.recogniser().begin(expect, Slot(closed=True))

    def hear(self, text: str, *expect: str) -> Recognition:
        utterance = self.begin(*expect)
        try:
            pcm = self.speak(text)
            for at in range(0, len(pcm), 640):
                utterance.accept(pcm[at : at + 640])
            return utterance.finish()
        finally:
            utterance.close()


@pytest.fixture(scope="module", params=["fake", "pocketsphinx", "whisper"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    make, speak = {
        "fake": (stt_engine.FakeEngine, stt_engine.spoken),
        "pocketsphinx": (pocketsphinx, telephone.flite),
        # Everything of the Whisper engine but the network, whose ears are for tones.
        "whisper": (tone_whisper.engine, tone_whisper.spoken),
    }[request.param]
    engine = make()
    yield Subject(make, engine, speak)
    engine.close()


def pocketsphinx() -> PocketSphinxEngine:
    return PocketSphinxEngine(rejection_margin=SttConfig().rejection_margin, pronunciations={})


@pytest.mark.parametrize(
    "text", ["what are your opening hours", "i want to book an appointment", "on wednesday"]
)
def test_hears_what_may_be_said(subject: Subject, text: str) -> None:
    heard = subject.hear(text)
    assert (heard.text, heard.rejected, heard.rejected_text) == (text, False, "")
    assert 0.5 < heard.confidence <= 1.0


def test_words_follow_each_other_within_the_audio(subject: Subject) -> None:
    words = subject.hear("i want to book an appointment").words
    assert [word.text for word in words] == "i want to book an appointment".split()
    length_ms = len(subject.speak("i want to book an appointment")) // 32
    times = [time for word in words for time in (word.start_ms, word.end_ms)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= length_ms


def test_rejects_what_is_in_no_grammar(subject: Subject) -> None:
    heard = subject.hear(OUTSIDE)
    assert heard.rejected
    assert heard.text == ""
    assert heard.reason


def test_hears_only_what_is_expected(subject: Subject) -> None:
    assert subject.hear("on monday", "day").text == "on monday"
    heard = subject.hear("what are your opening hours", "day")
    assert heard.rejected
    assert heard.text == ""


def test_an_unknown_expectation_is_an_error(subject: Subject) -> None:
    with pytest.raises(VocabularyError, match="nonsense"):
        subject.recogniser().begin(("nonsense",))


def test_no_phrases_at_all_is_an_error_where_they_are_all_that_is_heard(subject: Subject) -> None:
    if isinstance(subject.engine, WhisperEngine):
        anything = subject.engine.prepare(Vocabulary(language="en-US", phrase_sets=()))
        utterance = anything.begin(())
        utterance.accept(subject.speak(OUTSIDE))
        assert utterance.finish().text == OUTSIDE
        utterance.close()
        return
    with pytest.raises(VocabularyError, match="no phrase sets"):
        subject.engine.prepare(Vocabulary(language="en-US", phrase_sets=()))


@pytest.mark.parametrize("pcm", [b"", bytes(320), bytes(32_000)], ids=["none", "10ms", "1s"])
def test_silence_is_nothing_and_is_not_rejected(subject: Subject, pcm: bytes) -> None:
    utterance = subject.begin()
    utterance.accept(pcm)
    heard = utterance.finish()
    utterance.close()
    assert (heard.text, heard.rejected) == ("", False)


def test_guesses_while_audio_comes(subject: Subject) -> None:
    utterance = subject.begin()
    pcm = subject.speak("what are your opening hours")
    utterance.accept(pcm[: len(pcm) * 3 // 4 // 2 * 2])
    assert utterance.partial().startswith("what are your")
    utterance.close()
    utterance.close()


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "abandoned"])
@pytest.mark.parametrize("before", ["silence", "blip", "noise", "speech"])
def test_what_another_call_heard_before_changes_nothing(
    subject: Subject, before: str, finished: bool
) -> None:
    text = "i want to book an appointment"
    rng = np.random.default_rng(1)
    earlier = {
        "silence": bytes(160_000),
        "blip": bytes(640),
        "noise": rng.integers(34, 127, 48_000).astype("<i2").tobytes(),
        "speech": subject.speak("goodbye"),
    }[before]
    fresh = subject.make()
    alone = replace(subject, engine=fresh).hear(text)
    recogniser = fresh.prepare(VOCABULARY)
    for _ in range(3):
        other = recogniser.begin(())
        other.accept(earlier)
        if finished:
            other.finish()
        other.close()
        assert replace(subject, engine=fresh).hear(text) == alone
    assert alone.text == text


def test_utterances_in_several_threads_do_not_mix(subject: Subject) -> None:
    texts = ["what are your opening hours", "i want to book an appointment", "goodbye"] * 2
    for text in texts:
        subject.speak(text)
    heard: dict[int, str] = {}

    def listen(number: int, text: str) -> None:
        heard[number] = subject.hear(text).text

    threads = [threading.Thread(target=listen, args=item) for item in enumerate(texts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [heard[number] for number in range(len(texts))] == texts


def test_an_abandoned_utterance_holds_up_nobody(subject: Subject) -> None:
    utterance = subject.begin()
    utterance.accept(subject.speak("goodbye"))
    utterance.hurry()
    utterance.partial()
    utterance.abandon()
    utterance.finish()
    utterance.close()
    assert subject.hear("goodbye").text == "goodbye"


def test_the_engine_checks_itself_by_decoding(subject: Subject) -> None:
    subject.engine.check()
    assert subject.engine.refusal(0) == ""
