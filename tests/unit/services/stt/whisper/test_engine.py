"""The engine around a decoder that hears tones: windows, partials, early finals, retries, slots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from services.common.clock import SystemClock
from services.common.phrases import PhraseSet
from services.stt.engine import (
    DEFAULT_SLOT,
    EngineError,
    Numbers,
    Slot,
    Utterance,
    Vocabulary,
    VocabularyError,
)
from services.stt.engines.whisper.config import WhisperConfig
from services.stt.engines.whisper.devices import Placed
from services.stt.engines.whisper.engine import WhisperEngine
from services.stt.engines.whisper.scheduler import Kind
from tests.fakes.tone_whisper import ToneDecoder, engine, loud, spoken

HELLO = "hello how are you today"
DAYS = PhraseSet(name="day", phrases=("(monday|tuesday|wednesday)",))
SILENCE_S = bytes(32_000)


@contextmanager
def listening(
    decoder: ToneDecoder,
    *,
    slot: Slot = DEFAULT_SLOT,
    expect: tuple[str, ...] = (),
    **settings: object,
) -> Iterator[tuple[WhisperEngine, Utterance]]:
    subject = engine(decoder, **settings)
    vocabulary = Vocabulary(language="en-GB", phrase_sets=(DAYS,), hotwords=("landline",))
    utterance = subject.prepare(vocabulary).begin(expect, slot)
    try:
        yield subject, utterance
    finally:
        decoder.go_on.set()
        utterance.close()
        subject.close()


def feed(utterance: Utterance, pcm: bytes) -> None:
    for at in range(0, len(pcm), 640):
        utterance.accept(pcm[at : at + 640])


def test_only_what_lies_around_the_voice_is_decoded() -> None:
    decoder = ToneDecoder()
    with listening(decoder) as (_, utterance):
        feed(utterance, SILENCE_S * 3 + spoken("hi") + SILENCE_S * 3)
        assert utterance.finish().text == "hi"
    frames = decoder.batches[-1][0].features.shape[1]
    # 200 ms of tones, 300 ms before, 200 ms behind, and the grain of the voice detector.
    assert 65 <= frames <= 80


def test_words_have_times_in_the_utterance_and_confidence() -> None:
    with listening(ToneDecoder()) as (_, utterance):
        feed(utterance, SILENCE_S + spoken("one two"))
        words = utterance.finish().words
    assert [word.text for word in words] == ["one", "two"]
    assert words[0].start_ms == pytest.approx(1_500, abs=20)
    assert words[1].end_ms == pytest.approx(2_200, abs=40)
    assert all(word.confidence == pytest.approx(0.9) for word in words)


def test_each_partial_forces_what_two_before_it_agreed_on() -> None:
    decoder = ToneDecoder()
    pcm = spoken(HELLO)
    texts = []
    with listening(decoder) as (_, utterance):
        for part in range(0, len(pcm) - 19_200, 12_800):
            feed(utterance, pcm[part : part + 12_800])
            texts.append(utterance.partial())
    prefixes = [
        decoder.tokens.decode(batch[0].prompt.prefix)
        for batch in decoder.batches
        if batch[0].frames < 600
    ]
    assert len(texts) >= 4
    assert all(HELLO.startswith(text) for text in texts)
    assert prefixes[:2] == ["", ""]
    assert any(prefix == "hello" for prefix in prefixes)
    assert all(HELLO.startswith(prefix) for prefix in prefixes)


def test_partials_of_a_long_utterance_look_at_its_last_words_only() -> None:
    decoder = ToneDecoder()
    text = "this is a rather long story about a man who went to the sea to fish for cod"
    pcm = spoken(text)
    with listening(decoder) as (_, utterance):
        for part in range(0, len(pcm) - 19_200, 9_600):
            feed(utterance, pcm[part : part + 9_600])
            partial = utterance.partial()
            assert text.startswith(partial)
        assert len(partial) > len(text) - 12
        assert utterance.finish().text == text
    late = [batch[0] for batch in decoder.batches if batch[0].prompt.prefix][-5:]
    assert all(request.features.shape[1] < 350 for request in late)
    assert all(len(request.prompt.prefix) < 24 for request in late)


def test_the_final_begins_at_the_pause_and_is_there_at_the_end() -> None:
    decoder = ToneDecoder()
    with listening(decoder) as (_, utterance):
        feed(utterance, spoken(HELLO))
        before = len(decoder.batches)
        assert utterance.finish().text == HELLO
        assert len(decoder.batches) <= max(before, 1)
        assert sum(batch[0].align for batch in decoder.batches) == 1


def test_speech_after_the_pause_makes_a_new_final() -> None:
    decoder = ToneDecoder()
    with listening(decoder) as (_, utterance):
        feed(utterance, spoken("hello") + spoken("again"))
        assert utterance.finish().text.replace(" ", "") == "helloagain"
        assert sum(batch[0].align for batch in decoder.batches) == 2


def test_finals_of_several_calls_share_a_batch() -> None:
    decoder = ToneDecoder()
    texts = ["monday", "tuesday", "friday", "sunday"]
    subject = engine(decoder, batch_window_ms=60, soft_end_ms=5_000)
    recogniser = subject.prepare(Vocabulary(language="en", phrase_sets=()))
    utterances = [recogniser.begin(()) for _ in texts]
    for utterance, text in zip(utterances, texts, strict=True):
        feed(utterance, spoken(text))
    with ThreadPoolExecutor(4) as threads:
        heard = list(threads.map(lambda utterance: utterance.finish().text, utterances))
    assert heard == texts
    assert decoder.kinds() == [4]
    subject.close()


def test_one_call_that_breaks_the_device_leaves_the_others_of_its_batch_alone() -> None:
    decoder = ToneDecoder(break_on="z")
    subject = engine(decoder, batch_window_ms=60, soft_end_ms=5_000)
    recogniser = subject.prepare(Vocabulary(language="en", phrase_sets=()))
    good, bad = recogniser.begin(()), recogniser.begin(())
    feed(good, spoken("fine"))
    feed(bad, spoken("zz"))
    with ThreadPoolExecutor(2) as threads:
        fine, broken = threads.submit(good.finish), threads.submit(bad.finish)
        assert fine.result().text == "fine"
        with pytest.raises(EngineError, match="told to break"):
            broken.result()
    subject.close()


def test_an_invented_text_is_tried_again_over_a_full_window() -> None:
    decoder = ToneDecoder(inventions=["thank you for watching"])
    with listening(decoder) as (_, utterance):
        feed(utterance, spoken("hello"))
        assert utterance.finish().text == "hello"
    again = decoder.batches[-1][0]
    assert (again.frames, again.beam) == (3_000, 5)


def test_what_is_invented_twice_is_rejected_and_shown() -> None:
    decoder = ToneDecoder(inventions=["thank you for watching"] * 2)
    with listening(decoder) as (_, utterance):
        feed(utterance, spoken("hello"))
        heard = utterance.finish()
    assert (heard.text, heard.rejected) == ("", True)
    assert heard.rejected_text == "thank you for watching"
    assert "blocklist" in heard.reason


def test_hints_that_are_read_back_are_left_out_of_the_second_try() -> None:
    names = ("oak", "elm", "ash", "fir")
    decoder = ToneDecoder(inventions=["oak elm ash fir"])
    with listening(decoder, slot=Slot(hotwords=names)) as (_, utterance):
        feed(utterance, spoken("hello there"))
        assert utterance.finish().text == "hello there"
    assert decoder.batches[0][0].prompt.previous != ()
    assert decoder.batches[-1][0].prompt.previous == ()


def test_hints_of_call_and_slot_stand_before_the_transcript_in_a_common_length() -> None:
    decoder = ToneDecoder()
    with listening(decoder, slot=Slot(hotwords=("clinic",))) as (_, utterance):
        feed(utterance, spoken("hello"))
        utterance.finish()
    prompt = decoder.batches[0][0].prompt
    assert len(prompt.previous) in (16, 32, 64)
    assert decoder.tokens.decode(prompt.previous).endswith(" clinic, landline")


def test_a_closed_slot_takes_the_guess_that_fits() -> None:
    decoder = ToneDecoder(further=("tuesday", "choose day"))
    slot = Slot(closed=True)
    with listening(decoder, slot=slot, expect=("day",)) as (_, utterance):
        feed(utterance, spoken("two stay"))
        heard = utterance.finish()
    assert heard.text == "tuesday"
    assert decoder.batches[0][0].hypotheses == 4


def test_alternatives_are_told_where_they_are_wanted() -> None:
    decoder = ToneDecoder(further=("yellow", "mellow"))
    with listening(decoder, slot=Slot(alternatives=1)) as (_, utterance):
        feed(utterance, spoken("hello"))
        heard = utterance.finish()
    assert heard.text == "hello"
    assert [guess.text for guess in heard.alternatives] == ["yellow"]
    assert heard.alternatives[0].confidence < heard.confidence


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [(Numbers.AS_HEARD, "four two"), (Numbers.DIGITS, "42"), (Numbers.SPOKEN, "four two")],
)
def test_numbers_are_written_as_the_slot_wants_them(numbers: Numbers, expected: str) -> None:
    with listening(ToneDecoder(), slot=Slot(numbers=numbers)) as (_, utterance):
        feed(utterance, spoken("four two"))
        assert utterance.finish().text == expected


def test_an_utterance_longer_than_a_window_is_cut_at_a_pause() -> None:
    decoder = ToneDecoder()
    pause = bytes(16_000)
    parts = [
        "the first part of it",
        "then something else",
        "which goes on and on",
        "until nobody knows",
        "how it ever began",
        "nor why it was said",
        "but here is the end",
    ]
    with listening(decoder) as (_, utterance):
        for part in parts:
            feed(utterance, spoken(part) + pause)
        heard = utterance.finish()
    assert heard.text.replace(" ", "") == "".join(parts).replace(" ", "")
    assert all(batch[0].features.shape[1] <= 3_000 for batch in decoder.batches)
    times = [word.start_ms for word in heard.words]
    assert times == sorted(times)


def test_minutes_of_silence_are_never_decoded() -> None:
    decoder = ToneDecoder()
    with listening(decoder) as (_, utterance):
        for _ in range(40):
            utterance.accept(SILENCE_S)
        assert utterance.partial() == ""
        assert utterance.finish().reason == "no speech"
    assert decoder.batches == []


def test_a_partial_under_way_gives_way_to_the_end() -> None:
    decoder = ToneDecoder()
    with listening(decoder) as (_, utterance):
        decoder.go_on.clear()
        feed(utterance, spoken(HELLO)[:-16_000])
        waiting = threading.Thread(target=utterance.partial)
        waiting.start()
        while not decoder.batches:
            waiting.join(0.01)
        utterance.hurry()
        waiting.join(2)
        assert not waiting.is_alive()
        decoder.go_on.set()
        assert utterance.finish().text == HELLO


def test_an_abandoned_utterance_leaves_the_queue() -> None:
    decoder = ToneDecoder()
    decoder.go_on.clear()
    with listening(decoder) as (subject, utterance):
        # The first batch holds the device up, so that the utterance has to wait in the queue.
        busy = subject.prepare(Vocabulary(language="en", phrase_sets=())).begin(())
        feed(busy, spoken("hello"))
        while not decoder.batches:
            threading.Event().wait(0.01)
        feed(utterance, spoken("hello"))
        assert len(subject.batcher) == 1
        utterance.abandon()
        assert len(subject.batcher) == 0
        decoder.go_on.set()
        assert busy.finish().text == "hello"
    assert decoder.kinds() == [1]


def test_a_final_that_takes_too_long_says_so() -> None:
    decoder = ToneDecoder()
    decoder.go_on.clear()
    with listening(decoder, final_deadline_ms=100) as (_, utterance):
        feed(utterance, spoken("hello"))
        heard = utterance.finish()
    assert heard.rejected
    assert heard.reason == "not decoded within 100 ms"


def test_two_devices_decode_at_the_same_time() -> None:
    decoders = (ToneDecoder(), ToneDecoder())
    for decoder in decoders:
        decoder.go_on.clear()
    subject = WhisperEngine(
        WhisperConfig(batch_window_ms=0),
        SystemClock(),
        Placed(decoders, "tones", riders=True, max_partials=16),
        lambda: loud,
    )
    recogniser = subject.prepare(Vocabulary(language="en", phrase_sets=()))
    one, other = recogniser.begin(()), recogniser.begin(())
    feed(one, spoken("one"))
    feed(other, spoken("other"))
    while not all(decoder.batches for decoder in decoders):
        threading.Event().wait(0.01)
    for decoder in decoders:
        decoder.go_on.set()
    assert (one.finish().text, other.finish().text) == ("one", "other")
    subject.close()


def test_a_partial_that_has_waited_too_long_is_dropped_and_the_last_one_stands() -> None:
    decoder = ToneDecoder()
    with listening(decoder, partial_age_ms=30) as (subject, utterance):
        feed(utterance, spoken(HELLO)[:-16_000])
        first = utterance.partial()
        assert HELLO.startswith(first)
        decoder.go_on.clear()
        busy = subject.prepare(Vocabulary(language="en", phrase_sets=())).begin(())
        feed(busy, spoken("busy"))
        while len(decoder.batches) < 2:
            threading.Event().wait(0.01)
        with ThreadPoolExecutor(1) as threads:
            partial = threads.submit(utterance.partial)
            threading.Event().wait(0.1)
            decoder.go_on.set()
            assert partial.result(5) == first
        assert busy.finish().text == "busy"
    assert len(decoder.batches) == 2


def test_the_check_notices_a_device_that_fails() -> None:
    decoder = ToneDecoder()
    with listening(decoder) as (subject, _):
        subject.check()
        decoder.break_on = ""
        with pytest.raises(EngineError, match="told to break"):
            subject.check()


def test_languages_are_the_model_s_and_the_configuration_s() -> None:
    subject = engine(languages=["en", "de"])
    try:
        assert subject.language("en-GB") == "en"
        assert subject.language("auto") == ""
        with pytest.raises(VocabularyError, match="not among"):
            subject.language("fr")
        with pytest.raises(VocabularyError, match="does not know"):
            subject.language("xx-YY")
    finally:
        subject.close()


def test_a_slot_may_be_spoken_in_another_language() -> None:
    decoder = ToneDecoder()
    with listening(decoder, slot=Slot(language="de")) as (_, utterance):
        feed(utterance, spoken("hallo"))
        assert utterance.finish().language == "de"
    assert decoder.batches[0][0].prompt.task == decoder.tokens.task("de")


def test_finals_are_decoded_over_the_full_window_unless_told_otherwise() -> None:
    decoder = ToneDecoder()
    subject = engine(decoder)
    settings = WhisperConfig()
    assert settings.short_finals is False
    subject.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows_s": [6, 3, 30]}, "must grow"),
        ({"windows_s": [3, 6]}, "must be 30"),
        ({"voice_on": 0.3, "voice_off": 0.5}, "voice_off"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhisperConfig.model_validate(settings)


def test_kinds_are_ordered_by_urgency() -> None:
    assert sorted(Kind) == [Kind.FINAL, Kind.EARLY_FINAL, Kind.PARTIAL]
