"""Which engine speaks: the configured one, or for each voice and language the better one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from services.common.errors import ConfigError
from services.tts.config import EngineName
from services.tts.engines.espeak import EspeakEngine
from services.tts.engines.flite import GAINS, FliteEngine

if TYPE_CHECKING:
    from services.tts.config import TtsConfig
    from services.tts.engine import Deliver, Engine, Voice

_log = structlog.get_logger()


def open_engine(config: TtsConfig) -> Engine:
    """ConfigError when the configured engine is not installed."""
    match config.engine:
        case EngineName.ESPEAK:
            return EspeakEngine(config.espeak_voices)
        case EngineName.FLITE:
            return FliteEngine(config.flite_voice)
        case EngineName.AUTO:
            return AutoEngine(config)


class AutoEngine:
    """Flite's human-derived voices for English where it is installed, eSpeak NG for all else."""

    def __init__(self, config: TtsConfig) -> None:
        self._espeak = EspeakEngine(config.espeak_voices)
        try:
            self._flite: FliteEngine | None = FliteEngine(config.flite_voice)
        except ConfigError as error:
            self._flite = None
            _log.info("flite_not_used", reason=str(error))

    def voice(self, name: str, language: str) -> Voice:
        flite = self._flite
        if flite is not None and (name in flite.voices or (not name and _is_english(language))):
            return flite.voice(name, language)
        if flite is None and name in GAINS:
            # An agent file that names a Flite voice speaks without Flite too, in another voice.
            return self._espeak.voice("", language)
        return self._espeak.voice(name, language)

    def speak(self, text: str, voice: Voice, rate: float, deliver: Deliver) -> None:
        if self._flite is not None and voice.name in self._flite.voices:
            self._flite.speak(text, voice, rate, deliver)
        else:
            self._espeak.speak(text, voice, rate, deliver)


def _is_english(language: str) -> bool:
    """American English is what Flite speaks; other kinds are better left to eSpeak NG."""
    return language.lower().replace("_", "-") in ("", "en", "en-us")
