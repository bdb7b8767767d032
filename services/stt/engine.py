"""What a speech recogniser must be able to do; engines/ holds the ways to do it.

All methods block, and none of them is called for the same object by two threads at a time, save
`Engine.prepare` and `Recogniser.begin`, which must bear it.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    language: str  # BCP 47
    phrase_sets: tuple[PhraseSet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardWord:
    """A word, and when it was said, counted from the utterance's first sample."""

    text: str
    start_ms: int
    end_ms: int
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


class Utterance(Protocol):
    """One stretch of speech. Audio is 16 kHz mono s16le PCM, in whole samples."""

    def accept(self, pcm: bytes) -> None:
        """Decode more audio."""

    def partial(self) -> str:
        """The best guess so far; empty when there is none."""

    def finish(self) -> Recognition:
        """Decode to the end. No other call but `close` may follow."""

    def close(self) -> None:
        """Give back what the utterance holds; harmless when done twice."""


class Recogniser(Protocol):
    """An engine prepared for one vocabulary."""

    def begin(self, expect: tuple[str, ...]) -> Utterance:
        """Listen for the named phrase sets, for all when empty; VocabularyError if unknown."""


class Engine(Protocol):
    """A recogniser of speech, shared by all calls of the process."""

    def prepare(self, vocabulary: Vocabulary) -> Recogniser:
        """Make ready for a vocabulary, or find it ready; VocabularyError when it cannot be."""
