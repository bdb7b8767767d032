"""One call's ear: a stream to the STT service that outlives the service's process.

Audio of the utterance in progress is kept, so that it can be sent again to a restarted service.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog
from landline.stt.v1 import stt_pb2, stt_pb2_grpc

from services.common.audio import SAMPLE_RATE_HZ
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.common.phrases import PhraseSet

_RECONNECTS = Counter("landline_agent_stt_reconnects", "Recognition streams opened again")
_LOST = Counter("landline_agent_stt_utterances_lost", "Utterances that no service could recognise")
_PRE_ROLL_SAMPLES = SAMPLE_RATE_HZ * 6 // 10
_MAX_KEPT_SAMPLES = SAMPLE_RATE_HZ * 35
_RETRY_DELAY_S = 0.2
_MAX_WAITING = 2_000  # 40 s of frames
_AUDIO_DROPPED = Counter("landline_agent_stt_frames_dropped", "Frames the recogniser did not take")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A final result. `lost`: the service was away too long, nothing is known."""

    utterance: int
    text: str
    confidence: float = 0.0
    rejected: bool = False
    rejected_text: str = ""
    reason: str = ""
    decode_ms: int = 0
    lost: bool = False


@dataclass(slots=True)
class _Utterance:
    number: int
    expect: tuple[str, ...]
    chunks: list[tuple[int, bytes]] = field(default_factory=list)
    kept_samples: int = 0
    ended: bool = False


