"""The gRPC stream to the conversation: one Converse for each call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from landline.agent.v1 import agent_pb2 as pb
from landline.agent.v1 import agent_pb2_grpc

from services.common.errors import LandlineError
from services.common.grpc_server import open_channel
from sip_gateway import messages as m
from sip_gateway.dialog.transfer import TransferState
from sip_gateway.events import DtmfPressed
from sip_gateway.media.jitter import MediaReport
from sip_gateway.media.playout import Heard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.common.addresses import HostPort
    from services.common.config import TlsConfig
    from sip_gateway.media.uplink import CallerAudio

_STATES = {
    TransferState.TRYING: pb.TransferUpdated.STATE_TRYING,
    TransferState.ACCEPTED: pb.TransferUpdated.STATE_ACCEPTED,
    TransferState.FAILED: pb.TransferUpdated.STATE_FAILED,
}


class AgentUnavailableError(LandlineError):
    """No conversation took the call. `full`: all works, and all places are in use."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class AgentLostError(LandlineError):
    """The stream broke in the middle of a call."""


class AgentClient:
    """Opens streams to the agent service over one channel."""

    def __init__(self, address: HostPort, tls: TlsConfig | None, *, timeout_ms: int) -> None:
        self._channel = open_channel(address, tls, "agent")
        self._stub = agent_pb2_grpc.ConversationStub(self._channel)
        self._timeout_s = timeout_ms / 1000
        self._address = address

    async def open(self, started: m.Started) -> AgentStream:
        """A stream that the agent has accepted; AgentUnavailableError when none does in time.

        Accepted means that the agent sent its initial metadata or a first command.
        """
        call = self._stub.Converse()
        try:
            async with asyncio.timeout(self._timeout_s):
                await call.write(pb.ConverseRequest(started=_started(started)))
                await call.initial_metadata()
        except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
            call.cancel()
            if isinstance(error, grpc.aio.AioRpcError):
                raise self._unavailable(error.code(), error.details()) from None
            raise self._unavailable(None, "no answer") from None
        except asyncio.CancelledError:
            call.cancel()
            raise
        if call.done() and (code := await call.code()) is not grpc.StatusCode.OK:
            raise self._unavailable(code, await call.details())
        return AgentStream(call)

    def _unavailable(
        self, code: grpc.StatusCode | None, details: str | None
    ) -> AgentUnavailableError:
        full = code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return AgentUnavailableError(f"the agent at {self._address}: {details}", full=full)

    async def close(self) -> None:
        await self._channel.close()


class AgentStream:
    """One accepted call. Sending is for one task at a time; so is reading."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._call = call

    async def send_audio(self, audio: CallerAudio) -> None:
        """AgentLostError when the stream is gone."""
        await self._write(
            pb.ConverseRequest(audio=pb.CallerAudio(first_sample=audio.first_sample, pcm=audio.pcm))
        )

    async def send(self, event: m.CallEvent) -> None:
        """AgentLostError when the stream is gone."""
        await self._write(_event(event))

    async def commands(self) -> AsyncIterator[m.Command]:
        """What the agent wants, until it closes the stream; AgentLostError when that breaks."""
        try:
            async for response in self._call:
                command = _command(response)
                if command is not None:
                    yield command
        except grpc.aio.AioRpcError as error:
            raise AgentLostError(f"{error.code().name}: {error.details()}") from None

    async def finish(self) -> None:
        """Say that nothing more will be sent."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise AgentLostError(str(error)) from None

    def cancel(self) -> None:
        """Give the stream up at once."""
        self._call.cancel()

    async def _write(self, request: pb.ConverseRequest) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise AgentLostError(f"{error.code().name}: {error.details()}") from None
        except asyncio.InvalidStateError:
            raise AgentLostError("the agent has closed the stream") from None


def _started(started: m.Started) -> pb.CallStarted:
    return pb.CallStarted(
        call_id=started.call_id,
        caller=started.caller,
        callee=started.callee,
        trunk=started.trunk,
        codec=started.codec,
        region=started.region,
        agent=started.agent,
        direction=started.direction,
        headers=started.headers,
        emergency=started.emergency,
    )


