"""A decoder for the Whisper engine that understands letters sent as tones.

It sees nothing but the features that Whisper would see, so that everything around the model is
real: features, windows, voice, batches, agreement, guards and words.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.clock import SystemClock
from services.stt.engine import EngineError
from services.stt.engines.whisper.config import WhisperConfig
from services.stt.engines.whisper.decoding import Decoded, Hypothesis, Request, TokenTime
from services.stt.engines.whisper.devices import Placed
from services.stt.engines.whisper.engine import WhisperEngine
from services.stt.engines.whisper.mel import mel_bank
from services.stt.engines.whisper.tokens import WhisperTokens
from tests.fakes import whisper_model

_LETTERS = " abcdefghijklmnopqrstuvwxyz'"
_MELS = 80
_FIRST_BAND = 14
_BANDS_PER_LETTER = 2
_TONE_SAMPLES = 1_280
_GAP_SAMPLES = 320
_SILENCE = bytes(16_000)
_AUDIBLE = 0.02
_MIN_FRAMES = 4
_LOUD = 0.6


def spoken(text: str) -> bytes:
    """Audio that ToneDecoder hears as `text`: 80 ms of tone for each letter, silence around."""
    bank = mel_bank(_MELS)
    bins = np.fft.rfftfreq(400, 1 / 16_000)
    time = np.arange(_TONE_SAMPLES) / 16_000
    fade = np.minimum(
        1.0, np.minimum(np.arange(_TONE_SAMPLES), np.arange(_TONE_SAMPLES)[::-1]) / 80
    )
    pieces = []
    for letter in text:
        hertz = float(bins[np.argmax(bank[_band(letter)])])
        tone = np.sin(2 * np.pi * hertz * time) * fade * 8_000
        pieces.append(np.pad(tone, (0, _GAP_SAMPLES)))
    tones = np.concatenate(pieces).astype("<i2").tobytes() if pieces else b""
    return _SILENCE + tones + _SILENCE


def loud(window: NDArray[np.float32]) -> float:
    """Tells tones from silence, as a VoiceDetector."""
    return float(np.sqrt(np.mean(window**2)) > _AUDIBLE)


def engine(decoder: ToneDecoder | None = None, **settings: Any) -> WhisperEngine:
    """The Whisper engine around this decoder."""
    placed = Placed((decoder or ToneDecoder(),), "tones", riders=True, max_partials=16)
    config = WhisperConfig(short_finals=True, **settings)
    return WhisperEngine(config, SystemClock(), placed, lambda: loud)


@cache
def tone_tokens() -> WhisperTokens:
    return WhisperTokens(whisper_model.toy() / "tokenizer.json", multilingual=True)


@dataclass
class ToneDecoder:
    """services.stt.engines.whisper.decoding.Decoder. Keeps the sizes and kinds of its batches.

    `go_on` can be cleared to hold it up; `inventions` are texts that it hears in place of others,
    one after the other, as a real model does when it makes things up.
    """

    tokens: WhisperTokens = field(default_factory=tone_tokens)
    mels: int = _MELS
    go_on: threading.Event = field(default_factory=threading.Event)
    batches: list[list[Request]] = field(default_factory=list)
    inventions: list[str] = field(default_factory=list)
    break_on: str = "\0"
    further: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.go_on.set()

    def kinds(self) -> list[int]:
        """How many windows each batch had."""
        return [len(batch) for batch in self.batches]

    def decode(self, requests: Sequence[Request]) -> list[Decoded]:
        self.batches.append(list(requests))
        self.go_on.wait(10)
        assert len({request.shape for request in requests}) == 1
        return [self._decode(request) for request in requests]

    def _decode(self, request: Request) -> Decoded:
        runs = list(_runs(request.features))
        heard = "".join(letter for letter, _, _ in runs)
        if self.break_on in heard:
            raise EngineError("the device was told to break")
        if self.inventions:
            heard = self.inventions.pop(0)
        tokens = tuple(
            token
            for letter in heard
            for token in self.tokens._tokenizer.encode(letter, add_special_tokens=False).ids
        )
        prefix = request.prompt.prefix
        kept = (*prefix, *tokens[len(prefix) :])[: len(prefix) + request.max_tokens]
        times = [TokenTime(first * 10, end * 10, 0.9) for _, first, end in runs]
        times += [TokenTime(0, 0, 0.9)] * (len(kept) - len(times))
        further = [
            Hypothesis(tokens=self._encoded(text), log_probability=-0.6) for text in self.further
        ]
        return Decoded(
            hypotheses=(Hypothesis(tokens=kept, log_probability=-0.1), *further)[
                : request.hypotheses
            ],
            no_speech=0.01,
            language=request.language or "en",
            times=tuple(times[: len(kept)]) if request.align else (),
        )

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokens._tokenizer.encode(text, add_special_tokens=False).ids)


def _band(letter: str) -> int:
    return _FIRST_BAND + _BANDS_PER_LETTER * _LETTERS.index(letter)


def _runs(features: NDArray[np.float32]) -> list[tuple[str, int, int]]:
    """Letters with their first and last frame: what lies between two silent moments."""
    if features.size == 0:
        return []
    audible = features.max(axis=0) > features.max() - _LOUD
    found: list[tuple[str, int, int]] = []
    start: int | None = None
    for frame in range(features.shape[1] + 1):
        on = frame < features.shape[1] and bool(audible[frame])
        if on and start is None:
            start = frame
        elif not on and start is not None:
            if frame - start >= _MIN_FRAMES:
                bands = np.argmax(features[:, start:frame], axis=0)
                band = Counter(bands.tolist()).most_common(1)[0][0]
                index = round((band - _FIRST_BAND) / _BANDS_PER_LETTER)
                found.append((_LETTERS[min(max(index, 0), len(_LETTERS) - 1)], start, frame))
            start = None
    return found
