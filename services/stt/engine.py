"""What a speech recogniser must be able to do; engines/ holds the ways to do it.

All methods block, and none of them is called for the same object by two threads at a time, save
`Engine.prepare`, `Engine.check`, `Engine.refusal`, `Recogniser.begin`, `Utterance.hurry` and
`Utterance.abandon`, which must bear it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from services.common.errors import LandlineError

if TYPE_CHECKING:
    from services.common.phrases import PhraseSet


class VocabularyError(LandlineError):
    """What may be said cannot be recognised as it is written; the message says why."""


class EngineError(LandlineError):
    """The recogniser itself failed; the same audio may succeed with another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """All that a call may contain. Equal vocabularies share compiled grammars."""

    language: str  # BCP 47; "auto": the engine finds out, where it can
    phrase_sets: tuple[PhraseSet, ...]
    hotwords: tuple[str, ...] = ()  # names and terms that are likely in the whole call


class Numbers(StrEnum):
    """How numbers are written."""

    AS_HEARD = "as_heard"
    DIGITS = "digits"
    SPOKEN = "spoken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """How one utterance is to be heard. An engine ignores what it has no use for."""

    closed: bool = False  # what resembles no expected phrase is rejected; grammars always do so
    hotwords: tuple[str, ...] = ()
    language: str = ""  # instead of the call's
    numbers: Numbers = Numbers.AS_HEARD
    alternatives: int = 0  # how many further guesses are wanted


DEFAULT_SLOT = Slot()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardWord:
    """A word, and when it was said, counted from the utterance's first sample."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another guess, less likely than the text."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What was said. `rejected_text` is the best guess where it is not good enough."""

    text: str = ""
    confidence: float = 0.0
    rejected: bool = False
    rejected_text: str = ""
    reason: str = ""
    words: tuple[HeardWord, ...] = ()
    language: str = ""  # ISO 639-1, where the engine knows it
    alternatives: tuple[Alternative, ...] = ()


class Utterance(Protocol):
    """One stretch of speech. Audio is 16 kHz mono s16le PCM, in whole samples."""

    def accept(self, pcm: bytes) -> None:
        """Decode more audio."""

    def partial(self) -> str:
        """The best guess so far; empty when there is none."""

    def finish(self) -> Recognition:
        """Decode to the end. No other call but `close` may follow."""

    def hurry(self) -> None:
        """The speaker has finished: a `partial` that is under way returns what there is."""

    def abandon(self) -> None:
        """Nobody wants the result: whatever is under way returns soon, with anything."""

    def close(self) -> None:
        """Give back what the utterance holds; harmless when done twice."""


class Recogniser(Protocol):
    """An engine prepared for one vocabulary."""

    def begin(self, expect: tuple[str, ...], slot: Slot = DEFAULT_SLOT) -> Utterance:
        """Listen for the named phrase sets, for all when empty; VocabularyError if unknown."""


class Engine(Protocol):
    """A recogniser of speech, shared by all calls of the process."""

    def prepare(self, vocabulary: Vocabulary) -> Recogniser:
        """Make ready for a vocabulary, or find it ready; VocabularyError when it cannot be."""

    def threads(self, streams: int) -> int | None:
        """Threads that so many calls need; None: as many as there are processors to decode on."""

    def refusal(self, streams: int) -> str:
        """Why no call beside these `streams` can be taken now; empty when one can."""

    def check(self) -> None:
        """Really decode something; EngineError when that fails or takes far too long."""

    def close(self) -> None:
        """Stop what the engine runs by itself. Utterances that are open are abandoned."""