class SttClient:
    """Feeds audio and utterance marks; results come through the two callbacks."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        call_id: str,
        language: str,
        phrase_sets: tuple[PhraseSet, ...],
        on_partial: Callable[[int, str], None],
        on_final: Callable[[Recognised], None],
        give_up_after_ms: float = 5_000.0,
    ) -> None:
        self._stub = stt_pb2_grpc.SpeechToTextStub(channel)
        self._configure = stt_pb2.Configure(
            call_id=call_id,
            language=language,
            phrase_sets=[
                stt_pb2.PhraseSet(
                    name=item.name,
                    phrases=item.phrases,
                    min_repeats=item.min_repeats,
                    max_repeats=item.max_repeats,
                )
                for item in phrase_sets
            ],
        )
        self._on_partial = on_partial
        self._on_final = on_final
        self._give_up_attempts = int(give_up_after_ms / 1000 / _RETRY_DELAY_S)
        self._open: dict[int, _Utterance] = {}
        self._speaking: _Utterance | None = None
        self._pre_roll: deque[tuple[int, bytes]] = deque()
        self._pre_roll_samples = 0
        self._outbox: asyncio.Queue[stt_pb2.TranscribeRequest] = asyncio.Queue()

    def push(self, first_sample: int, pcm: bytes) -> None:
        """Caller audio; it reaches the service only while an utterance is open."""
        samples = len(pcm) // 2
        self._pre_roll.append((first_sample, pcm))
        self._pre_roll_samples += samples
        while self._pre_roll_samples > _PRE_ROLL_SAMPLES:
            _, old = self._pre_roll.popleft()
            self._pre_roll_samples -= len(old) // 2
        if self._speaking is not None:
            self._send_audio(self._speaking, first_sample, pcm)

    def begin(self, utterance: int, expect: tuple[str, ...]) -> None:
        """Open an utterance, a little before now so that its first sound is not lost."""
        opened = _Utterance(utterance, expect)
        self._open[utterance] = opened
        self._speaking = opened
        first = self._pre_roll[0][0] if self._pre_roll else 0
        self._outbox.put_nowait(_begin(opened, first))
        for first_sample, pcm in self._pre_roll:
            self._send_audio(opened, first_sample, pcm)

    def end(self, utterance: int) -> None:
        """The utterance is over: a final result will come."""
        if (ended := self._open.get(utterance)) is not None:
            ended.ended = True
            self._stop_speaking(ended)
            self._outbox.put_nowait(_end(ended))

    def cancel(self, utterance: int) -> None:
        """Forget the utterance."""
        if (cancelled := self._open.pop(utterance, None)) is not None:
            self._stop_speaking(cancelled)
            request = stt_pb2.Cancel(utterance_id=str(utterance))
            self._outbox.put_nowait(stt_pb2.TranscribeRequest(cancel=request))

    async def run(self) -> None:
        """Keep a stream to the service for as long as the call lasts."""
        failures = 0
        while True:
            try:
                async for response in self._stub.Transcribe(self._requests()):
                    failures = 0
                    self._take(response)
                reason = "the service closed the stream"
            except grpc.RpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            failures += 1
            _RECONNECTS.inc()
            _log.warning("stt_reconnecting", call_id=self._configure.call_id, reason=reason)
            if failures == self._give_up_attempts:
                self._lose_all(reason)
                failures = 0
            await asyncio.sleep(_RETRY_DELAY_S)

    async def _requests(self) -> AsyncIterator[stt_pb2.TranscribeRequest]:
        """Everything that the service must know, then what comes."""
        self._outbox = asyncio.Queue()
        outbox = self._outbox
        for utterance in self._open.values():
            first = utterance.chunks[0][0] if utterance.chunks else 0
            outbox.put_nowait(_begin(utterance, first))
            for first_sample, pcm in utterance.chunks:
                outbox.put_nowait(_audio(first_sample, pcm))
            if utterance.ended:
                outbox.put_nowait(_end(utterance))
        yield stt_pb2.TranscribeRequest(configure=self._configure)
        while True:
            yield await outbox.get()

    def _take(self, response: stt_pb2.TranscribeResponse) -> None:
        if response.WhichOneof("response") == "partial":
            self._on_partial(int(response.partial.utterance_id), response.partial.text)
            return
        final = response.final
        utterance = int(final.utterance_id)
        if self._open.pop(utterance, None) is None:
            return
        self._on_final(
            Recognised(
                utterance=utterance,
                text=final.text,
                confidence=final.confidence,
                rejected=final.rejected,
                rejected_text=final.rejected_text,
                reason=final.reason,
                decode_ms=final.decode_ms,
            )
        )

    def _send_audio(self, utterance: _Utterance, first_sample: int, pcm: bytes) -> None:
        if utterance.kept_samples < _MAX_KEPT_SAMPLES:
            utterance.chunks.append((first_sample, pcm))
            utterance.kept_samples += len(pcm) // 2
        # Marks are few and must arrive; audio is what can pile up before a service that is stuck.
        if self._outbox.qsize() < _MAX_WAITING:
            self._outbox.put_nowait(_audio(first_sample, pcm))
        else:
            _AUDIO_DROPPED.inc()

    def _stop_speaking(self, utterance: _Utterance) -> None:
        if self._speaking is utterance:
            self._speaking = None

    def _lose_all(self, reason: str) -> None:
        for number in [n for n, utterance in self._open.items() if utterance.ended]:
            del self._open[number]
            _LOST.inc()
            self._on_final(Recognised(utterance=number, text="", reason=reason, lost=True))


def _begin(utterance: _Utterance, first_sample: int) -> stt_pb2.TranscribeRequest:
    return stt_pb2.TranscribeRequest(
        begin=stt_pb2.Begin(
            utterance_id=str(utterance.number),
            first_sample=first_sample,
            expect=utterance.expect,
        )
    )


def _audio(first_sample: int, pcm: bytes) -> stt_pb2.TranscribeRequest:
    return stt_pb2.TranscribeRequest(audio=stt_pb2.Audio(first_sample=first_sample, pcm=pcm))


def _end(utterance: _Utterance) -> stt_pb2.TranscribeRequest:
    return stt_pb2.TranscribeRequest(end=stt_pb2.End(utterance_id=str(utterance.number)))
