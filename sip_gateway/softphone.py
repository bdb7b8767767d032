"""A SIP caller: it dials, speaks, listens, presses keys, records and hangs up.

    async with Softphone() as phone:
        call = await phone.dial("sip:reception@127.0.0.1:5060")
        await call.play(pcm).finished()
        async for frame in call.frames():
            ...

PJSIP allows one endpoint in a process, so a softphone and a gateway need a process each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import wave
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import numpy as np
import soxr

from services.common.addresses import HostPort
from services.common.audio import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from services.common.clock import SystemClock
from services.common.errors import LandlineError
from sip_gateway.config import Codec, EndpointConfig, PortRange
from sip_gateway.dialog import dtmf
from sip_gateway.endpoint import LOCAL, Endpoint
from sip_gateway.events import (
    DtmfPressed,
    Invite,
    LegConfirmed,
    LegEnded,
    LegProceeding,
    MediaStarted,
    Refusal,
    StreamClosed,
    TransferProgressed,
    TransferRequested,
)
from sip_gateway.media.call_audio import CallAudio
from sip_gateway.media.jitter import JitterPolicy, StreamStatistics
from sip_gateway.media.playout import Heard, PlayoutQueue
from sip_gateway.media.recorder import Recorder, Recording
from sip_gateway.nat.config import Nat
from sip_gateway.trunks import accounts
from sip_gateway.trunks.trunk import Srtp, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from types import TracebackType

    from services.common.clock import Clock
    from sip_gateway.events import LegEvent
    from sip_gateway.leg import Leg

_BUFFERED_FRAMES = 1500
_ANY_LOOPBACK_PORT = HostPort("127.0.0.1", 0)
_RTP_PORTS = PortRange(30000, 30999)
_HANG_UP_S = 3.0
_TRYING = 100
_BUSY = Refusal(sip_status=486, why="busy")


class PhoneState(StrEnum):
    DIALING = "dialing"
    RINGING = "ringing"
    TALKING = "talking"
    HELD = "held"
    ENDED = "ended"


class CallRefusedError(LandlineError):
    """The call was not answered; `sip_status` and `reason` say why."""

    def __init__(self, sip_status: int, reason: str) -> None:
        super().__init__(f"the call was refused: {sip_status} {reason}")
        self.sip_status = sip_status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """20 ms of what the other side said, and the monotonic time at which it was heard."""

    pcm: bytes
    received_at_ms: float


class Playback:
    """Something that is being played."""

    def __init__(self) -> None:
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def finished(self) -> int:
        """Until it was played, cut or the call ended; the milliseconds that were sent."""
        return await asyncio.shield(self._done)

    @property
    def is_finished(self) -> bool:
        return self._done.done()

    def _finish(self, played_ms: int) -> None:
        if not self._done.done():
            self._done.set_result(played_ms)


class SoftphoneCall:
    """One call of a softphone. Everything is for the event loop."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._leg: Leg | None = None
        self._answered = asyncio.Event()
        self._ended = asyncio.Event()
        self._playout = PlayoutQueue(capacity_ms=3_600_000)
        self._playbacks: dict[str, Playback] = {}
        self._marks = itertools.count(1)
        self._listeners: list[Callable[[ReceivedFrame], None]] = []
        self._transfer = asyncio.Event()
        self._audio = CallAudio(
            playout=self._playout,
            sink=self._on_frame,
            heard=lambda events: endpoint.post_at_tick_end(self._on_heard, events),
            clock=clock,
            we_call=True,
        )
        self.state = PhoneState.DIALING
        self.sip_status = 0
        self.sip_reason = ""
        self.codec = ""
        self.digits: list[DtmfPressed] = []
        self.transfer_target: str | None = None
        self.follows_transfers = False
        self.followed: SoftphoneCall | None = None  # the call that a REFER asked for
        self.transfer_progress: list[TransferProgressed] = []
        self.statistics: StreamStatistics | None = None

    # -- speaking -----------------------------------------------------------------------------

    def play(self, pcm: bytes) -> Playback:
        """Queue PCM (16 kHz mono s16le) behind what is being played."""
        playback = Playback()
        if self._ended.is_set():
            playback._finish(0)
            return playback
        mark = str(next(self._marks))
        self._playbacks[mark] = playback
        self._playout.enqueue(mark, pcm, last=True)
        return playback

    def play_file(self, path: Path) -> Playback:
        """Queue a WAV file; see `read_wav`."""
        return self.play(read_wav(path))

    def interrupt(self) -> int:
        """Stop what is being played; returns the milliseconds of it that were sent."""
        cut = self._playout.clear()
        self._on_heard(tuple(Heard(mark=h.mark, played_ms=h.played_ms, finished=True) for h in cut))
        return cut[0].played_ms if cut else 0

    async def send_dtmf(self, digits: str) -> None:
        """Press keys (RFC 4733) and wait as long as they sound."""
        await self._live_leg().send_dtmf(digits)
        await asyncio.sleep(dtmf.sending_ms(digits) / 1000)

    # -- listening ----------------------------------------------------------------------------

    def on_audio(self, listener: Callable[[ReceivedFrame], None]) -> Callable[[], None]:
        """Call `listener` on the event loop with each frame that comes, until told to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def frames(self) -> AsyncIterator[ReceivedFrame]:
        """Each frame from now until the call ends; a slow reader loses the oldest."""
        buffered: deque[ReceivedFrame] = deque(maxlen=_BUFFERED_FRAMES)
        arrived = asyncio.Event()

        def listener(frame: ReceivedFrame) -> None:
            buffered.append(frame)
            arrived.set()

        stop_listening = self.on_audio(listener)
        ended = asyncio.ensure_future(self._ended.wait())
        ended.add_done_callback(lambda _future: arrived.set())
        try:
            while not self._ended.is_set():
                await arrived.wait()
                arrived.clear()
                while buffered:
                    yield buffered.popleft()
        finally:
            ended.cancel()
            stop_listening()

    def record(self, path: Path) -> None:
        """Record from now on: us left, the other side right. `stop_recording` closes the file."""
        self._audio.recorder = Recorder(path)

    async def stop_recording(self) -> Recording | None:
        """Close the recording; None when there was none."""
        recorder, self._audio.recorder = self._audio.recorder, None
        return await asyncio.to_thread(recorder.close) if recorder else None

    # -- the call -----------------------------------------------------------------------------

    async def answered(self) -> None:
        """Until the other side has answered; CallRefusedError when it will not."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._answered, self._ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._answered.is_set():
            raise CallRefusedError(self.sip_status, self.sip_reason)

    async def ended(self) -> None:
        """Until the call has ended, whoever ended it."""
        await self._ended.wait()

    async def transferred(self) -> str:
        """Until the other side sends a REFER; the URI that it names."""
        await self._transfer.wait()
        return self.transfer_target or ""

    async def transfer(self, target: str) -> None:
        """Send a REFER; what the other side says of it is kept in `transfer_progress`."""
        await self._live_leg().transfer(target)

    async def hold(self, on: bool) -> None:
        """Put the other side on hold by re-INVITE, or take it back."""
        await self._live_leg().hold(on)

    async def read_statistics(self) -> StreamStatistics | None:
        """Of the stream that runs; of the last one when the call has ended."""
        if self._leg is None or self._ended.is_set():
            return self.statistics
        return await self._leg.statistics()

    async def hang_up(self) -> None:
        """End the call, or give it up before it is answered, and wait for the end."""
        if self._leg is not None and not self._ended.is_set():
            with contextlib.suppress(LandlineError):
                await self._leg.hang_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _HANG_UP_S)

    # -- inside -------------------------------------------------------------------------------

    def attach(self, leg: Leg) -> None:
        """Become the owner of a leg."""
        self._leg = leg
        leg.tap, leg.on_event = self._audio, self.on_event

    @property
    def audio(self) -> CallAudio:
        return self._audio

    def on_event(self, event: LegEvent) -> None:
        """What the leg tells."""
        match event:
            case LegProceeding(sip_status=status):
                self.sip_status = status
                if status > _TRYING:
                    self.state = PhoneState.RINGING
            case LegConfirmed():
                self.sip_status = 200
                self.state = PhoneState.TALKING
                self._answered.set()
            case MediaStarted(codec=codec, held_by_peer=held):
                self.codec = codec
                if self._answered.is_set():
                    self.state = PhoneState.HELD if held else PhoneState.TALKING
            case DtmfPressed():
                self.digits.append(event)
            case TransferRequested(target=target, new_leg=new_leg):
                self._on_transfer(target, new_leg)
            case StreamClosed(statistics=statistics):
                self.statistics = statistics
            case LegEnded(sip_status=status, reason=reason):
                self._on_ended(status, reason)
            case TransferProgressed():
                self.transfer_progress.append(event)

    def _on_transfer(self, target: str, new_leg: Leg) -> None:
        """Report where we are sent, and call there or leave.

        Who leaves ends the first call before the second is given up: a phone hangs up when it has
        been handed over, and whether the target would answer is not for it to find out.
        """
        self.transfer_target = target
        if self.follows_transfers:
            self.followed = SoftphoneCall(self._endpoint, self._clock)
            self.followed.attach(new_leg)
        else:
            self._leaving = asyncio.create_task(self._leave(new_leg))
        self._transfer.set()

    async def _leave(self, new_leg: Leg) -> None:
        await self.hang_up()
        with contextlib.suppress(LandlineError):
            await new_leg.hang_up()

    def _on_ended(self, sip_status: int, reason: str) -> None:
        self.sip_status, self.sip_reason = sip_status, reason
        self.state = PhoneState.ENDED
        self._ended.set()
        self.interrupt()
        for playback in self._playbacks.values():
            playback._finish(0)
        self._playbacks.clear()

    def _on_heard(self, events: tuple[Heard, ...]) -> None:
        for event in events:
            if event.finished and event.mark in self._playbacks:
                self._playbacks.pop(event.mark)._finish(event.played_ms)

    def _on_frame(self, pcm: bytes) -> None:
        """On the media thread."""
        if self._listeners:
            frame = ReceivedFrame(pcm, self._clock.now_ms())
            self._endpoint.post_at_tick_end(self._hand_out, frame)

    def _hand_out(self, frame: ReceivedFrame) -> None:
        for listener in tuple(self._listeners):
            listener(frame)

    def _live_leg(self) -> Leg:
        if self._leg is None or self._ended.is_set():
            raise LandlineError("the call has ended")
        return self._leg


