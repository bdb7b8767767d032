"""gRPC at the edge of the conversation: protobuf in and out, nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import structlog
from landline.agent.v1 import agent_pb2, agent_pb2_grpc

from services.agent import line as on_line
from services.agent.service import CallRefusedError
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Admit = Callable[[on_line.Started], AbstractAsyncContextManager[None]]
    Converse = Callable[["GrpcLine", on_line.Started], Awaitable[None]]

_REFUSED = Counter("landline_agent_calls_refused", "Calls that were not taken", ["reason"])
_OVERFLOWS = Counter("landline_agent_line_overflows", "Streams ended because nobody read them")
_MAX_RESPONSES = 20_000
_log = structlog.get_logger()


class ConversationServicer(agent_pb2_grpc.ConversationServicer):
    """Runs `converse` for each stream, inside of `admit`, which may raise CallRefusedError."""

    def __init__(self, admit: Admit, converse: Converse) -> None:
        self._admit = admit
        self._converse = converse

    async def Converse(  # noqa: N802
        self,
        request_iterator: AsyncIterator[agent_pb2.ConverseRequest],
        context: grpc.aio.ServicerContext[agent_pb2.ConverseRequest, agent_pb2.ConverseResponse],
    ) -> AsyncIterator[agent_pb2.ConverseResponse]:
        first = await anext(aiter(request_iterator), None)
        started = to_event(first) if first is not None else None
        if not isinstance(started, on_line.Started) or not started.call_id:
            _REFUSED.labels(reason="protocol").inc()
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the first request must be `started` with a call_id",
            )
        async with AsyncExitStack() as place:
            try:
                await place.enter_async_context(self._admit(started))
            except CallRefusedError as error:
                _REFUSED.labels(reason="full" if error.full else "unavailable").inc()
                _log.warning("call_refused", call_id=started.call_id, reason=str(error))
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await context.abort(code if error.full else grpc.StatusCode.UNAVAILABLE, str(error))
            # The gateway answers the caller when it sees these headers.
            await context.send_initial_metadata(())
            line = GrpcLine(request_iterator)
            conversation = asyncio.create_task(self._run(line, started))
            try:
                async for response in line.responses():
                    yield response
                await conversation
            finally:
                conversation.cancel()
                await asyncio.wait([conversation])

    async def _run(self, line: GrpcLine, started: on_line.Started) -> None:
        try:
            await self._converse(line, started)
        except Exception:
            _log.exception("conversation_failed", call_id=started.call_id)
            raise
        finally:
            line.close()


class GrpcLine:
    """A call's line over one stream (services.agent.line.Line)."""

    def __init__(self, requests: AsyncIterator[agent_pb2.ConverseRequest]) -> None:
        self._requests = requests
        self._responses: asyncio.Queue[agent_pb2.ConverseResponse | None] = asyncio.Queue()
        self._closed = False

    async def events(self) -> AsyncIterator[on_line.LineEvent]:
        async for request in self._requests:
            if (event := to_event(request)) is not None:
                yield event

    async def responses(self) -> AsyncIterator[agent_pb2.ConverseResponse]:
        """Commands in order, until `close`."""
        while (response := await self._responses.get()) is not None:
            yield response

    def close(self) -> None:
        self._closed = True
        self._responses.put_nowait(None)

    async def play(self, mark: str, pcm: bytes, *, last: bool) -> None:
        self._send(play=agent_pb2.PlayAudio(mark=mark, pcm=pcm, last=last))

    async def clear(self, clear_id: str) -> None:
        self._send(clear=agent_pb2.Clear(clear_id=clear_id))

    async def duck(self, gain: float, ramp_ms: int) -> None:
        self._send(duck=agent_pb2.Duck(gain=gain, ramp_ms=ramp_ms))

    async def transfer(self, target: str, *, attended: bool) -> None:
        self._send(
            transfer=agent_pb2.Transfer(target=target, after_playout=True, attended=attended)
        )

    async def hang_up(self, result: str, reason: str) -> None:
        self._send(hang_up=agent_pb2.HangUp(result=result, reason=reason, after_playout=True))

    def _send(self, **command: object) -> None:
        if self._responses.qsize() >= _MAX_RESPONSES and not self._closed:
            # A gateway that does not read is as good as gone; its stream ends here.
            _OVERFLOWS.inc()
            self.close()
        if not self._closed:
            self._responses.put_nowait(agent_pb2.ConverseResponse(**command))  # type: ignore[arg-type]


def to_event(request: agent_pb2.ConverseRequest) -> on_line.LineEvent | None:
    """The request as an event; None for a kind that this version does not know."""
    match request.WhichOneof("event"):
        case "started":
            return _started(request.started)
        case "audio":
            return on_line.Audio(request.audio.first_sample, request.audio.pcm)
        case "dtmf":
            return on_line.Dtmf(request.dtmf.digit)
        case "held":
            return on_line.Held()
        case "resumed":
            return on_line.Resumed()
        case "media":
            return _media(request.media)
        case "played":
            return _played(request.played)
        case "cleared":
            marks = tuple(_played(mark) for mark in request.cleared.marks)
            return on_line.Cleared(request.cleared.clear_id, marks)
        case "transfer":
            return _transfer(request.transfer)
        case "closing":
            return on_line.LineClosing(request.closing.deadline_ms)
        case "caller_changed":
            return on_line.CallerChanged(request.caller_changed.caller)
        case "ended":
            return _ended(request.ended)
        case _:
            return None


def _started(started: agent_pb2.CallStarted) -> on_line.Started:
    return on_line.Started(
        call_id=started.call_id,
        caller=started.caller,
        callee=started.callee,
        trunk=started.trunk,
        codec=started.codec,
        region=started.region,
        agent=started.agent,
        direction=started.direction or "inbound",
        headers=dict(started.headers),
        emergency=started.emergency,
    )


def _media(media: agent_pb2.MediaStatistics) -> on_line.MediaStatistics:
    return on_line.MediaStatistics(
        jitter_buffer_ms=media.jitter_buffer_ms,
        discards=media.jitter_buffer_discards,
        empties=media.jitter_buffer_empties,
        packets_received=media.packets_received,
        packets_lost=media.packets_lost,
        mos=media.mos,
        call_mos=media.call_mos,
    )


def _played(played: agent_pb2.Played) -> on_line.Played:
    return on_line.Played(played.mark, played.played_ms, played.finished)


def _transfer(update: agent_pb2.TransferUpdated) -> on_line.TransferUpdated:
    states = agent_pb2.TransferUpdated
    return on_line.TransferUpdated(
        accepted=update.state == states.STATE_ACCEPTED,
        failed=update.state == states.STATE_FAILED,
        sip_status=update.sip_status,
        reason=update.reason,
        emergency=update.emergency,
    )


def _ended(ended: agent_pb2.CallEnded) -> on_line.Ended:
    return on_line.Ended(
        result=ended.result,
        reason=ended.reason,
        duration_ms=ended.duration_ms,
        recording_path=ended.recording_path,
        recording_sha256=ended.recording_sha256,
    )
