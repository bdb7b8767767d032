"""The examination of one trunk: a real registration and a real call, check by check.

The call goes out through the trunk to a number that leads back to it, so that both ends of it
are here: what one end sends can be looked for at the other. A number that answers by itself, as
an echo test does, will do for most checks; what needs both ends is skipped and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from services.common.audio import FRAME_BYTES, FRAME_MS
from services.common.clock import SystemClock
from services.common.errors import LandlineError
from sip_gateway.doctor import judgements
from sip_gateway.doctor.findings import Finding, failed, passed, skipped
from sip_gateway.doctor.line import Line
from sip_gateway.doctor.signals import SWEEP_MS, Echo, find_sweep, sweep
from sip_gateway.softphone import CallRefusedError
from sip_gateway.trunks.trunk import Transport, TrunkKind
from sip_gateway.worker import endpoint_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from services.common.clock import Clock
    from sip_gateway.config import EndpointConfig, SipConfig
    from sip_gateway.doctor.ladder import SipMessage
    from sip_gateway.softphone import ReceivedFrame, SoftphoneCall
    from sip_gateway.trunks.trunk import Trunk

_ANSWER_S = 8.0
_RING_S = 20.0
_CAME_BACK_S = 2.0
_LISTEN_MS = 1500
_SETTLE_S = 0.6  # a path that was just set up drops its first packets
_KEYS = "159"
_KEYS_S = 2.0
_REQUEST_S = 5.0
_POLL_S = 0.05
_NTP_TIME_ERROR = 5  # adjtimex(2)
_NEED_CALL = (
    "codecs",
    "audio out",
    "audio in",
    "DTMF",
    "hold",
    "session refresh",
    "hang-up",
    "transfer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What to examine: `number` is dialled, `transfer_to` is named in the REFER."""

    trunk: Trunk
    endpoint: EndpointConfig
    number: str
    transfer_to: str

    def uri(self, target: str) -> str:
        """A number of this trunk as a URI; whole URIs stay what they are."""
        if target.startswith(("sip:", "sips:", "tel:")):
            return target
        server = self.trunk.next_hop
        if server is None:
            raise LandlineError(
                f"trunk {self.trunk.name} has neither registrar nor server, so give --number as a "
                "whole SIP URI"
            )
        transport = ";transport=tcp" if self.trunk.transport is Transport.TCP else ""
        return f"sip:{target}@{server}{transport}"


def chosen_trunks(config: SipConfig, name: str | None) -> list[Trunk]:
    """The trunk of that name, or all; LandlineError when there is none."""
    trunks = [trunk for trunk in config.trunks if name in (None, trunk.name)]
    if not trunks:
        names = ", ".join(trunk.name for trunk in config.trunks) or "none"
        raise LandlineError(f"no trunk {name or 'at all'} in [[sip.trunks]]; there are: {names}")
    return trunks


async def examine_trunk(
    config: SipConfig,
    trunk: Trunk,
    *,
    number: str,
    transfer_to: str,
    show: Callable[[Finding], None],
) -> tuple[list[Finding], list[SipMessage]]:
    """All findings, each shown as it comes, and the messages without their secrets."""
    clock = SystemClock()
    number = number or trunk.username or ""
    if not number:
        raise LandlineError(f"trunk {trunk.name} has no username to dial: give --number")
    examination = Examination(
        trunk=trunk,
        endpoint=dataclasses.replace(endpoint_config(config), accept_transfers=True),
        number=number,
        transfer_to=transfer_to or number,
    )
    findings: list[Finding] = []
    async with Line(trunk, examination.endpoint, clock) as line:
        async for finding in examine(examination, line, clock):
            findings.append(finding)
            show(finding)
    return findings, list(line.messages)


@dataclass(slots=True)
class _Ear:
    """Collects what a leg hears."""

    clock: Clock
    pcm: bytearray = field(default_factory=bytearray)
    started_ms: float = 0.0

    def hear(self, frame: ReceivedFrame) -> None:
        if not self.pcm:
            self.started_ms = frame.received_at_ms - FRAME_MS
        self.pcm += frame.pcm


