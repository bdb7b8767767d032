"""From ringing to the agent's stream: a call is taken, queued, handed to a person, or refused."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from services.common.errors import LandlineError
from sip_gateway import messages as m
from sip_gateway import telemetry
from sip_gateway.admission.config import HandOver, WhenFull
from sip_gateway.agent_client import AgentUnavailableError
from sip_gateway.dialog.transfer import DEADLINE_S, TransferState, state_of
from sip_gateway.ending import CallResult
from sip_gateway.events import Refusal
from sip_gateway.media.hold_music import HoldMusic
from sip_gateway.outbound.dialling import Outcome
from sip_gateway.trunks.limits import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from sip_gateway.admission.house import House
    from sip_gateway.agent_client import AgentClient, AgentStream
    from sip_gateway.ending import Ending
    from sip_gateway.events import Invite, TransferProgressed
    from sip_gateway.leg import Leg
    from sip_gateway.trunks.trunk import Trunk

_POLL_S = 0.5  # between two attempts for the caller who waits longest


@dataclass(slots=True)
class _HandingOver:
    why: str
    outcome: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    understood: bool = False


class Reception:
    """Receives one call. Everything happens on the event loop.

    A call that we placed comes here booked and answered, and needs only an agent.
    """

    def __init__(
        self,
        house: House,
        *,
        call_id: str,
        leg: Leg,
        invite: Invite,
        trunk: Trunk,
        direction: Direction,
        agents: AgentClient,
        ending: asyncio.Future[Ending],
        end: Callable[[str, str], None],
        log: Any,
    ) -> None:
        self._house = house
        self._call_id = call_id
        self._leg = leg
        self._invite = invite
        self._trunk = trunk
        self._we_called = direction is Direction.OUTBOUND
        self._agents = agents
        self._ending = ending
        self._end = end
        self._log = log
        self._handing_over: _HandingOver | None = None
        self.answered = False  # already, to play music

    async def receive(self, started: m.Started) -> AgentStream | None:
        """The agent's stream; None when the call ended before there was one, and knows why."""
        if self._we_called:
            return await self._open_or_end(started)
        started, refusal = self._emergency(started)
        if refusal is None and not started.emergency:
            refusal = await self._house.book(self._call_id, self._trunk, Direction.INBOUND)
        if refusal is not None:
            await self._refuse(refusal)
            return None
        if self._house.waiting.occupied and not started.emergency:
            return await self._queue(started, missing="others wait already", why="agent_full")
        try:
            return await self._open(started)
        except AgentUnavailableError as error:
            missing, why = str(error), "agent_full" if error.full else "agent_unavailable"
        if self._house.config.when_full is WhenFull.QUEUE and not started.emergency:
            return await self._queue(started, missing=missing, why=why)
        await self._refuse(self._house.instead(self._house.unavailable(why, missing=missing)))
        return None

    async def close(self) -> None:
        """The call is over."""
        await self._house.ledger.give_back(self._call_id)

    def on_progress(self, progress: TransferProgressed) -> bool:
        """What becomes of our REFER to a person; False when there is none of ours."""
        if self._handing_over is None:
            return False
        state = state_of(progress)
        self._handing_over.understood |= state is not TransferState.FAILED
        if state is not TransferState.TRYING and not self._handing_over.outcome.done():
            self._handing_over.outcome.set_result(state is TransferState.ACCEPTED)
        return True

    def peer_left(self) -> bool:
        """The caller hung up: True when that was to call the person we named."""
        handing_over = self._handing_over
        if handing_over is None or not handing_over.understood:
            return False
        self._end(CallResult.TRANSFERRED, handing_over.why)
        return True

    # -- emergency ------------------------------------------------------------------------------

    def _emergency(self, started: m.Started) -> tuple[m.Started, Refusal | None]:
        """Whoever dialled for help gets the people named for it, or at least a clear word."""
        invite = self._invite
        verdict = self._house.emergency(invite.request_user, invite.callee, started.callee)
        if verdict is None:
            return started, None
        telemetry.EMERGENCY.labels(verdict.outcome).inc()
        self._log.error("emergency_call", number=verdict.number, what_happens=verdict.why)
        if verdict.outcome is Outcome.EMERGENCY:
            plain = Refusal(sip_status=302, why="emergency", missing=verdict.why)
            return started, self._house.redirect(plain, verdict.target)
        return replace(started, emergency=True), None

    # -- a place at the agent -------------------------------------------------------------------

    async def _open(self, started: m.Started) -> AgentStream | None:
        """A stream that the agent accepted; None when the call ended; AgentUnavailableError."""
        opening = asyncio.ensure_future(self._agents.open(started))
        await asyncio.wait((opening, self._ending), return_when=asyncio.FIRST_COMPLETED)
        if self._ending.done():
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, AgentUnavailableError):
                (await opening).cancel()
            return None
        return await opening

    async def _open_or_end(self, started: m.Started) -> AgentStream | None:
        try:
            return await self._open(started)
        except AgentUnavailableError as error:
            why = "agent_full" if error.full else "agent_unavailable"
            self._log.error("agent_unavailable", reason=str(error))
            self._end(CallResult.FAILED, why)
            return None

    # -- the queue ------------------------------------------------------------------------------

    async def _queue(self, started: m.Started, *, missing: str, why: str) -> AgentStream | None:
        ticket = self._house.waiting.enter()
        if ticket is None:
            full = self._house.unavailable(why, missing=f"{missing}; the queue is full")
            human = self._house.config.human
            await self._refuse(self._house.redirect(full, human) if human else full)
            return None
        self._log.info(
            "call_queued", missing=missing, position=self._house.waiting.position(ticket)
        )
        began_ms = self._house.clock.now_ms()
        try:
            stream = await self._wait(started, ticket, began_ms)
        finally:
            self._house.waiting.leave(ticket)
        waited_s = round((self._house.clock.now_ms() - began_ms) / 1000, 1)
        outcome = "taken" if stream else "left" if self._ending.done() else "waited_in_vain"
        telemetry.QUEUE_LEFT.labels(outcome).inc()
        self._log.info("call_left_queue", outcome=outcome, waited_s=waited_s)
        if outcome == "waited_in_vain":
            await self._give_up()
        return stream

    async def _wait(
        self, started: m.Started, ticket: object, began_ms: float
    ) -> AgentStream | None:
        tap = self._leg.tap
        assert tap is not None  # set by the call before it is received
        music = HoldMusic(self._house.music, tap)
        self._leg.tap = music
        await self._answer()
        deadline_ms = began_ms + self._house.config.queue_max_wait_s * 1000
        while not self._ending.done() and self._house.clock.now_ms() < deadline_ms:
            if self._house.waiting.position(ticket) == 1:
                with contextlib.suppress(AgentUnavailableError):  # then we wait on
                    stream = await self._open(started)
                    music.finish()
                    self._leg.tap = tap
                    return stream
            await asyncio.wait((self._ending,), timeout=_POLL_S)
        return None

    async def _give_up(self) -> None:
        human = self._house.config.human
        if human is None:
            self._end(CallResult.FAILED, "queue_timeout")
        else:
            await self._hand_over(human, why="queue_timeout")

    # -- other ends -----------------------------------------------------------------------------

    async def _refuse(self, refusal: Refusal) -> None:
        """Say no, and in plain words why."""
        telemetry.REFUSED.labels(refusal.why).inc()
        self._house.refusals.refused(
            reason=refusal.why,
            sip_status=refusal.sip_status,
            source=self._invite.source_ip,
            missing=refusal.missing,
        )
        by_refer = self._house.config.human_by is HandOver.REFER
        if refusal.contact is not None and by_refer:
            await self._answer()
            await self._hand_over(refusal.contact, why=refusal.why)
            return
        redirected = refusal.contact is not None
        self._end(CallResult.TRANSFERRED if redirected else CallResult.FAILED, refusal.why)
        with contextlib.suppress(LandlineError):  # the caller has gone already
            await self._leg.refuse(refusal)

    async def _answer(self) -> None:
        try:
            await self._leg.answer(200)
        except LandlineError as error:
            self._log.warning("answer_failed", reason=str(error))
            self._end(CallResult.ABANDONED, "caller_cancelled")
        else:
            self.answered = True

    async def _hand_over(self, uri: str, *, why: str) -> None:
        """REFER an answered caller to `uri`, and end the call with what became of it."""
        self._handing_over = _HandingOver(why=why)
        outcome = self._handing_over.outcome
        self._log.info("caller_handed_over", target=uri, reason=why)
        try:
            await self._leg.transfer(uri)
            await asyncio.wait(
                (outcome, self._ending),
                timeout=DEADLINE_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        except LandlineError as error:
            self._log.warning("hand_over_failed", target=uri, reason=str(error))
        accepted = outcome.done() and outcome.result()
        if accepted:
            self._end(CallResult.TRANSFERRED, why)
        else:
            self._end(CallResult.FAILED, "human_not_reached")
