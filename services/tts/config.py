"""[tts]: the engine that speaks, its voices and its limits."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from services.common.addresses import Address, HostPort
from services.common.config import Section


class EngineName(StrEnum):
    AUTO = "auto"  # flite for English where it is installed, else eSpeak NG
    ESPEAK = "espeak"
    FLITE = "flite"


class TtsConfig(Section):
    """[tts]: one process that speaks for many calls."""

    listen: Address = HostPort("127.0.0.1", 0)
    engine: EngineName = EngineName.AUTO
    flite_voice: str = "slt"  # for English when no voice is named
    # eSpeak NG: language, or language+variant, by language, when no voice is named.
    espeak_voices: dict[str, str] = Field(default_factory=dict)
    max_calls: int = Field(default=64, ge=1)  # calls at a time; more are refused
    max_concurrent: int = Field(default=128, ge=1)  # requests at a time; more are refused
    max_text_characters: int = Field(default=5_000, ge=1)
    metrics: Address | None = None