async def examine(examination: Examination, line: Line, clock: Clock) -> AsyncIterator[Finding]:
    """Every finding as soon as it is known, in the order in which a call depends on them."""
    registered = True
    if examination.trunk.kind is TrunkKind.REGISTRATION:
        finding = judgements.registration(await line.register(_ANSWER_S), waited_s=_ANSWER_S)
        registered = finding.status == "pass"
        yield finding
    else:
        yield skipped("registration", "a peer is known by its address and does not register")
    if registered:
        async for finding in _call(examination, line, clock):
            yield finding
    else:
        for name in ("call", *_NEED_CALL):
            yield skipped(name, "not registered")
    messages = tuple(line.messages)
    nat = examination.endpoint.nat.for_trunk(examination.trunk)
    yield judgements.advertised_address(messages, nat.public_address)
    yield judgements.nat(messages)
    yield judgements.sip_alg(line.damage)
    began = datetime.now(UTC) - timedelta(milliseconds=line.now_ms())
    yield judgements.clock(messages, began=began, synchronised=_clock_synchronised())


async def _call(examination: Examination, line: Line, clock: Clock) -> AsyncIterator[Finding]:
    began_ms = clock.now_ms()
    try:
        session = await _connect(examination, line, clock)
    except (CallRefusedError, TimeoutError) as error:
        yield _unanswered(examination.uri(examination.number), error)
        for name in _NEED_CALL:
            yield skipped(name, "no call was answered")
        return
    where = "came back to this trunk" if session.has_both_ends else "was answered by somebody else"
    took_ms = clock.now_ms() - began_ms
    yield passed("call", f"{examination.uri(examination.number)} {where}, up in {took_ms:.0f} ms")
    for check in (session.codecs, session.audio, session.dtmf, session.hold, session.refresh):
        for finding in await check():
            yield finding
    yield await session.hang_up()
    yield await _transfer(examination, line, clock)


async def _transfer(examination: Examination, line: Line, clock: Clock) -> Finding:
    """With a call of its own: whoever takes a REFER ends the call that it came in."""
    try:
        session = await _connect(examination, line, clock)
    except (CallRefusedError, TimeoutError) as error:
        return skipped("transfer", f"a second call was not answered: {error}")
    return await session.transfer()


async def _connect(examination: Examination, line: Line, clock: Clock) -> _Session:
    """A call that is up, with both its ends when it has come back to us."""
    line.expecting = True
    incoming = asyncio.create_task(line.take(_RING_S))
    outgoing = await line.place(examination.uri(examination.number))
    try:
        async with asyncio.timeout(_RING_S):
            await outgoing.answered()
        # What is still to come in at this end comes soon after the answer, or not at all.
        await asyncio.wait([incoming], timeout=_CAME_BACK_S)
        other = incoming.result() if incoming.done() else None
        return _Session(examination, line, clock, outgoing, other)
    except (CallRefusedError, TimeoutError):
        await outgoing.hang_up()
        raise
    finally:
        line.expecting = False
        incoming.cancel()


def _unanswered(uri: str, error: CallRefusedError | TimeoutError) -> Finding:
    remedy = "give a number with --number that leads back to this trunk, or an echo test"
    if isinstance(error, CallRefusedError):
        return failed(
            "call",
            f"{uri}: {error.sip_status} {error.reason}",
            why="the trunk does not put the call through",
            remedy=remedy,
        )
    return failed("call", f"{uri}: no answer in {_RING_S:.0f} s", why="it rings", remedy=remedy)