class Softphone:
    """A SIP user agent for calls out, and for calls in when it is waited for them."""

    def __init__(
        self,
        *,
        listen: HostPort = _ANY_LOOPBACK_PORT,
        transport: Transport = Transport.UDP,
        codecs: tuple[Codec, ...] = (Codec.PCMU,),
        identity: str = "caller",
        domain: str = "",
        username: str = "",
        password: str = "",
        rtp_ports: PortRange = _RTP_PORTS,
        jitter_buffer_max_ms: int = 200,
        nat: Nat | None = None,
        srtp: Srtp = Srtp.OFF,
        on_message: Callable[[bool, str, str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`username` and `password` answer digest challenges; `identity@domain` is our From.

        `on_message` as in Endpoint.
        """
        self._config = EndpointConfig(
            listen=listen,
            transports=(transport,),
            rtp_ports=rtp_ports,
            codecs=codecs,
            jitter=JitterPolicy(max_ms=jitter_buffer_max_ms),
            user_agent="Landline softphone",
            nat=nat or Nat(),
            accept_transfers=True,
        )
        self._transport = transport
        self._on_message = on_message
        self._account = accounts.dialing_account(identity, domain, username, password, srtp=srtp)
        self._clock = clock or SystemClock()
        self._endpoint: Endpoint | None = None
        self._calls: list[SoftphoneCall] = []
        self._waiting: deque[asyncio.Future[SoftphoneCall]] = deque()

    @property
    def address(self) -> HostPort:
        """Where it listens."""
        return self._running().address

    async def __aenter__(self) -> Self:
        self._endpoint = Endpoint(
            self._config,
            screen=lambda _invite, _others: None if self._waiting else _BUSY,
            on_invite=self._on_invite,
            on_refused=lambda _invite, _status, _why: None,
            on_malformed=lambda: None,
            on_message=self._on_message,
        )
        await self._endpoint.start()
        await self._endpoint.add_account(LOCAL, self._account)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for call in self._calls:
            await call.hang_up()
            await call.stop_recording()
        await self._running().stop()

    async def dial(self, uri: str, *, timeout_s: float = 30.0) -> SoftphoneCall:
        """Call `uri` and wait until it is answered; CallRefusedError when it is not."""
        call = await self.place(uri)
        try:
            async with asyncio.timeout(timeout_s):
                await call.answered()
        except TimeoutError:
            await call.hang_up()
            raise CallRefusedError(408, "no answer") from None
        return call

    async def place(self, uri: str) -> SoftphoneCall:
        """Call `uri`; returns as soon as the INVITE is out."""
        if self._transport is Transport.TCP and ";transport=" not in uri:
            uri += ";transport=tcp"
        endpoint = self._running()
        call = SoftphoneCall(endpoint, self._clock)
        self._calls.append(call)
        leg = await endpoint.dial(uri, account=LOCAL, tap=call.audio, on_event=call.on_event)
        call.attach(leg)
        return call

    async def incoming(self) -> SoftphoneCall:
        """Wait for a call and answer it."""
        waiting: asyncio.Future[SoftphoneCall] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return await waiting

    def _on_invite(self, leg: Leg, _invite: Invite) -> None:
        call = SoftphoneCall(self._running(), self._clock)
        call.attach(leg)
        self._calls.append(call)
        self._answering = asyncio.create_task(self._answer(leg, call))

    async def _answer(self, leg: Leg, call: SoftphoneCall) -> None:
        if not self._waiting:
            await leg.refuse(_BUSY)
            return
        waiting = self._waiting.popleft()
        await leg.answer(200)
        await call.answered()
        waiting.set_result(call)

    def _running(self) -> Endpoint:
        if self._endpoint is None:
            raise LandlineError('a softphone is used with "async with"')
        return self._endpoint


def read_wav(path: Path) -> bytes:
    """A mono 16-bit WAV file of any rate as 16 kHz PCM; LandlineError for anything else."""
    try:
        with wave.open(str(path), "rb") as file:
            if file.getnchannels() != 1 or file.getsampwidth() != BYTES_PER_SAMPLE:
                raise LandlineError(f"{path} must be a mono WAV file of 16-bit samples")
            rate_hz = file.getframerate()
            pcm = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise LandlineError(f"cannot read {path} as a WAV file: {error}") from error
    if rate_hz == SAMPLE_RATE_HZ:
        return pcm
    samples = soxr.resample(np.frombuffer(pcm, "<i2"), rate_hz, SAMPLE_RATE_HZ)
    return np.asarray(samples).astype("<i2").tobytes()
