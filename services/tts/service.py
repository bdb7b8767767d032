"""Speaks requests, piece by piece and in fair turns.

One thread makes all speech: the engines are single by nature and many times faster than speech. A
request has one piece in that thread's queue at a time, so that a long text delays nobody by more
than a piece, and a request that is given up stops within a few milliseconds of sound.
"""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from services.common.audio import SAMPLE_RATE_HZ
from services.common.errors import LandlineError
from services.common.metrics import Counter, Gauge, Histogram
from services.tts.engine import EngineError, SpokenWord
from services.tts.pieces import pieces, speakable
from services.tts.sound import Resampler, SilenceTrimmer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from services.common.clock import Clock
    from services.tts.config import TtsConfig
    from services.tts.engine import Engine, Voice
    from services.tts.pieces import Piece

_ACTIVE = Gauge("landline_tts_requests_active", "Requests that are being spoken")
_REQUESTS = Counter("landline_tts_requests", "Requests by what became of them", ["outcome"])
_CHARACTERS = Counter("landline_tts_characters", "Characters of text spoken")
_FIRST_AUDIO_MS = Histogram(
    "landline_tts_first_audio_ms",
    "From a request to its first audio",
    buckets=(2, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
)
_MIN_RATE, _MAX_RATE = 0.5, 2.0
_log = structlog.get_logger()


class BadRequestError(LandlineError):
    """The request cannot be spoken as it is; the message says why."""


class ServiceFullError(LandlineError):
    """More requests than the service takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """Plain text, and how it is to sound. `rate` 1.0 is normal."""

    text: str
    voice: str = ""
    language: str = ""
    rate: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """16 kHz mono s16le PCM, and the words whose start is now known."""

    pcm: bytes
    words: tuple[SpokenWord, ...]


class SpeechService:
    """Admits requests and owns the thread that speaks."""

    def __init__(self, engine: Engine, config: TtsConfig, clock: Clock) -> None:
        self._engine = engine
        self._config = config
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "speak")
        self._active = 0

    async def synthesize(self, request: SpeechRequest) -> AsyncGenerator[Speech]:
        """Audio as it is made; closing the iterator stops the synthesis.

        BadRequestError, UnknownVoiceError or ServiceFullError come before any audio.
        """
        voice = self._check(request)
        self._active += 1
        _ACTIVE.inc()
        begun_ms = self._clock.now_ms()
        outcome, first = "cancelled", True
        try:
            async for speech in self._speak(request, voice):
                if first:
                    _FIRST_AUDIO_MS.observe(self._clock.now_ms() - begun_ms)
                    first = False
                yield speech
            outcome = "spoken"
        except EngineError:
            outcome = "failed"
            raise
        finally:
            self._active -= 1
            _ACTIVE.dec()
            _REQUESTS.labels(outcome=outcome).inc()

    def stop(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _check(self, request: SpeechRequest) -> Voice:
        longest = self._config.max_text_characters
        try:
            if len(request.text) > longest:
                raise BadRequestError(
                    f"the text has {len(request.text)} characters, more than the {longest} that "
                    "[tts] max_text_characters allows; send it in parts"
                )
            if not (math.isfinite(request.rate) and _MIN_RATE <= request.rate <= _MAX_RATE):
                raise BadRequestError(
                    f"rate {request.rate:g} is not between {_MIN_RATE} and {_MAX_RATE}"
                )
            if self._active >= self._config.max_concurrent:
                raise ServiceFullError(
                    f"already speaking {self._active} texts, the most that [tts] max_concurrent "
                    "allows"
                )
            return self._engine.voice(request.voice, request.language)
        except LandlineError:
            _REQUESTS.labels(outcome="refused").inc()
            raise

    async def _speak(self, request: SpeechRequest, voice: Voice) -> AsyncGenerator[Speech]:
        given_up = threading.Event()
        text = speakable(request.text)
        making = _Making(engine=self._engine, voice=voice, rate=request.rate, given_up=given_up)
        try:
            for piece in pieces(text, voice.max_piece_characters):
                _CHARACTERS.inc(len(piece.text))
                async for speech in self._run(making, piece):
                    yield speech
            if (rest := making.finish()) is not None:
                yield rest
        finally:
            given_up.set()

    async def _run(self, making: _Making, piece: Piece) -> AsyncGenerator[Speech]:
        """The speech of one piece, while the thread makes it."""
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Speech | None] = asyncio.Queue()
        making.send = lambda speech: loop.call_soon_threadsafe(made.put_nowait, speech)
        job = loop.run_in_executor(self._thread, making.speak, piece)
        job.add_done_callback(lambda _: made.put_nowait(None))
        while (speech := await made.get()) is not None:
            yield speech
        try:
            await job
        except LandlineError:
            raise
        except Exception as error:
            _log.exception("synthesis_failed")
            raise EngineError(f"synthesis failed: {error}") from error


@dataclass(slots=True, kw_only=True)
class _Making:
    """One request on its way from the engine to its caller; pieces follow each other."""

    engine: Engine
    voice: Voice
    rate: float
    given_up: threading.Event
    send: Callable[[Speech], object] = field(default=lambda speech: None)
    trimmer: SilenceTrimmer = field(default_factory=SilenceTrimmer)
    made_samples: int = 0
    waiting: list[SpokenWord] = field(default_factory=list)

    def speak(self, piece: Piece) -> None:
        """In the speaking thread."""
        if self.given_up.is_set():
            return
        resampler = Resampler(self.voice.sample_rate_hz, self.voice.gain)
        begin_ms = self.made_samples * 1000 / SAMPLE_RATE_HZ

        def deliver(pcm: bytes, words: Sequence[SpokenWord]) -> bool:
            self.waiting += [
                replace(
                    word,
                    text_offset=word.text_offset + piece.offset,
                    start_ms=word.start_ms + begin_ms,
                )
                for word in words
            ]
            self._pass_on(resampler.process(pcm))
            return not self.given_up.is_set()

        self.engine.speak(piece.text, self.voice, self.rate, deliver)
        self._pass_on(resampler.process(b"", last=True))

    def finish(self) -> Speech | None:
        """The end of the last piece."""
        return self._speech(self.trimmer.finish())

    def _pass_on(self, samples: NDArray[np.int16]) -> None:
        self.made_samples += len(samples)
        speech = self._speech(self.trimmer.process(samples))
        if speech is not None:
            self.send(speech)

    def _speech(self, samples: NDArray[np.int16]) -> Speech | None:
        """Words wait for the first sound: only then is it known how much silence went."""
        if not self.trimmer.heard or not (len(samples) or self.waiting):
            return None
        cut_ms = self.trimmer.cut_samples * 1000 / SAMPLE_RATE_HZ
        words = tuple(
            replace(word, start_ms=max(word.start_ms - cut_ms, 0.0)) for word in self.waiting
        )
        self.waiting = []
        return Speech(pcm=samples.tobytes(), words=words)
