"""One call: rung, answered when an agent takes it, ended once with a result and a reason."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog

from services.common.errors import LandlineError
from sip_gateway import messages as m
from sip_gateway import telemetry
from sip_gateway.admission.admission import STOPPING
from sip_gateway.admission.reception import Reception
from sip_gateway.agent_client import AgentLostError
from sip_gateway.dialog.call_keys import CallKeys
from sip_gateway.dialog.hold import Hold
from sip_gateway.dialog.transfer import Transfers
from sip_gateway.ending import CallResult, Ending
from sip_gateway.events import (
    DtmfPressed,
    LegConfirmed,
    LegEnded,
    LegReplaced,
    MediaStarted,
    ReinviteRefused,
    StreamClosed,
    TransferProgressed,
)
from sip_gateway.media.call_media import CallMedia
from sip_gateway.sip.message import user_of
from sip_gateway.sip.sdp import first_common_codec
from sip_gateway.trunks import dids
from sip_gateway.trunks.limits import Direction
from sip_gateway.trunks.trunk import RingWith

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from services.common.clock import Clock
    from sip_gateway.admission.house import House
    from sip_gateway.agent_client import AgentClient, AgentStream
    from sip_gateway.config import SipConfig
    from sip_gateway.dialog.transfer import Consult
    from sip_gateway.events import Invite, LegEvent
    from sip_gateway.leg import Leg
    from sip_gateway.media.playout import Heard
    from sip_gateway.trunks.dids import Route
    from sip_gateway.trunks.trunk import Trunk

_OUTBOX_EVENTS = 1000
_STATISTICS_S = 5.0
_AGENT_BEHIND_MS = 10_000
_CLOSING_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What all calls of a worker share.

    `post_at_tick_end` hands a call to the event loop from the media thread.
    """

    config: SipConfig
    agents: AgentClient
    house: House
    recordings: Path | None
    region: str
    consult: Consult
    clock: Clock
    post_at_tick_end: Callable[..., None]


def new_call_id(wall_ms: int) -> str:
    """Sorts by time, cannot be guessed, and is safe in a file name."""
    moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}{wall_ms % 1000:03d}Z-{secrets.token_hex(5)}"


