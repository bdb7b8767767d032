"""gRPC at the edge of recognition: protobuf in and out, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
import structlog
from landline.stt.v1 import stt_pb2, stt_pb2_grpc

from services.common.errors import LandlineError
from services.common.phrases import PhraseSet
from services.stt.engine import EngineError, Vocabulary, VocabularyError
from services.stt.service import Final, Partial, ProtocolError, ServiceFullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.stt.service import RecognitionService, Result, Session

    Context = grpc.aio.ServicerContext[stt_pb2.TranscribeRequest, stt_pb2.TranscribeResponse]

_CODES = {
    ServiceFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    VocabularyError: grpc.StatusCode.INVALID_ARGUMENT,
    EngineError: grpc.StatusCode.INTERNAL,
}
_log = structlog.get_logger()


class SpeechToTextServicer(stt_pb2_grpc.SpeechToTextServicer):
    """One session of the service for each stream."""

    def __init__(self, service: RecognitionService) -> None:
        self._service = service

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
            await session.close()


class _Call:
    """Hands the requests of one stream to its session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.call_id = ""

    async def read(self, requests: AsyncIterator[stt_pb2.TranscribeRequest]) -> None:
        """Until the client has no more; an error ends the results too."""
        try:
            async for request in requests:
                await self._take(request)
            await self._session.finish()
        except LandlineError as error:
            await self._session.fail(error)
        except Exception as error:
            _log.exception("request_failed", call_id=self.call_id)
            await self._session.fail(EngineError(f"the request could not be handled: {error}"))

    async def _take(self, request: stt_pb2.TranscribeRequest) -> None:
        match request.WhichOneof("request"):
            case "audio":
                self._session.audio(request.audio.pcm)
            case "begin":
                begin = request.begin
                self._session.begin(begin.utterance_id, begin.first_sample, tuple(begin.expect))
            case "end":
                self._session.end(request.end.utterance_id)
            case "cancel":
                self._session.cancel(request.cancel.utterance_id)
            case "configure":
                self.call_id = request.configure.call_id
                await self._session.configure(_to_vocabulary(request.configure))
            case _:
                raise ProtocolError("an empty request, or one of a newer version")


def _to_vocabulary(configure: stt_pb2.Configure) -> Vocabulary:
    return Vocabulary(
        language=configure.language,
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
    )
