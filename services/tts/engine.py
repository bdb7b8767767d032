"""What a speaking engine must be able to do; engines/ holds the ways to do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # Takes PCM and the words whose start is now known; False: stop speaking.
    Deliver = Callable[[bytes, Sequence["SpokenWord"]], bool]


class UnknownVoiceError(LandlineError):
    """No such voice or language; the message says which there are."""


class EngineError(LandlineError):
    """The engine itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord:
    """A word of the text (in characters), and when its sound begins in the audio."""

    text_offset: int
    text_length: int
    start_ms: float
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice as the engine knows it, and what to do with its sound."""

    name: str
    sample_rate_hz: int
    gain: float  # that brings it to the level of all voices
    max_piece_characters: int  # of text at once, so that no caller waits long for another


class Engine(Protocol):
    """All methods but `voice` are called from one thread."""

    def voice(self, name: str, language: str) -> Voice:
        """The voice of this name, or the default of the language (BCP 47) when it is empty.

        UnknownVoiceError when there is none. Quick, and safe from any thread.
        """

    def speak(self, text: str, voice: Voice, rate: float, deliver: Deliver) -> None:
        """Speak plain text; blocks until all is delivered or `deliver` returns False.

        Words and times count from the beginning of this text and its audio (mono s16le at the
        voice's own rate).
        """
