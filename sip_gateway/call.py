"""One call: rung, answered when an agent takes it, ended once with a result and a reason."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog

from services.common.errors import LandlineError
from sip_gateway import messages as m
from sip_gateway import telemetry, transfer
from sip_gateway.admission import AGENT_UNAVAILABLE, STOPPING
from sip_gateway.agent_client import AgentLostError, AgentUnavailableError
from sip_gateway.events import (
    DtmfPressed,
    LegConfirmed,
    LegEnded,
    MediaStarted,
    StreamClosed,
    TransferProgressed,
)
from sip_gateway.media.call_audio import CallAudio
from sip_gateway.media.playout import Heard, PlayoutQueue
from sip_gateway.media.recorder import Recorder, Recording
from sip_gateway.media.uplink import Uplink
from sip_gateway.sdp import first_common_codec
from sip_gateway.transfer import TransferState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from services.common.clock import Clock
    from sip_gateway.agent_client import AgentClient, AgentStream
    from sip_gateway.config import SipConfig, Trunk
    from sip_gateway.events import Invite, LegEvent
    from sip_gateway.leg import Leg
    from sip_gateway.media.jitter import StreamStatistics

_OUTBOX_EVENTS = 1000
_STATISTICS_S = 5.0
_AGENT_BEHIND_MS = 10_000
_DRAIN_POLL_S = 0.02
_DRAIN_SLACK_MS = 5_000
# What the caller's own jitter buffer still has to play when the last packet has been sent.
_PLAYOUT_TAIL_S = 0.12
_CLOSING_S = 2.0


class CallResult(StrEnum):
    COMPLETED = "completed"
    ABANDONED = "abandoned"
    TRANSFERRED = "transferred"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How and why a call ended; `reason` is a word that can be counted."""

    result: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What all calls of a worker share. `post` hands a call to the event loop from any thread."""

    config: SipConfig
    agents: AgentClient
    recordings: Path | None
    region: str
    clock: Clock
    post: Callable[..., None]


def new_call_id(wall_ms: int) -> str:
    """Sorts by time, cannot be guessed, and is safe in a file name."""
    moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}{wall_ms % 1000:03d}Z-{secrets.token_hex(5)}"


class Call:
    """Runs one call from its INVITE to its end. Everything happens on the event loop."""

    def __init__(self, leg: Leg, invite: Invite, trunk: Trunk, context: CallContext) -> None:
        self.call_id = new_call_id(context.clock.wall_ms())
        self._leg = leg
        self._invite = invite
        self._trunk = trunk
        self._context = context
        self._log = structlog.get_logger().bind(call_id=self.call_id)
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._leg_ended = asyncio.Event()
        self._answered_at_ms: float | None = None
        self._heard_a_mark = False
        self._held = False
        self._transfer_deadline: asyncio.TimerHandle | None = None
        self._transfer_accepted = False
        self._outbox: deque[m.CallEvent] = deque()
        self._playout = PlayoutQueue()
        self._uplink = Uplink(context.post)
        self._audio = CallAudio(
            playout=self._playout,
            sink=self._uplink.push,
            heard=lambda events: context.post(self._on_heard, events),
            clock=context.clock,
        )
        self._past_streams: StreamStatistics | None = None
        self._statistics: StreamStatistics | None = None
        leg.tap = self._audio
        leg.on_event = self._on_leg_event

    async def run(self) -> Ending:
        """Until the call has ended and everything of it is put away. Raises nothing of its own."""
        self._log.info(
            "call_offered",
            trunk=self._trunk.name,
            caller=self._invite.caller,
            callee=self._invite.callee,
            source=self._invite.source_ip,
            sip_call_id=self._invite.sip_call_id,
        )
        try:
            stream = await self._reach_agent()
            if stream is not None:
                await self._converse(stream)
        except* Exception:
            self._log.exception("call_failed")
            self._end(CallResult.FAILED, "internal_error")
        await self._hang_up_leg()
        await self._close_recorder()
        ending = self._ending.result()
        telemetry.CALLS.labels(ending.result, ending.reason).inc()
        self._log.info("call_ended", result=ending.result, reason=ending.reason)
        return ending

    def end(self, result: str, reason: str) -> None:
        """End the call from outside, for example because the gateway stops."""
        self._end(result, reason)

    # -- before the answer ----------------------------------------------------------------------

    async def _reach_agent(self) -> AgentStream | None:
        """The agent's stream; None when the call ended before there was one."""
        opening = asyncio.ensure_future(self._context.agents.open(self._started()))
        await _first_of(opening, self._ending)
        if self._ending.done():
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, AgentUnavailableError):
                (await opening).cancel()
            return None
        try:
            return await opening
        except AgentUnavailableError as error:
            self._log.error("agent_unavailable", reason=str(error))
            telemetry.REFUSED.labels(AGENT_UNAVAILABLE.why).inc()
            self._end(CallResult.FAILED, AGENT_UNAVAILABLE.why)
            with contextlib.suppress(LandlineError):
                await self._leg.refuse(AGENT_UNAVAILABLE)
            return None

    def _started(self) -> m.Started:
        codecs = tuple(self._context.config.codecs)
        return m.Started(
            call_id=self.call_id,
            caller=self._invite.caller,
            callee=self._invite.callee,
            trunk=self._trunk.name,
            codec=first_common_codec(self._invite.body, codecs),
            region=self._context.region,
            agent=self._trunk.agent,
            headers=self._invite.headers,
        )

    # -- the conversation -----------------------------------------------------------------------

    async def _converse(self, stream: AgentStream) -> None:
        self._audio.recorder = await asyncio.to_thread(self._open_recorder)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._obey(stream, group))
            sender = group.create_task(self._send(stream))
            watch = group.create_task(self._watch())
            try:
                await self._leg.answer(200)
            except LandlineError as error:
                self._log.warning("answer_failed", reason=str(error))
                self._end(CallResult.ABANDONED, "caller_cancelled")
            ending = await self._ending
            watch.cancel()
            await self._hang_up_leg()
            ended = await self._close_media(ending)
            self._outbox.append(ended)
            self._uplink.close()
            _done, late = await asyncio.wait({reader, sender}, timeout=_CLOSING_S)
            if late:
                self._log.warning("agent_did_not_close")
                stream.cancel()

    async def _send(self, stream: AgentStream) -> None:
        """All that goes to the agent goes through here: cancelling a write breaks the stream."""
        try:
            while not self._uplink.closed:
                await self._uplink.wait()
                await self._send_pending(stream)
            await self._send_pending(stream)
            await stream.finish()
        except AgentLostError as error:
            # The reader sees the same end of the stream, and knows whether it was a clean one.
            self._log.debug("agent_stream_ended", reason=str(error))

    async def _send_pending(self, stream: AgentStream) -> None:
        while self._outbox:
            await stream.send(self._outbox.popleft())
        for frame in self._uplink.take():
            if not self._ending.done():
                await stream.send_audio(frame)

    async def _obey(self, stream: AgentStream, group: asyncio.TaskGroup) -> None:
        try:
            async for command in stream.commands():
                if not self._ending.done():
                    await self._obey_one(command, group)
        except AgentLostError as error:
            self._agent_lost(str(error))
        else:
            if not self._ending.done():
                await self._hang_up(m.HangUp(result="", reason="agent_hung_up", after_playout=True))

    async def _obey_one(self, command: m.Command, group: asyncio.TaskGroup) -> None:
        match command:
            case m.Play(mark=mark, pcm=pcm, last=last):
                dropped = self._playout.enqueue(mark, pcm, last=last)
                if dropped:
                    telemetry.PLAYOUT_DROPPED.inc(dropped)
                    self._log.warning("agent_audio_dropped", mark=mark, bytes=dropped)
            case m.Clear(clear_id=clear_id):
                self._tell(m.Cleared(clear_id=clear_id, marks=self._playout.clear()))
            case m.Duck(gain=gain, ramp_ms=ramp_ms):
                self._playout.duck(gain, ramp_ms)
            case m.Transfer():
                group.create_task(self._transfer(command))
            case m.HangUp():
                group.create_task(self._hang_up(command))
            case m.SendDtmf(digits=digits):
                await self._try("dtmf_not_sent", self._leg.send_dtmf(digits))
            case m.Hold(on=on):
                await self._try("hold_failed", self._leg.hold(on))

    async def _hang_up(self, command: m.HangUp) -> None:
        if command.after_playout:
            await self._playout_drained()
        self._end(command.result or CallResult.COMPLETED, command.reason or "agent_hung_up")

    async def _transfer(self, command: m.Transfer) -> None:
        if not transfer.allowed(command.target, self._context.config.transfer_allow):
            self._log.warning("transfer_refused", target=command.target)
            self._transfer_failed(403, "not in transfer_allow", outcome="not_allowed")
            return
        if self._transfer_deadline is not None:
            self._transfer_failed(491, "a transfer is already under way", outcome="busy")
            return
        self._transfer_deadline = asyncio.get_running_loop().call_later(
            transfer.DEADLINE_S, self._transfer_failed, 408, "no answer in time"
        )
        if command.after_playout:
            await self._playout_drained()
        try:
            await self._leg.transfer(command.target)
        except LandlineError as error:
            self._transfer_failed(500, str(error))

    def _on_transfer(self, progress: TransferProgressed) -> None:
        if self._transfer_deadline is None:
            return
        state = transfer.state_of(progress)
        self._log.info("transfer", state=state, sip_status=progress.sip_status)
        if state is TransferState.FAILED:
            self._transfer_failed(progress.sip_status, progress.reason)
            return
        self._transfer_accepted = True
        self._tell(
            m.TransferUpdated(state=state, sip_status=progress.sip_status, reason=progress.reason)
        )
        if state is TransferState.ACCEPTED:
            self._end_transferred()

    def _transfer_failed(self, sip_status: int, reason: str, *, outcome: str = "failed") -> None:
        telemetry.TRANSFERS.labels(outcome).inc()
        if outcome == "failed":
            self._forget_transfer()
        self._tell(
            m.TransferUpdated(state=TransferState.FAILED, sip_status=sip_status, reason=reason)
        )

    def _end_transferred(self) -> None:
        self._forget_transfer()
        telemetry.TRANSFERS.labels("accepted").inc()
        self._end(CallResult.TRANSFERRED, "transferred")

    def _forget_transfer(self) -> None:
        if self._transfer_deadline is not None:
            self._transfer_deadline.cancel()
        self._transfer_deadline = None
        self._transfer_accepted = False

    async def _playout_drained(self) -> None:
        """Until all that is queued was sent and the caller has had time to hear it."""
        clock = self._context.clock
        deadline_ms = clock.now_ms() + self._playout.queued_ms + _DRAIN_SLACK_MS
        while not self._playout.drained and clock.now_ms() < deadline_ms:
            if self._ending.done():
                return
            await asyncio.sleep(_DRAIN_POLL_S)
        await asyncio.sleep(_PLAYOUT_TAIL_S)

    async def _try(self, failure: str, operation: Awaitable[None]) -> None:
        try:
            await operation
        except LandlineError as error:
            self._log.warning(failure, reason=str(error))

    async def _watch(self) -> None:
        """Statistics each few seconds, and an eye on an agent that no longer reads."""
        while True:
            await asyncio.sleep(_STATISTICS_S)
            current = await self._leg.statistics()
            if current is not None:
                self._note_statistics(current)
            if self._uplink.behind_ms > _AGENT_BEHIND_MS:
                self._agent_lost("it does not read")

    # -- what happens on the line ---------------------------------------------------------------

    def _on_leg_event(self, event: LegEvent) -> None:
        match event:
            case LegConfirmed():
                self._answered_at_ms = self._context.clock.now_ms()
            case MediaStarted(codec=codec, held_by_peer=held):
                self._on_media(codec, held)
            case DtmfPressed():
                self._tell(event)
            case TransferProgressed():
                self._on_transfer(event)
            case StreamClosed(statistics=statistics):
                self._on_stream_closed(statistics)
            case LegEnded():
                self._on_leg_ended(event)

    def _on_media(self, codec: str, held: bool) -> None:
        if held != self._held:
            self._held = held
            self._tell(m.HeldChanged(held=held))
        self._log.info(
            "media_started",
            codec=codec,
            held=held,
            jitter_buffer_max_ms=self._context.config.jitter_buffer_max_ms,
        )

    def _on_leg_ended(self, event: LegEnded) -> None:
        self._leg_ended.set()
        if self._transfer_accepted:  # they were told to call somebody else, and left for that
            self._end_transferred()
        elif self._answered_at_ms is None:
            self._end(CallResult.ABANDONED, "caller_cancelled")
        elif event.sip_status >= 400:
            self._end(CallResult.FAILED, f"sip_{event.sip_status}")
        elif not self._heard_a_mark:
            self._end(CallResult.ABANDONED, "caller_hung_up")
        else:
            self._end(CallResult.COMPLETED, "caller_hung_up")

    def _on_heard(self, events: tuple[Heard, ...]) -> None:
        for event in events:
            self._heard_a_mark = self._heard_a_mark or event.finished
            self._tell(event)

    def _on_stream_closed(self, statistics: StreamStatistics) -> None:
        self._note_statistics(statistics)
        self._past_streams = self._statistics

    def _note_statistics(self, current: StreamStatistics) -> None:
        total = current.plus(self._past_streams) if self._past_streams else current
        before, self._statistics = self._statistics, total
        discards = total.jitter_buffer_discards - (before.jitter_buffer_discards if before else 0)
        empties = total.jitter_buffer_empties - (before.jitter_buffer_empties if before else 0)
        telemetry.JITTER_DISCARDS.inc(max(discards, 0))
        telemetry.JITTER_EMPTIES.inc(max(empties, 0))
        self._log.info(
            "media_statistics",
            jitter_buffer_ms=total.jitter_buffer_ms,
            jitter_buffer_average_ms=total.jitter_buffer_average_ms,
            discards=total.jitter_buffer_discards,
            empties=total.jitter_buffer_empties,
            received=total.packets_received,
            lost=total.packets_lost,
            underruns=self._playout.underruns,
        )
        self._tell(total)

    # -- the end --------------------------------------------------------------------------------

    def _end(self, result: str, reason: str) -> None:
        """The first one to say why is believed."""
        if not self._ending.done():
            self._ending.set_result(Ending(result=str(result), reason=reason))

    def _agent_lost(self, reason: str) -> None:
        if not self._ending.done():
            self._log.error("agent_lost", reason=reason)
        self._end(CallResult.FAILED, "agent_lost")

    def _tell(self, event: m.CallEvent) -> None:
        if len(self._outbox) >= _OUTBOX_EVENTS:
            self._agent_lost("it does not read")
            return
        self._outbox.append(event)
        self._uplink.wake()

    async def _hang_up_leg(self) -> None:
        """BYE or whatever the state wants, and the last events of the leg."""
        if self._leg_ended.is_set():
            return
        if self._answered_at_ms is None:
            await self._try("hang_up_failed", self._leg.refuse(STOPPING))
        else:
            reason = self._ending.result().reason
            await self._try("hang_up_failed", self._leg.hang_up(reason=reason))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leg_ended.wait(), _CLOSING_S)

    async def _close_media(self, ending: Ending) -> m.Ended:
        self._forget_transfer()
        telemetry.PLAYOUT_UNDERRUNS.inc(self._playout.underruns)
        telemetry.UPLINK_DROPPED.inc(self._uplink.dropped_frames)
        recording = await self._close_recorder()
        answered_ms = self._answered_at_ms
        duration_ms = self._context.clock.now_ms() - answered_ms if answered_ms else 0
        return m.Ended(
            result=ending.result,
            reason=ending.reason,
            duration_ms=int(duration_ms),
            recording_path=str(recording.path) if recording else "",
            recording_sha256=recording.sha256 if recording else "",
        )

    def _open_recorder(self) -> Recorder | None:
        if self._context.recordings is None:
            return None
        try:
            return Recorder(self._context.recordings / f"{self.call_id}.wav")
        except OSError as error:
            telemetry.RECORDER_ERRORS.inc()
            self._log.error("recording_failed", reason=str(error))
            return None

    async def _close_recorder(self) -> Recording | None:
        recorder, self._audio.recorder = self._audio.recorder, None
        if recorder is None:
            return None
        recording = await asyncio.to_thread(recorder.close)
        telemetry.RECORDER_DROPPED.inc(recording.dropped_frames)
        if recording.error:
            telemetry.RECORDER_ERRORS.inc()
        self._log.info(
            "recording_closed",
            path=str(recording.path),
            duration_ms=recording.duration_ms,
            sha256=recording.sha256,
        )
        return recording


async def _first_of(*awaitables: asyncio.Future[Any]) -> None:
    """Until one of them is done; none is cancelled."""
    await asyncio.wait(awaitables, return_when=asyncio.FIRST_COMPLETED)