def _event(event: m.CallEvent) -> pb.ConverseRequest:
    match event:
        case Heard():
            return pb.ConverseRequest(played=_played(event))
        case DtmfPressed(digit=digit, duration_ms=duration_ms):
            return pb.ConverseRequest(dtmf=pb.DtmfReceived(digit=digit, duration_ms=duration_ms))
        case m.HeldChanged(held=True):
            return pb.ConverseRequest(held=pb.CallHeld())
        case m.HeldChanged():
            return pb.ConverseRequest(resumed=pb.CallResumed())
        case MediaReport():
            return pb.ConverseRequest(media=_media(event))
        case m.Cleared(clear_id=clear_id, marks=marks):
            cleared = pb.Cleared(clear_id=clear_id, marks=[_played(mark) for mark in marks])
            return pb.ConverseRequest(cleared=cleared)
        case m.TransferUpdated(state=state, sip_status=sip_status, reason=reason):
            update = pb.TransferUpdated(
                state=_STATES[state],
                sip_status=sip_status,
                reason=reason,
                emergency=event.emergency,
            )
            return pb.ConverseRequest(transfer=update)
        case m.LineClosing(deadline_ms=deadline_ms):
            return pb.ConverseRequest(closing=pb.LineClosing(deadline_ms=deadline_ms))
        case m.CallerChanged(caller=caller):
            return pb.ConverseRequest(caller_changed=pb.CallerChanged(caller=caller))
        case m.Ended():
            return pb.ConverseRequest(ended=_ended(event))


def _played(heard: Heard) -> pb.Played:
    return pb.Played(mark=heard.mark, played_ms=heard.played_ms, finished=heard.finished)


def _media(report: MediaReport) -> pb.MediaStatistics:
    statistics = report.totals
    return pb.MediaStatistics(
        jitter_buffer_ms=statistics.jitter_buffer_ms,
        jitter_buffer_discards=statistics.jitter_buffer_discards,
        jitter_buffer_empties=statistics.jitter_buffer_empties,
        packets_received=statistics.packets_received,
        packets_lost=statistics.packets_lost,
        jitter_buffer_average_ms=statistics.jitter_buffer_average_ms,
        jitter_ms=statistics.jitter_ms,
        round_trip_ms=round(statistics.round_trip_ms),
        packets_sent=statistics.packets_sent,
        loss_percent=report.lately.loss_percent,
        r_factor=report.lately.r_factor,
        mos=report.lately.mos,
        call_mos=report.overall.mos,
    )


def _ended(ended: m.Ended) -> pb.CallEnded:
    return pb.CallEnded(
        result=ended.result,
        reason=ended.reason,
        duration_ms=ended.duration_ms,
        recording_path=ended.recording_path,
        recording_sha256=ended.recording_sha256,
    )


def _command(response: pb.ConverseResponse) -> m.Command | None:
    """The command as a dataclass; None for one that this gateway does not know."""
    match response.WhichOneof("command"):
        case "play":
            play = response.play
            return m.Play(mark=play.mark, pcm=play.pcm, last=play.last)
        case "clear":
            return m.Clear(clear_id=response.clear.clear_id)
        case "duck":
            return m.Duck(gain=response.duck.gain, ramp_ms=response.duck.ramp_ms)
        case "transfer":
            transfer = response.transfer
            return m.Transfer(
                target=transfer.target,
                after_playout=transfer.after_playout,
                attended=transfer.attended,
            )
        case "send_dtmf":
            return m.SendDtmf(digits=response.send_dtmf.digits)
        case "hold":
            return m.Hold(on=response.hold.on)
        case "mute":
            return m.Mute(on=response.mute.on)
        case "hang_up":
            command = response.hang_up
            return m.HangUp(
                result=command.result,
                reason=command.reason,
                after_playout=command.after_playout,
            )
        case _:
            return None
