"""gRPC at the edge of speech: protobuf in and out, nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
import structlog
from landline.tts.v1 import tts_pb2, tts_pb2_grpc

from services.common.errors import LandlineError
from services.tts.engine import EngineError, UnknownVoiceError
from services.tts.service import BadRequestError, ServiceFullError, SpeechRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.tts.service import Speech, SpeechService

    Context = grpc.aio.ServicerContext[tts_pb2.SynthesizeRequest, tts_pb2.SynthesizeResponse]

_CODES = {
    BadRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownVoiceError: grpc.StatusCode.INVALID_ARGUMENT,
    ServiceFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    EngineError: grpc.StatusCode.INTERNAL,
}
_log = structlog.get_logger()


class TextToSpeechServicer(tts_pb2_grpc.TextToSpeechServicer):
    """One request of the service for each call."""

    def __init__(self, service: SpeechService) -> None:
        self._service = service

    async def Synthesize(  # noqa: N802
        self, request: tts_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[tts_pb2.SynthesizeResponse]:
        wanted = SpeechRequest(
            text=request.text,
            voice=request.voice,
            language=request.language,
            rate=request.rate or 1.0,
        )
        # The synthesis ends with this block, whether the text is spoken or the caller went away.
        async with contextlib.aclosing(self._service.synthesize(wanted)) as speeches:
            try:
                async for speech in speeches:
                    yield _to_response(speech)
            except LandlineError as error:
                _log.warning("request_refused", call_id=request.call_id, reason=str(error))
                code = _CODES.get(type(error), grpc.StatusCode.INTERNAL)
                await context.abort(code, str(error))


def _to_response(speech: Speech) -> tts_pb2.SynthesizeResponse:
    return tts_pb2.SynthesizeResponse(
        pcm=speech.pcm,
        words=[
            tts_pb2.Word(
                text_offset=word.text_offset,
                text_length=word.text_length,
                start_ms=round(word.start_ms),
                estimated=word.estimated,
            )
            for word in speech.words
        ],
    )
