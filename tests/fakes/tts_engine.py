"""A voice that beeps for 50 ms for each character, and can be held up or made to fail."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.tts.engine import EngineError, SpokenWord, UnknownVoiceError, Voice
from tests.fakes.tones import tone

if TYPE_CHECKING:
    from services.tts.engine import Deliver

_CHARACTER_MS = 50
_BREAK = "BREAK"


@dataclass(slots=True)
class FakeEngine:
    """`go_on` can be cleared to hold up speech; `spoken` is what it has begun to say."""

    go_on: threading.Event = field(default_factory=threading.Event)
    spoken: list[str] = field(default_factory=list)
    delivered: int = 0
    stopped: int = 0

    def __post_init__(self) -> None:
        self.go_on.set()

    def voice(self, name: str, language: str) -> Voice:
        if name not in ("", "beep"):
            raise UnknownVoiceError(f"there is no voice {name!r}; there is beep")
        if not (language or "en").startswith("en"):
            raise UnknownVoiceError(f"no language {language!r}")
        return Voice(name="beep", sample_rate_hz=16_000, gain=0.35, max_piece_characters=100)

    def speak(self, text: str, voice: Voice, rate: float, deliver: Deliver) -> None:
        self.spoken.append(text)
        if _BREAK in text:
            raise EngineError("the fake was told to break")
        length_s = _CHARACTER_MS / 1000 / rate
        offset = 0
        for part in text.split(" "):
            self.go_on.wait(10)
            words = []
            if part:
                start_ms = offset * length_s * 1000
                words = [SpokenWord(text_offset=offset, text_length=len(part), start_ms=start_ms)]
            self.delivered += 1
            characters = min(len(part) + 1, len(text) - offset)
            if not deliver(tone(440, characters * length_s), words):
                self.stopped += 1
                return
            offset += len(part) + 1
