"""Has text spoken by the TTS service, and survives the death of its process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog
from landline.tts.v1 import tts_pb2, tts_pb2_grpc

from services.agent.conversation import SpokenWord
from services.common.errors import LandlineError
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.common.clock import Clock

_RETRIES = Counter("landline_agent_tts_retries", "Syntheses begun again after the service failed")
_log = structlog.get_logger()


class TtsUnavailableError(LandlineError):
    """The TTS service did not answer for longer than the retry time."""


@dataclass(frozen=True, slots=True)
class SpokenAudio:
    """16 kHz mono s16le PCM, and the words whose start is now known."""

    pcm: bytes
    words: tuple[SpokenWord, ...]


class TtsClient:
    """Shared by all calls of the process."""

    def __init__(
        self, channel: grpc.aio.Channel, clock: Clock, *, retry_ms: float = 6_000.0
    ) -> None:
        self._stub = tts_pb2_grpc.TextToSpeechStub(channel)
        self._clock = clock
        self._retry_ms = retry_ms

    async def synthesize(
        self, call_id: str, text: str, *, voice: str, language: str
    ) -> AsyncIterator[SpokenAudio]:
        """The audio as it is made.

        When the service dies in mid-sentence, the sentence is made again by its successor and what
        was delivered already is skipped.
        """
        request = tts_pb2.SynthesizeRequest(
            call_id=call_id, text=text, voice=voice, language=language
        )
        deadline_ms = self._clock.now_ms() + self._retry_ms
        delivered = 0
        while True:
            try:
                seen = 0
                async for response in self._stub.Synthesize(request, wait_for_ready=False):
                    skip = min(max(delivered - seen, 0), len(response.pcm))
                    seen += len(response.pcm)
                    words = tuple(
                        SpokenWord(word.text_offset + word.text_length, word.start_ms)
                        for word in response.words
                    )
                    delivered = max(delivered, seen)
                    yield SpokenAudio(response.pcm[skip:], words)
                return
            except grpc.RpcError as error:
                code = error.code()
                if code is not grpc.StatusCode.UNAVAILABLE or self._clock.now_ms() >= deadline_ms:
                    raise TtsUnavailableError(f"TTS: {code.name}: {error.details()}") from error
                _RETRIES.inc()
                _log.warning("tts_retried", call_id=call_id, reason=error.details())
                await asyncio.sleep(0.2)
