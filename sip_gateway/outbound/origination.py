"""Places calls: which trunk, which answer means what, and who talks when somebody answers."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.events import Invite, LegConfirmed, LegEnded, LegProceeding, MediaStarted
from sip_gateway.outbound.dialling import Outcome
from sip_gateway.trunks import dids
from sip_gateway.trunks.limits import Direction
from sip_gateway.trunks.trunk import DialFormat, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sip_gateway.admission.house import House
    from sip_gateway.ending import Ending
    from sip_gateway.events import LegEvent
    from sip_gateway.leg import Leg
    from sip_gateway.outbound.config import OutboundConfig
    from sip_gateway.trunks.next_hop import NextHop
    from sip_gateway.trunks.trunk import Trunk

# A server that is there answers with 100 at once (RFC 3261, 17.2.1); PJSIP would wait 32 s.
FIRST_ANSWER_S = 4.0
_log = structlog.get_logger()
_BUSY = (486, 600)
_DECLINED = (603, 607, 608)
_NO_ANSWER = (408, 480, 487)
_OUR_CREDENTIALS = (401, 407)
_CALLER_ID = re.compile(r"[A-Za-z0-9+*._-]{1,64}")  # what needs no escape in a URI


class DialState(StrEnum):
    """What becomes of a call that we place; all but the first three are ends."""

    TRYING = "trying"
    RINGING = "ringing"
    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    DECLINED = "declined"
    DENIED = "denied"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class DialOrder:
    """A call to be placed; empty fields are as configured."""

    number: str
    agent: str = ""
    region: str = ""
    caller_id: str = ""
    trunks: tuple[str, ...] = ()
    ring_s: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DialEvent:
    state: DialState
    call_id: str
    trunk: str = ""
    sip_status: int = 0
    result: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one INVITE ended without an answer. `rang`: the callee's telephone did."""

    sip_status: int
    reason: str
    rang: bool

    @property
    def state(self) -> DialState:
        if self.sip_status in _BUSY:
            return DialState.BUSY
        if self.sip_status in _DECLINED:
            return DialState.DECLINED
        if self.sip_status in _NO_ANSWER and (self.rang or self.sip_status == 480):
            return DialState.NO_ANSWER
        return DialState.FAILED

    @property
    def next_address(self) -> bool:
        """Whether another address of the same server may do better (RFC 3263, 4.3)."""
        return not self.rang and (self.sip_status == 408 or 500 <= self.sip_status < 600)

    @property
    def next_trunk(self) -> bool:
        """Whether another trunk may do better: never when the callee was reached."""
        return self.next_address or (not self.rang and self.sip_status in _OUR_CREDENTIALS)


