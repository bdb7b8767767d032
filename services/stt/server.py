"""gRPC at the edge of recognition: protobuf in and out, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
import structlog
from landline.stt.v1 import stt_pb2, stt_pb2_grpc

from services.common.audio import SAMPLE_RATE_HZ
from services.common.errors import LandlineError
from services.common.phrases import PhraseSet
from services.stt.engine import EngineError, Numbers, Slot, Vocabulary, VocabularyError
from services.stt.service import Final, Partial, ProtocolError, Resumed, ServiceFullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from services.stt.service import RecognitionService, Result, Session

    Context = grpc.aio.ServicerContext[stt_pb2.TranscribeRequest, stt_pb2.TranscribeResponse]

_CODES = {
    ServiceFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    VocabularyError: grpc.StatusCode.INVALID_ARGUMENT,
    EngineError: grpc.StatusCode.INTERNAL,
}
_NUMBERS = {
    stt_pb2.NUMBERS_UNSPECIFIED: Numbers.AS_HEARD,
    stt_pb2.NUMBERS_DIGITS: Numbers.DIGITS,
    stt_pb2.NUMBERS_SPOKEN: Numbers.SPOKEN,
}
_MAX_ALTERNATIVES = 8
_BREAK_SHOWS_S = 0.02
_MAX_HOTWORDS = 200
_MAX_HOTWORD_LETTERS = 100
_log = structlog.get_logger()


class SpeechToTextServicer(stt_pb2_grpc.SpeechToTextServicer):
    """One session of the service for each stream."""

    def __init__(self, service: RecognitionService) -> None:
        self._service = service
        self._parked: set[asyncio.Task[None]] = set()

    async def Transcribe(  # noqa: N802
        self, request_iterator: AsyncIterator[stt_pb2.TranscribeRequest], context: Context
    ) -> AsyncIterator[stt_pb2.TranscribeResponse]:
        try:
            session = self._service.open()
        except ServiceFullError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        call = _Call(session)
        reading = asyncio.create_task(call.read(request_iterator))
        try:
            async for result in session.results():
                yield _to_response(result)
            await reading
        except LandlineError as error:
            _log.warning("stream_refused", call_id=call.call_id, reason=str(error))
            code = _CODES.get(type(error), grpc.StatusCode.INTERNAL)
            await context.abort(code, str(error))
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, LandlineError):
                await reading
            parking = asyncio.create_task(session.close() if call.finished else session.park())
            self._parked.add(parking)
            parking.add_done_callback(self._parked.discard)


class _Call:
    """Hands the requests of one stream to its session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.call_id = ""
        self.finished = False  # by the client, or by an error of its own: nothing to be resumed

    async def read(self, requests: AsyncIterator[stt_pb2.TranscribeRequest]) -> None:
        """Until the client has no more; an error ends the results too."""
        try:
            async for request in requests:
                await self._take(request)
            # A stream that breaks ends its requests like one that is finished; only then is this
            # task cancelled.
            await asyncio.sleep(_BREAK_SHOWS_S)
            self.finished = True
            await self._session.finish()
        except LandlineError as error:
            self.finished = True
            await self._session.fail(error)
        except Exception as error:
            _log.exception("request_failed", call_id=self.call_id)
            await self._session.fail(EngineError(f"the request could not be handled: {error}"))

    async def _take(self, request: stt_pb2.TranscribeRequest) -> None:
        match request.WhichOneof("request"):
            case "audio":
                audio = request.audio
                placed = audio.HasField("first_sample")
                self._session.audio(audio.pcm, audio.first_sample if placed else None)
            case "begin":
                begin = request.begin
                self._session.begin(
                    begin.utterance_id, begin.first_sample, tuple(begin.expect), _to_slot(begin)
                )
            case "end":
                self._session.end(request.end.utterance_id)
            case "cancel":
                self._session.cancel(request.cancel.utterance_id)
            case "configure":
                configure = request.configure
                self.call_id = configure.call_id
                if configure.sample_rate_hz not in (0, SAMPLE_RATE_HZ):
                    raise ProtocolError(
                        f"audio of {configure.sample_rate_hz} Hz is not taken: send 16000 Hz, "
                        "mono, signed 16-bit little-endian"
                    )
                await self._session.configure(
                    _to_vocabulary(configure),
                    call_id=configure.call_id,
                    resume_ms=configure.resume_ms,
                )
            case _:
                raise ProtocolError("an empty request, or one of a newer version")


def _to_slot(begin: stt_pb2.Begin) -> Slot:
    if begin.numbers not in _NUMBERS:
        raise ProtocolError(f"{begin.numbers} is no way to write numbers")
    return Slot(
        closed=begin.closed,
        hotwords=_hotwords(begin.hotwords),
        language=begin.language,
        numbers=_NUMBERS[begin.numbers],
        alternatives=min(begin.alternatives, _MAX_ALTERNATIVES),
    )


def _hotwords(words: Iterable[str]) -> tuple[str, ...]:
    found = tuple(words)
    if len(found) > _MAX_HOTWORDS or any(len(word) > _MAX_HOTWORD_LETTERS for word in found):
        raise ProtocolError(
            f"at most {_MAX_HOTWORDS} hotwords of {_MAX_HOTWORD_LETTERS} letters are taken"
        )
    return found


def _to_vocabulary(configure: stt_pb2.Configure) -> Vocabulary:
    return Vocabulary(
        language=configure.language,
        hotwords=_hotwords(configure.hotwords),
        phrase_sets=tuple(
            PhraseSet(
                name=item.name,
                phrases=tuple(item.phrases),
                min_repeats=item.min_repeats,
                max_repeats=item.max_repeats,
            )
            for item in configure.phrase_sets
        ),
    )


def _to_response(result: Result) -> stt_pb2.TranscribeResponse:
    match result:
        case Partial():
            return stt_pb2.TranscribeResponse(
                partial=stt_pb2.Partial(
                    utterance_id=result.utterance_id,
                    text=result.text,
                    through_sample=result.through_sample,
                )
            )
        case Resumed():
            return stt_pb2.TranscribeResponse(
                resumed=stt_pb2.Resumed(
                    utterance_id=result.utterance_id, next_sample=result.next_sample
                )
            )
        case Final():
            return stt_pb2.TranscribeResponse(final=_to_final(result))


def _to_final(final: Final) -> stt_pb2.Final:
    heard = final.recognition
    return stt_pb2.Final(
        utterance_id=final.utterance_id,
        text=heard.text,
        confidence=heard.confidence,
        rejected=heard.rejected,
        rejected_text=heard.rejected_text,
        reason=heard.reason,
        words=[
            stt_pb2.Word(
                text=word.text,
                start_ms=word.start_ms,
                end_ms=word.end_ms,
                confidence=word.confidence,
            )
            for word in heard.words
        ],
        decode_ms=final.decode_ms,
        language=heard.language,
        alternatives=[
            stt_pb2.Alternative(text=other.text, confidence=other.confidence)
            for other in heard.alternatives
        ],
    )
