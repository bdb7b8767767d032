"""Which engine speaks where Flite is there, and where it is not."""

from __future__ import annotations

import pytest

from services.common.errors import ConfigError
from services.tts.config import EngineName, TtsConfig
from services.tts.engine import UnknownVoiceError
from services.tts.engines import choice
from services.tts.engines.choice import open_engine
from services.tts.engines.flite import to_ascii


def no_flite(default: str) -> None:
    raise ConfigError("Flite is not installed")


@pytest.mark.parametrize(
    ("name", "language", "voice"),
    [
        ("", "en-US", "slt"),
        ("", "", "slt"),
        ("rms", "en-US", "rms"),
        ("", "en-GB", "en-gb"),
        ("", "de-AT", "de"),
        ("en-us+f3", "en-US", "en-us+f3"),
    ],
)
def test_english_is_for_flite_and_the_rest_for_espeak(name: str, language: str, voice: str) -> None:
    assert open_engine(TtsConfig()).voice(name, language).name == voice


def test_without_flite_its_voices_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FliteEngine", no_flite)
    engine = open_engine(TtsConfig())
    assert engine.voice("slt", "en-US").name == "en-us"
    assert engine.voice("", "en-US").name == "en-us"
    with pytest.raises(UnknownVoiceError):
        engine.voice("nobody", "en-US")
    with pytest.raises(ConfigError, match="not installed"):
        open_engine(TtsConfig(engine=EngineName.FLITE))


def test_the_configured_default_voice_of_a_language_is_taken() -> None:
    voices = {"en": "en-us+f2", "de": "de+m3"}
    engine = open_engine(TtsConfig(engine=EngineName.ESPEAK, espeak_voices=voices))
    assert engine.voice("", "en-US").name == "en-us"
    assert engine.voice("", "en-AU").name == "en-us+f2"
    assert engine.voice("", "de-DE").name == "de+m3"


@pytest.mark.parametrize(
    "config",
    [
        TtsConfig(espeak_voices={"en": "en-us+nobody"}),
        TtsConfig(engine=EngineName.FLITE, flite_voice="nobody"),
    ],
)
def test_a_default_voice_that_is_not_there_stops_the_start(config: TtsConfig) -> None:
    with pytest.raises((UnknownVoiceError, ConfigError), match="nobody"):
        open_engine(config)


def test_letters_that_flite_does_not_know_keep_their_place() -> None:
    assert to_ascii("Zoë’s café — naïve 日 ½") == "Zoe's cafe , naive   1"  # noqa: RUF001