class _Session:
    """The checks that need a call that is up."""

    def __init__(
        self,
        examination: Examination,
        line: Line,
        clock: Clock,
        outgoing: SoftphoneCall,
        other: SoftphoneCall | None,
    ) -> None:
        self._examination = examination
        self._line = line
        self._clock = clock
        self._out = outgoing
        self._other = other

    @property
    def has_both_ends(self) -> bool:
        return self._other is not None

    async def codecs(self) -> list[Finding]:
        ours = [str(codec) for codec in self._examination.endpoint.codecs]
        offered = judgements.offered_codecs(tuple(self._line.messages))
        return [judgements.codecs(self._out.codec, offered, ours)]

    async def audio(self) -> list[Finding]:
        await asyncio.sleep(_SETTLE_S)
        if self._other is None:
            echo = await self._sound(self._out, self._out)
            statistics = await self._out.read_statistics()
            both = judgements.audio("audio in", echo, statistics)
            out = skipped("audio out", "the other end is not here; an echo shows both ways")
            return [passed("audio out", "the echo came back") if echo else out, both]
        out_echo = await self._sound(self._out, self._other)
        in_echo = await self._sound(self._other, self._out)
        return [
            judgements.audio("audio out", out_echo, await self._other.read_statistics()),
            judgements.audio("audio in", in_echo, await self._out.read_statistics()),
        ]

    async def dtmf(self) -> list[Finding]:
        negotiated = judgements.takes_telephone_events(tuple(self._line.messages))
        if negotiated and self._other is None:
            return [skipped("DTMF", "the other end is not here, so nobody tells what arrived")]
        if negotiated:
            await self._out.send_dtmf(_KEYS)
            await self._until(lambda: len(self._other_keys()) >= len(_KEYS), _KEYS_S)
        return [judgements.dtmf(_KEYS, self._other_keys(), negotiated=negotiated)]

    async def hold(self) -> list[Finding]:
        held = await self._ask("INVITE", self._out.hold(True))
        resumed = await self._ask("INVITE", self._out.hold(False))
        await asyncio.sleep(_SETTLE_S)
        echo = await self._sound(self._out, self._other or self._out)
        unknown = echo is None and self._other is None  # no echo before either, for all we know
        audio_back = None if unknown else echo is not None
        return [judgements.hold(held, resumed, audio_back=audio_back)]

    async def refresh(self) -> list[Finding]:
        answer = judgements.final_answer(tuple(self._line.messages), "INVITE", sent_after_ms=0)
        refresh = await self._ask("INVITE", self._out.hold(False))
        return [judgements.session_refresh(answer, refresh)]

    async def transfer(self) -> Finding:
        target = self._examination.uri(self._examination.transfer_to)
        answer = await self._ask("REFER", self._out.transfer(target))
        await self._out.hang_up()
        return judgements.transfer(answer)

    async def hang_up(self) -> Finding:
        if self._other is None:
            await self._out.hang_up()
            return skipped("hang-up", "the other end is not here")
        began_ms = self._clock.now_ms()
        await self._out.hang_up()
        try:
            await asyncio.wait_for(self._other.ended(), _REQUEST_S)
        except TimeoutError:
            return judgements.hang_up(None)
        return judgements.hang_up((self._clock.now_ms() - began_ms) / 1000)

    async def _sound(self, speaker: SoftphoneCall, listener: SoftphoneCall) -> Echo | None:
        """The test sound as it arrives; its time counts from when it was sent."""
        ear = _Ear(self._clock)
        stop_listening = listener.on_audio(ear.hear)
        began_ms = self._clock.now_ms()
        speaker.play(sweep())
        wanted = (SWEEP_MS + _LISTEN_MS) // FRAME_MS * FRAME_BYTES
        await self._until(lambda: len(ear.pcm) >= wanted, (SWEEP_MS + 2 * _LISTEN_MS) / 1000)
        stop_listening()
        echo = await asyncio.to_thread(find_sweep, bytes(ear.pcm))
        if echo is None:
            return None
        delay_ms = ear.started_ms + echo.at_ms - began_ms
        return Echo(at_ms=delay_ms, likeness=echo.likeness, level_dbfs=echo.level_dbfs)

    async def _ask(self, method: str, request: Awaitable[None]) -> SipMessage | None:
        """Send a request on the outgoing leg and wait for its final answer."""
        after_ms = self._line.now_ms()
        with contextlib.suppress(LandlineError):
            await request

        def answer() -> SipMessage | None:
            messages = tuple(self._line.messages)
            return judgements.final_answer(messages, method, sent_after_ms=after_ms)

        await self._until(lambda: answer() is not None, _REQUEST_S)
        await asyncio.sleep(_POLL_S)  # the ACK goes out before the next request
        return answer()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline_ms = self._clock.now_ms() + timeout_s * 1000
        # What is waited for are messages and sounds, which come without an event of their own.
        while not condition() and self._clock.now_ms() < deadline_ms:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    def _other_keys(self) -> str:
        return "".join(key.digit for key in self._other.digits) if self._other else ""


def _clock_synchronised() -> bool | None:
    """What the kernel says of its clock; None where it does not tell."""
    timex = ctypes.create_string_buffer(512)  # all zero: a question, no change
    state = ctypes.CDLL(None).adjtimex(timex)
    return None if state < 0 else state != _NTP_TIME_ERROR
