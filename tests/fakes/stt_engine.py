"""A recogniser whose audio carries its text in its samples (services.stt.engine)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from services.common import phrases
from services.stt.engine import (
    DEFAULT_SLOT,
    EngineError,
    HeardWord,
    Recognition,
    Slot,
    Vocabulary,
    VocabularyError,
)

_SAMPLES_PER_LETTER = 800
_BREAK = "!"


def spoken(text: str) -> bytes:
    """Audio that FakeEngine hears as `text`: 50 ms of each letter's code point."""
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype("<i2")
    return np.repeat(codes, _SAMPLES_PER_LETTER).tobytes()


@dataclass(slots=True)
class FakeEngine:
    """Counts what it gives out. `go_on` can be cleared to hold up all decoding."""

    go_on: threading.Event = field(default_factory=threading.Event)
    prepared: int = 0
    open_utterances: int = 0
    pieces: list[int] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    full: str = ""
    abandoned: int = 0
    hurried: int = 0

    def __post_init__(self) -> None:
        self.go_on.set()

    def prepare(self, vocabulary: Vocabulary) -> FakeRecogniser:
        if not vocabulary.phrase_sets:
            raise VocabularyError("there are no phrase sets")
        self.prepared += 1
        return FakeRecogniser(self, vocabulary)

    def threads(self, streams: int) -> int | None:
        return None

    def refusal(self, streams: int) -> str:
        return self.full

    def check(self) -> None:
        if not self.go_on.wait(0.05):
            raise EngineError("the fake is held up")

    def close(self) -> None:
        self.go_on.set()


@dataclass(slots=True)
class FakeRecogniser:
    engine: FakeEngine
    vocabulary: Vocabulary

    def begin(self, expect: tuple[str, ...], slot: Slot = DEFAULT_SLOT) -> FakeUtterance:
        self.engine.slots.append(slot)
        sets = {item.name: item.phrases for item in self.vocabulary.phrase_sets}
        for name in expect:
            if name not in sets:
                raise VocabularyError(f"there is no phrase set {name!r}")
        known = {
            " ".join(words)
            for name in expect or sets
            for phrase in sets[name]
            for words in phrases.expand(phrases.parse(phrase))
        }
        self.engine.open_utterances += 1
        return FakeUtterance(self.engine, known)


@dataclass(slots=True)
class FakeUtterance:
    engine: FakeEngine
    known: set[str]
    heard: bytearray = field(default_factory=bytearray)
    closed: bool = False

    def accept(self, pcm: bytes) -> None:
        self.engine.go_on.wait(10)
        self.engine.pieces.append(len(pcm))
        self.heard += pcm
        if _BREAK in self._text():
            raise EngineError("the fake was told to break")

    def partial(self) -> str:
        return self._text()

    def finish(self) -> Recognition:
        text = self._text()
        if not text:
            return Recognition(reason="no speech")
        if text not in self.known:
            return Recognition(rejected=True, rejected_text=text, reason="unknown phrase")
        return Recognition(text=text, confidence=0.9, words=tuple(_words(text)))

    def hurry(self) -> None:
        self.engine.hurried += 1

    def abandon(self) -> None:
        self.engine.abandoned += 1

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.engine.open_utterances -= 1

    def _text(self) -> str:
        samples = np.frombuffer(bytes(self.heard), dtype="<i2")[::_SAMPLES_PER_LETTER]
        return bytes(samples[samples > 0].astype(np.uint8)).decode("ascii").strip()


def _words(text: str) -> list[HeardWord]:
    words, at = [], 0
    for word in text.split():
        end = at + len(word)
        words.append(HeardWord(text=word, start_ms=at * 50, end_ms=end * 50, confidence=0.9))
        at = end + 1
    return words