class Call:
    """Runs one call from its INVITE to its end. Everything happens on the event loop."""

    def __init__(
        self,
        leg: Leg,
        invite: Invite,
        trunk: Trunk,
        route: Route,
        context: CallContext,
        *,
        direction: Direction = Direction.INBOUND,
        call_id: str = "",
        codec: str = "",
    ) -> None:
        """An outbound call comes here answered; `invite` says what the agent would see of it."""
        self.call_id = call_id or new_call_id(context.clock.wall_ms())
        self._leg = leg
        self._invite = invite
        self._trunk = trunk
        self._route = route
        self._direction = direction
        self._codec = codec
        self._context = context
        self._log = structlog.get_logger().bind(call_id=self.call_id)
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._leg_ended = asyncio.Event()
        outbound = direction is Direction.OUTBOUND
        self._answered_at_ms: float | None = context.clock.now_ms() if outbound else None
        self._picked_up = outbound  # 200 was sent; the ACK may be under way
        self._heard_a_mark = False
        self._held = False
        self._outbox: deque[m.CallEvent] = deque()
        self._media = CallMedia(
            post=context.post_at_tick_end,
            on_heard=self._on_heard,
            settings=context.config.media_of(trunk),
            trunk=trunk.name,
            clock=context.clock,
            log=self._log,
        )
        self._keys = CallKeys(
            trunk.dtmf, leg, self._media, tell=self._tell, clock=context.clock, log=self._log
        )
        self._hold = Hold(leg, we_called=direction is Direction.OUTBOUND, log=self._log)
        self._transfers = Transfers(
            leg,
            context.config.transfer_allow,
            dialling=context.house.dialling,
            consult=partial(context.consult, trunk.name),
            ring_back=self._media.ring_back,
            tell=self._tell,
            on_accepted=lambda: self._end(CallResult.TRANSFERRED, "transferred"),
            log=self._log,
        )
        self._reception = Reception(
            context.house,
            call_id=self.call_id,
            leg=leg,
            invite=invite,
            trunk=trunk,
            direction=direction,
            agents=context.agents,
            ending=self._ending,
            end=self._end,
            log=self._log,
        )
        leg.tap = self._media.tap
        leg.on_event = self._on_leg_event

    async def run(self) -> Ending:
        """Until the call has ended and everything of it is put away. Raises nothing of its own."""
        self._log.info(
            "call_offered",
            trunk=self._trunk.name,
            direction=self._direction,
            caller=self._invite.caller,
            callee=self._invite.callee,
            source=self._invite.source_ip,
            sip_call_id=self._invite.sip_call_id,
        )
        try:
            await self._ring()
            stream = await self._reception.receive(self._started())
            if stream is not None:
                await self._converse(stream)
        except* Exception:
            self._log.exception("call_failed")
            self._end(CallResult.FAILED, "internal_error")
        await self._hang_up_leg()
        await self._reception.close()
        await self._media.stop_recording()
        ending = self._ending.result()
        telemetry.CALLS.labels(ending.result, ending.reason).inc()
        self._log.info("call_ended", result=ending.result, reason=ending.reason)
        return ending

    def end(self, result: str, reason: str) -> None:
        """End the call from outside, for example because the gateway stops."""
        self._end(result, reason)

    def announce_closing(self, deadline_ms: int) -> None:
        """Have the agent say goodbye; whoever called this ends the call after `deadline_ms`."""
        self._tell(m.LineClosing(deadline_ms=deadline_ms))

    # -- before the answer ----------------------------------------------------------------------

    async def _ring(self) -> None:
        """Where the trunk wants it, the caller hears our ringing (RFC 3960), not his network's."""
        early = self._trunk.ring_with is RingWith.EARLY_MEDIA
        if early and self._direction is Direction.INBOUND:
            self._media.ring_back(True)
            await self._try("early_media_failed", self._leg.answer(183))

    def _started(self) -> m.Started:
        codecs = tuple(self._context.config.codecs)
        return m.Started(
            call_id=self.call_id,
            caller=dids.e164(self._invite.caller, self._context.config.country),
            callee=self._route.number,
            trunk=self._trunk.name,
            codec=self._codec or first_common_codec(self._invite.body, codecs),
            region=self._route.region or self._context.region,
            agent=self._route.agent,
            direction=self._direction,
            headers=self._invite.headers,
        )

    # -- the conversation -----------------------------------------------------------------------

    async def _converse(self, stream: AgentStream) -> None:
        if self._context.recordings is not None:
            await self._media.record(self._context.recordings / f"{self.call_id}.wav")
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._obey(stream, group))
            sender = group.create_task(self._send(stream))
            watch = group.create_task(self._watch())
            await self._answer()
            ending = await self._ending
            watch.cancel()
            await self._hang_up_leg()
            ended = await self._close_media(ending)
            self._outbox.append(ended)
            self._media.uplink.close()
            _done, late = await asyncio.wait({reader, sender}, timeout=_CLOSING_S)
            if late:
                self._log.warning("agent_did_not_close")
                stream.cancel()

    async def _answer(self) -> None:
        self._media.ring_back(False)
        try:
            if self._answered_at_ms is None and not self._reception.answered:
                await self._leg.answer(200)
                self._picked_up = True
            else:
                await self._leg.connect_media()
        except LandlineError as error:
            self._log.warning("answer_failed", reason=str(error))
            self._end(CallResult.ABANDONED, "caller_cancelled")

    async def _send(self, stream: AgentStream) -> None:
        """All that goes to the agent goes through here: cancelling a write breaks the stream."""
        try:
            while not self._media.uplink.closed:
                await self._media.uplink.wait()
                await self._send_pending(stream)
            await self._send_pending(stream)
            await stream.finish()
        except AgentLostError as error:
            # The reader sees the same end of the stream, and knows whether it was a clean one.
            self._log.debug("agent_stream_ended", reason=str(error))

    async def _send_pending(self, stream: AgentStream) -> None:
        while self._outbox:
            await stream.send(self._outbox.popleft())
        audio = self._media.uplink.take()
        if audio is not None and not self._ending.done():
            await stream.send_audio(audio)

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
                self._media.play(mark, pcm, last=last)
            case m.Clear(clear_id=clear_id):
                self._tell(m.Cleared(clear_id=clear_id, marks=self._media.playout.clear()))
            case m.Duck(gain=gain, ramp_ms=ramp_ms):
                self._media.playout.duck(gain, ramp_ms)
            case m.Transfer():
                group.create_task(self._transfer(command))
            case m.HangUp():
                group.create_task(self._hang_up(command))
            case m.SendDtmf(digits=digits):
                group.create_task(self._keys.send(digits))
            case m.Hold(on=on):
                await self._hold.set(on)
            case m.Mute(on=on):
                self._media.mute(on)

    async def _hang_up(self, command: m.HangUp) -> None:
        if command.after_playout:
            await self._media.played_out(self._ending)
        self._end(command.result or CallResult.COMPLETED, command.reason or "agent_hung_up")

    async def _transfer(self, command: m.Transfer) -> None:
        if not self._transfers.may_begin(command.target):
            return
        if command.after_playout:
            await self._media.played_out(self._ending)
        await self._transfers.begin(command.target, attended=command.attended)

    async def _try(self, failure: str, operation: Awaitable[None]) -> None:
        try:
            await operation
        except LandlineError as error:
            self._log.warning(failure, reason=str(error))

    async def _watch(self) -> None:
        """Statistics each few seconds, and an eye on an agent that no longer reads."""
        while True:
            await asyncio.sleep(self._media.next_look_s(_STATISTICS_S))
            current = await self._leg.statistics()
            if current is not None:
                self._tell(self._media.note_statistics(current))
            if self._media.rtp_stopped(held=self._held or self._hold.on):
                self._end(CallResult.FAILED, "rtp_timeout")
            if self._media.uplink.behind_ms > _AGENT_BEHIND_MS:
                self._agent_lost("it does not read")

    # -- what happens on the line ---------------------------------------------------------------

    def _on_leg_event(self, event: LegEvent) -> None:
        match event:
            case LegConfirmed():
                self._answered_at_ms = self._context.clock.now_ms()
            case MediaStarted():
                self._on_media(event)
            case DtmfPressed():
                self._keys.pressed(event)
            case ReinviteRefused():
                self._hold.refused(event)
            case LegReplaced(remote=remote):
                self._log.info("caller_replaced", remote=remote)
                self._tell(m.CallerChanged(caller=user_of(remote)))
            case TransferProgressed():
                if not self._reception.on_progress(event):
                    self._transfers.on_progress(event)
            case StreamClosed(statistics=statistics):
                self._tell(self._media.stream_closed(statistics))
            case LegEnded():
                self._on_leg_ended(event)

    def _on_media(self, event: MediaStarted) -> None:
        if event.held_by_peer != self._held:
            self._held = event.held_by_peer
            self._tell(m.HeldChanged(held=self._held))
        self._keys.media_changed(events_negotiated=event.dtmf_events)
        self._log.info(
            "media_started",
            codec=event.codec,
            held=self._held,
        )

    def _on_leg_ended(self, event: LegEnded) -> None:
        self._leg_ended.set()
        if self._reception.peer_left():
            return
        if self._transfers.peer_left():
            self._end(CallResult.TRANSFERRED, "transferred")
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
        self._media.uplink.wake()

    async def _hang_up_leg(self) -> None:
        """BYE or whatever the state wants, and the last events of the leg."""
        if self._leg_ended.is_set():
            return
        if not (self._picked_up or self._reception.answered):
            await self._try("hang_up_failed", self._leg.refuse(STOPPING))
        else:
            reason = self._ending.result().reason
            await self._try("hang_up_failed", self._leg.hang_up(reason=reason))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leg_ended.wait(), _CLOSING_S)

    async def _close_media(self, ending: Ending) -> m.Ended:
        self._hold.close()
        await self._transfers.finish()
        recording = await self._media.close()
        answered_ms = self._answered_at_ms
        duration_ms = self._context.clock.now_ms() - answered_ms if answered_ms else 0
        return m.Ended(
            result=ending.result,
            reason=ending.reason,
            duration_ms=int(duration_ms),
            recording_path=str(recording.path) if recording else "",
            recording_sha256=recording.sha256 if recording else "",
        )
