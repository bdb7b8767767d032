"""What Whisper writes where nobody said it: tests that a text must pass to be believed.

Pure functions over a decoded text. Telephone lines are mostly silence, hold music and noise, on
which Whisper invents text; each guard catches one known kind.

Sources: thresholds of OpenAI's `transcribe.py` for compression, log-probability and no-speech;
Koenecke et al., "Careless Whisper", 2024, for loops and phrases.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import Field

from services.common.config import Section

if TYPE_CHECKING:
    from collections.abc import Sequence


class Guard(StrEnum):
    """Why a text is not believed."""

    NO_VOICE = "no_voice"
    COMPRESSION = "compression"
    LOG_PROBABILITY = "log_probability"
    NO_SPEECH = "no_speech"
    TOKEN_RATE = "token_rate"
    LOOP = "loop"
    BLOCKLIST = "blocklist"
    ECHO = "echo"


class GuardConfig(Section):
    """[stt.whisper.guards]: when a text is not believed. Each limit is the last value allowed."""

    min_voice_ms: float = Field(default=60.0, ge=0)  # less is not decoded at all
    compression_ratio: float = Field(default=2.4, gt=1)
    log_probability: float = Field(default=-1.0, lt=0)  # mean of the tokens, natural logarithm
    no_speech: float = Field(default=0.6, gt=0, le=1)
    tokens_per_second: float = Field(default=14.0, gt=0)  # of voice; fast speech has 8
    off: list[Guard] = Field(default_factory=list)  # that are not applied
    blocked_phrases: list[str] = Field(default_factory=list)  # beside the built-in ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A decoded text and what is known about it."""

    text: str
    tokens: int
    log_probability: float
    no_speech: float
    voice_ms: float
    hotwords: tuple[str, ...] = ()


def normalised(text: str) -> str:
    """Lower case, no accents, no punctuation, single spaces."""
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("'", "").replace("\u2019", ""))
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[^\w]+|_", " ", plain).split())


# Whole texts that Whisper learnt from subtitles. Nobody says these to an agent on the phone.
_INVENTED = frozenset(
    normalised(phrase)
    for phrase in (
        "Thank you for watching",
        "Thanks for watching",
        "Thank you so much for watching",
        "Thank you for watching and see you in the next video",
        "See you in the next video",
        "Please subscribe",
        "Please subscribe to my channel",
        "Like and subscribe",
        "Don't forget to subscribe",
        "Subtitles by the Amara.org community",
        "Subtitles by SteamTeamExtra",
        "Transcription by CastingWords",
        "Transcribed by https://otter.ai",
        "Copyright WDR",
        "Untertitel der Amara.org-Community",
        "Untertitel im Auftrag des ZDF",
        "Sous-titres réalisés par la communauté d'Amara.org",
        "Sottotitoli creati dalla comunità Amara.org",
        "Subtítulos realizados por la comunidad de Amara.org",
        "Music",
        "Applause",
        "Laughter",
        "Silence",
        "Blank audio",
    )
)
# Whole texts that are also said: they are doubted only where there was hardly any voice.
_DOUBTFUL = frozenset("you|thank you|thanks|bye|bye bye|okay|oh|uh|so|i".split("|"))
_DOUBTFUL_VOICE_MS = 200.0
_DOUBTFUL_NO_SPEECH = 0.3
_MIN_TOKENS = 8
_UNSURE_LOG_PROBABILITY = -0.5
_MAX_LOOP_WORDS = 8
# How often in a row words may come back, by how many they are. "No, no, no, no" is speech.
_MAX_REPEATS = {1: 8, 2: 4}
_MAX_REPEATS_LONGER = 2
_ECHO_WORDS = 4
_ECHO_SHARE = 0.8


def tripped(evidence: Evidence, limits: GuardConfig) -> tuple[Guard, ...]:
    """The guards that the text does not pass; none for an empty text."""
    words = normalised(evidence.text).split()
    if not words:
        return ()
    unlikely = evidence.log_probability < limits.log_probability
    unsure = evidence.log_probability < _UNSURE_LOG_PROBABILITY
    checks = {
        Guard.NO_VOICE: evidence.voice_ms < limits.min_voice_ms,
        Guard.COMPRESSION: compression_ratio(evidence.text) > limits.compression_ratio,
        Guard.LOG_PROBABILITY: unlikely,
        Guard.NO_SPEECH: evidence.no_speech > limits.no_speech and unsure,
        Guard.TOKEN_RATE: evidence.tokens > _allowed_tokens(evidence.voice_ms, limits),
        Guard.LOOP: loops(words),
        Guard.BLOCKLIST: _blocked(words, evidence, limits.blocked_phrases),
        Guard.ECHO: echoes(words, evidence.hotwords),
    }
    return tuple(guard for guard, failed in checks.items() if failed and guard not in limits.off)


def compression_ratio(text: str) -> float:
    """How much smaller zlib makes the text: repetition compresses well."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def loops(words: Sequence[str]) -> bool:
    """The same one to eight words come back in a row more often than people repeat themselves."""
    for size in range(1, _MAX_LOOP_WORDS + 1):
        allowed = _MAX_REPEATS.get(size, _MAX_REPEATS_LONGER)
        same = 0
        for at in range(size, len(words)):
            same = same + 1 if words[at] == words[at - size] else 0
            if same >= size * allowed:
                return True
    return False


def echoes(words: Sequence[str], hotwords: Sequence[str]) -> bool:
    """The text is nothing but the list of hotwords, in its order: the prompt read back."""
    prompt = normalised(" ".join(hotwords)).split()
    if len(words) < _ECHO_WORDS or len(prompt) < _ECHO_WORDS or len(hotwords) < 2:
        return False
    # One hotword that is said in full is no echo, however long it is.
    longest = max(len(normalised(word).split()) for word in hotwords)
    run = _longest_run(words, prompt)
    return run > longest and run >= max(_ECHO_WORDS, _ECHO_SHARE * len(words))


def _longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest stretch of words that stands in both."""
    best = 0
    previous = [0] * (len(other) + 1)
    for word in one:
        current = [0] * (len(other) + 1)
        for at, against in enumerate(other, 1):
            if word == against:
                current[at] = previous[at - 1] + 1
        best = max(best, *current)
        previous = current
    return best


def _allowed_tokens(voice_ms: float, limits: GuardConfig) -> float:
    return max(_MIN_TOKENS, limits.tokens_per_second * voice_ms / 1000)


def _blocked(words: Sequence[str], evidence: Evidence, more: Sequence[str]) -> bool:
    whole = " ".join(words)
    if whole in _INVENTED or whole in {normalised(phrase) for phrase in more}:
        return True
    hardly_voiced = evidence.voice_ms < _DOUBTFUL_VOICE_MS
    return whole in _DOUBTFUL and (hardly_voiced or evidence.no_speech > _DOUBTFUL_NO_SPEECH)