class Switchboard(Protocol):
    """What placing a call needs of the worker."""

    def new_call_id(self) -> str: ...

    def has_room(self) -> bool:
        """Whether one more conversation fits."""

    async def invite(
        self, trunk: Trunk, uri: str, call: Calling, on_event: Callable[[LegEvent], None]
    ) -> Leg:
        """Send an INVITE; LandlineError when that cannot even be begun."""

    def connect(
        self, leg: Leg, trunk: Trunk, call: Calling, since: list[LegEvent]
    ) -> asyncio.Future[Ending]:
        """Connect an answered leg with an agent; `since` are its events after the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """One call that is being placed by one trunk."""

    call_id: str
    number: str
    caller_id: str
    order: DialOrder

    def route(self, trunk: Trunk) -> dids.Route:
        return dids.Route(
            number=self.number, agent=self.order.agent or trunk.agent, region=self.order.region
        )

    def as_invite(self) -> Invite:
        """What the agent is told of it, in the form of a call that comes in."""
        return Invite(
            source_ip="",
            source_port=0,
            request_user=self.number,
            caller=self.caller_id,
            callee=self.number,
            sip_call_id="",
            body="",
            headers=dict(self.order.headers),
        )


def target_by(trunk: Trunk, target: str, country: str) -> str:
    """The URI at which a trunk connects a SIP or tel URI; LandlineError where it cannot."""
    if not target.lower().startswith("tel:"):
        return target
    if trunk.next_hop is None:
        raise LandlineError(f"trunk {trunk.name} has no server that could call {target}")
    as_dialled = target.partition(":")[2].partition(";")[0]
    number = number_for(trunk, dids.e164(as_dialled, country), as_dialled)
    return f"sip:{number}@{trunk.next_hop}"


def number_for(trunk: Trunk, number: str, as_dialled: str) -> str:
    """The number as this trunk wants it."""
    if trunk.dial_as is DialFormat.AS_DIALLED:
        return as_dialled
    return number if trunk.dial_as is DialFormat.PLUS_E164 else number.removeprefix("+")


def caller_id_for(trunk: Trunk, wanted: str, country: str) -> str | None:
    """The caller id to show; None when `wanted` is none that this trunk may show.

    Its own and its numbers: a caller id is a promise that can be called back.
    """
    if not wanted:
        return trunk.caller_id
    number = dids.e164(wanted, country)
    if not _CALLER_ID.fullmatch(number):
        return None
    own = (trunk.caller_id, *(did.number for did in trunk.dids))
    allowed = any(own_id and dids.names(own_id, number, country) for own_id in own)
    return number if allowed else None


class Outbound:
    """Places calls one by one; several at a time are fine."""

    def __init__(
        self,
        config: OutboundConfig,
        trunks: list[Trunk],
        hops: Mapping[str, NextHop],
        house: House,
        board: Switchboard,
        *,
        country: str,
    ) -> None:
        self._config = config
        self._trunks = {trunk.name: trunk for trunk in trunks}
        self._hops = hops
        self._house = house
        self._board = board
        self._country = country
        self._placed: dict[str, _Placed] = {}  # by call id

    async def hang_up(self, call_id: str) -> bool:
        """End a call that `dial` has placed; False when there is none."""
        placed = self._placed.get(call_id)
        if placed is None:
            return False
        await placed.give_up()
        return True

    async def dial(self, order: DialOrder, tell: Callable[[DialEvent], None]) -> None:
        """Place a call and tell each step; the last one told is an end.

        Cancelled before the answer, the call is given up; after it, the conversation goes on.
        """
        call_id = self._board.new_call_id()
        log = _log.bind(call_id=call_id)

        def say(event: DialEvent) -> None:
            log.info("dialled", **_facts(event))
            tell(event)

        denied = self._denied(order)
        if denied is not None:
            end = DialEvent(state=DialState.DENIED, call_id=call_id, sip_status=403, reason=denied)
        else:
            end = await self._by_each_trunk(order, call_id, say)
        telemetry.DIALLED.labels(end.state).inc()
        say(end)

    def _denied(self, order: DialOrder) -> str | None:
        if order.number.strip().lower().startswith(("sip:", "sips:")):
            # The list allows that host, not the same digits through a trunk.
            return f"{order.number!r} is a SIP URI: write a number"
        verdict = self._house.dialling.check(order.number)
        if verdict.outcome is Outcome.ALLOWED:
            unknown = [name for name in order.trunks if name not in self._trunks]
            return f"there is no trunk {unknown[0]!r}" if unknown else None
        if verdict.outcome is Outcome.DENIED:
            return verdict.why
        return f"{verdict.number} is an emergency number: no machine may call it"

    async def _by_each_trunk(
        self, order: DialOrder, call_id: str, tell: Callable[[DialEvent], None]
    ) -> DialEvent:
        """Every trunk in order, those last that are known to be out of reach; how it ended."""
        names = order.trunks or tuple(self._config.trunks) or tuple(self._hops)
        trunks = [self._trunks[name] for name in names if name in self._hops]
        trunks.sort(key=lambda trunk: self._hops[trunk.name].reachable is False)
        end = DialEvent(state=DialState.FAILED, call_id=call_id, reason="no trunk has a server")
        for trunk in trunks:
            end, another = await self._by_trunk(trunk, order, call_id, tell)
            if not another:
                break
            _log.warning("trunk_could_not", **_facts(end))
        return end

    async def _by_trunk(
        self, trunk: Trunk, order: DialOrder, call_id: str, tell: Callable[[DialEvent], None]
    ) -> tuple[DialEvent, bool]:
        """How it ended by this trunk, and whether another one may do better."""
        step = partial(DialEvent, call_id=call_id, trunk=trunk.name)
        caller_id = caller_id_for(trunk, order.caller_id, self._country)
        if caller_id is None:
            why = f"{order.caller_id} is no caller id of trunk {trunk.name}"
            return step(state=DialState.DENIED, sip_status=403, reason=why), True
        if not self._board.has_room():
            return step(state=DialState.FAILED, sip_status=503, reason="every line is busy"), False
        calling = Calling(
            call_id=call_id,
            number=self._house.dialling.check(order.number).number or order.number,
            caller_id=caller_id,
            order=order,
        )
        placed = _Placed(self._board, self._hops[trunk.name], trunk, calling)
        connected = False
        try:
            refusal = await self._house.book(call_id, trunk, Direction.OUTBOUND)
            if refusal is not None:
                why = refusal.missing or refusal.why
                return step(state=DialState.DENIED, sip_status=refusal.sip_status, reason=why), True
            self._placed[call_id] = placed
            tell(step(state=DialState.TRYING))
            attempt = await placed.run(
                order.ring_s or self._config.ring_s,
                lambda status: tell(step(state=DialState.RINGING, sip_status=status)),
            )
            if attempt is not None or placed.leg is None:
                attempt = attempt or Attempt(sip_status=503, reason="", rang=False)
                end = step(
                    state=attempt.state, sip_status=attempt.sip_status, reason=attempt.reason
                )
                return end, attempt.next_trunk
            ending = self._board.connect(placed.leg, trunk, calling, placed.since)
            connected = True  # from here on the call gives back what was booked
            tell(step(state=DialState.ANSWERED, sip_status=200))
            ended = await asyncio.shield(ending)
            return step(state=DialState.ENDED, result=ended.result, reason=ended.reason), False
        finally:
            self._placed.pop(call_id, None)
            if not connected:
                await placed.give_up()
                await self._house.ledger.give_back(call_id)


class _Placed:
    """One call by one trunk, over as many of its server's addresses as it takes."""

    def __init__(self, board: Switchboard, hop: NextHop, trunk: Trunk, calling: Calling) -> None:
        self._board = board
        self._hop = hop
        self._trunk = trunk
        self._calling = calling
        self._events: asyncio.Queue[LegEvent] = asyncio.Queue()
        self.leg: Leg | None = None
        self.since: list[LegEvent] = []  # what came with the answer and after it

    async def run(self, ring_s: float, on_ringing: Callable[[int], None]) -> Attempt | None:
        """None when it was answered; else how it failed, by the last address."""
        while True:
            attempt = await self._one(ring_s, on_ringing)
            if attempt is None or not attempt.next_address or not await self._hop.use_next():
                return attempt

    async def give_up(self) -> None:
        """CANCEL or BYE, whatever the leg's state wants."""
        if self.leg is not None and not self.leg.ended:
            with contextlib.suppress(LandlineError):
                await self.leg.hang_up()

    async def _one(self, ring_s: float, on_ringing: Callable[[int], None]) -> Attempt | None:
        try:
            await self._hop.find()
            await self._invite()
        except LandlineError as error:
            return Attempt(sip_status=503, reason=str(error), rang=False)
        loop = asyncio.get_running_loop()
        began_s, patience_s = loop.time(), FIRST_ANSWER_S
        trying = rang = False
        while True:
            try:
                left_s = began_s + patience_s - loop.time()
                event = await asyncio.wait_for(self._events.get(), max(left_s, 0.01))
            except TimeoutError:
                await self.give_up()
                if trying:
                    return Attempt(sip_status=487, reason="nobody answered in time", rang=True)
                return Attempt(sip_status=408, reason="the trunk does not answer", rang=False)
            match event:
                case LegProceeding(sip_status=sip_status):
                    trying, patience_s = True, ring_s
                    if sip_status > 100 and not rang:
                        rang = True
                        on_ringing(sip_status)
                case MediaStarted():
                    self.since.append(event)
                case LegConfirmed():
                    while not self._events.empty():
                        self.since.append(self._events.get_nowait())
                    return None
                case LegEnded(sip_status=sip_status, reason=reason):
                    return Attempt(sip_status=sip_status, reason=reason, rang=rang)

    async def _invite(self) -> None:
        """A leg that has begun is ours even when we are cancelled in the meantime."""
        self._events, self.since = asyncio.Queue(), []
        inviting = asyncio.ensure_future(
            self._board.invite(self._trunk, self._uri(), self._calling, self._events.put_nowait)
        )
        try:
            self.leg = await asyncio.shield(inviting)
        except asyncio.CancelledError:
            with contextlib.suppress(LandlineError):
                self.leg = await inviting
            raise

    def _uri(self) -> str:
        server = self._trunk.next_hop or Server("invalid", 0)
        number = number_for(self._trunk, self._calling.number, self._calling.order.number)
        return f"sip:{number}@{server}"


def _facts(event: DialEvent) -> dict[str, object]:
    """For the log."""
    return {
        "state": event.state,
        "trunk": event.trunk,
        "sip_status": event.sip_status,
        "result": event.result,
        "reason": event.reason,
    }
