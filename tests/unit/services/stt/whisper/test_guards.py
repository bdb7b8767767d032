"""What Whisper invents is not believed, and what people say is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.stt.engines.whisper.guards import (
    Evidence,
    Guard,
    GuardConfig,
    compression_ratio,
    echoes,
    loops,
    normalised,
    tripped,
)

SOUND = Evidence(
    text="I would like to book an appointment.",
    tokens=8,
    log_probability=-0.2,
    no_speech=0.05,
    voice_ms=2_000,
)
LIMITS = GuardConfig()


def guards(text: str, **changes: object) -> list[str]:
    evidence = replace(SOUND, text=text, tokens=len(text.split()) + 2, **changes)
    return [guard.value for guard in tripped(evidence, LIMITS)]


@pytest.mark.parametrize(
    ("text", "voice_ms"),
    [
        ("I would like to book an appointment.", 2_000),
        ("No, no, no, no, no.", 1_800),
        ("Yes.", 300),
        ("Thank you.", 600),
        ("Bye.", 350),
        ("My number is 0 7 7 9 9 9 9 9 9.", 3_500),
        ("two two two two", 1_500),
        ("It's very, very, very, very important.", 2_500),
        ("What the hell is this shit, I want a real person.", 2_500),
        ("", 500),
    ],
)
def test_what_people_say_is_believed(text: str, voice_ms: float) -> None:
    assert guards(text, voice_ms=voice_ms) == []


@pytest.mark.parametrize(
    ("guard", "text", "changes"),
    [
        ("no_voice", "Hello there.", {"voice_ms": 30}),
        ("log_probability", "Hello there.", {"log_probability": -1.4}),
        ("no_speech", "Hello there.", {"no_speech": 0.8, "log_probability": -0.7}),
        ("token_rate", " ".join(f"word{n}" for n in range(60)), {"voice_ms": 1_000}),
        ("loop", "so " * 12, {"voice_ms": 9_000}),
        ("loop", "and then we go " * 4, {"voice_ms": 9_000}),
        ("compression", "the same old thing " * 12, {"voice_ms": 30_000}),
        ("blocklist", "Thank you for watching!", {}),
        ("blocklist", "Thanks for watching.", {}),
        ("blocklist", "Subtitles by the Amara.org community", {}),
        ("blocklist", "Untertitel der Amara.org-Community", {}),
        ("blocklist", "Sous-titres réalisés par la communauté d'Amara.org", {}),
        ("blocklist", "Thank you.", {"voice_ms": 120}),
        ("blocklist", "you", {"no_speech": 0.5}),
        ("echo", "Aspirin, Ibuprofen, Paracetamol, Naproxen", {
            "hotwords": ("Aspirin", "Ibuprofen", "Paracetamol", "Naproxen")}),
    ],
)  # fmt: skip
def test_what_whisper_invents_is_not(guard: str, text: str, changes: dict[str, object]) -> None:
    assert guard in guards(text, **changes)


def test_no_speech_alone_is_not_held_against_a_sure_text() -> None:
    assert guards("Hello there.", no_speech=0.9, log_probability=-0.1) == []


def test_own_phrases_can_be_blocked_and_guards_turned_off() -> None:
    evidence = replace(SOUND, text="Powered by Acme!")
    more = GuardConfig(blocked_phrases=["powered by acme"])
    assert tripped(evidence, more) == (Guard.BLOCKLIST,)
    off = GuardConfig(blocked_phrases=["powered by acme"], off=[Guard.BLOCKLIST])
    assert tripped(evidence, off) == ()


@pytest.mark.parametrize(
    ("text", "hotwords", "expected"),
    [
        ("aspirin", ("aspirin", "ibuprofen", "naproxen", "codeine"), False),
        ("doctor emily van der berg", ("doctor emily van der berg", "doctor lee"), False),
        ("i take aspirin and codeine", ("aspirin", "ibuprofen", "naproxen", "codeine"), False),
        (
            "ibuprofen naproxen codeine tramadol",
            "aspirin ibuprofen naproxen codeine tramadol",
            True,
        ),
        ("one two three four five", (), False),
    ],
)
def test_only_the_list_read_back_is_an_echo(
    text: str, hotwords: tuple[str, ...] | str, expected: bool
) -> None:
    words = tuple(hotwords.split()) if isinstance(hotwords, str) else hotwords
    assert echoes(text.split(), words) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d e f", False),
        ("no no no no no no no no", False),
        ("no " * 10, True),
        ("bye bye bye bye", False),
        ("thank you " * 6, True),
        ("i am fine and i am fine and", False),
        ("i am fine and " * 3, True),
        ("", False),
    ],
)
def test_loops(text: str, expected: bool) -> None:
    assert loops(text.split()) is expected


def test_texts_are_compared_without_accents_case_and_punctuation() -> None:
    assert normalised("  Déjà-vu: it's OK! ") == "deja vu its ok"
    assert compression_ratio("") == 0.0
