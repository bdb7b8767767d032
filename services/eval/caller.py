"""A caller who behaves like a person: waits for the agent, speaks, interrupts, keys digits.

It knows only what reaches its ear over RTP, so its times are those that a person would notice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.common.audio import FRAME_MS, FRAME_SAMPLES
from services.common.errors import LandlineError
from sip_gateway.dialog import dtmf

if TYPE_CHECKING:
    from services.common.clock import Clock
    from sip_gateway.softphone import ReceivedFrame, SoftphoneCall

_VOICE_RMS = 150.0  # of 32768; speech on the telephone is well above, coded silence below


class NoAnswerError(LandlineError):
    """The agent did not do in time what the caller waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the caller said: when its last sound went out, on the monotonic clock."""

    ended_ms: float


class Caller:
    """One call's caller, on an answered call."""

    def __init__(self, call: SoftphoneCall, clock: Clock) -> None:
        self.call = call
        self._clock = clock
        self._heard_ms: float | None = None  # last time that the agent's voice was heard
        self._began_ms: float | None = None  # when the voice that was heard last set in
        self._changed = asyncio.Condition()
        self._notify: asyncio.Task[None] | None = None
        call.on_audio(self._listen)

    async def say(self, pcm: bytes) -> Said:
        """Speak PCM to its end."""
        await self.call.play(pcm).finished()
        return Said(ended_ms=self._clock.now_ms() - trailing_silence_ms(pcm))

    async def key(self, digits: str) -> Said:
        """Press telephone keys."""
        # The agent may answer as soon as the last key is down, long before it is up.
        last_down_ms = self._clock.now_ms() + dtmf.sending_ms(digits[:-1])
        await self.call.send_dtmf(digits)
        return Said(ended_ms=last_down_ms)

    async def until_voice(self, *, after_ms: float, timeout_s: float = 15.0) -> float:
        """Wait for the agent's voice to set in after that moment; when it did."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(
                    lambda: self._began_ms is not None and self._began_ms >= after_ms
                )
        except TimeoutError:
            raise NoAnswerError(f"the agent said nothing for {timeout_s:g} s") from None
        if self._began_ms is None:
            raise NoAnswerError("the agent said nothing")
        return self._began_ms

    async def until_quiet(self, *, quiet_ms: float = 900.0, timeout_s: float = 60.0) -> None:
        """Wait until the agent has been silent for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._quiet_for(quiet_ms):
                    self._require_call()
                    await asyncio.sleep(FRAME_MS / 1000)
        except TimeoutError:
            raise NoAnswerError(f"the agent did not stop talking for {timeout_s:g} s") from None

    async def until_silenced(self, *, quiet_ms: float = 300.0, timeout_s: float = 10.0) -> float:
        """Wait until the agent falls silent; when its last sound was heard."""
        await self.until_quiet(quiet_ms=quiet_ms, timeout_s=timeout_s)
        return self._heard_ms if self._heard_ms is not None else self._clock.now_ms()

    def _quiet_for(self, ms: float) -> bool:
        return self._heard_ms is not None and self._clock.now_ms() - self._heard_ms >= ms

    def _require_call(self) -> None:
        if self.call.state == "ended":
            raise NoAnswerError(f"the call has ended: {self.call.sip_status}")

    def _listen(self, frame: ReceivedFrame) -> None:
        if rms(frame.pcm) < _VOICE_RMS:
            return
        # Pauses between words are no new beginning.
        if self._heard_ms is None or frame.received_at_ms - self._heard_ms > 250.0:
            self._began_ms = frame.received_at_ms
            self._notify = asyncio.create_task(self._announce())
        self._heard_ms = frame.received_at_ms

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def rms(pcm: bytes) -> float:
    """Root mean square of s16le PCM; 0 when it is empty."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    return float(np.sqrt(np.mean(samples * samples))) if samples.size else 0.0


def trailing_silence_ms(pcm: bytes) -> int:
    """Milliseconds of whole frames without voice at the end."""
    samples = np.frombuffer(pcm, "<i2")
    silent = 0
    while samples.size >= (silent + 1) * FRAME_SAMPLES:
        end = samples.size - silent * FRAME_SAMPLES
        if rms(samples[end - FRAME_SAMPLES : end].tobytes()) >= _VOICE_RMS:
            break
        silent += 1
    return silent * FRAME_MS
