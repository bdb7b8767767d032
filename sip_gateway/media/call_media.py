"""Everything that one call's audio goes through, and what is counted and kept of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sip_gateway import telemetry
from sip_gateway.media import tones
from sip_gateway.media.call_audio import CallAudio
from sip_gateway.media.jitter import MediaReport
from sip_gateway.media.playout import Heard, PlayoutQueue
from sip_gateway.media.recorder import Recorder, Recording
from sip_gateway.media.rtp_watch import Life, RtpTrouble, RtpWatch
from sip_gateway.media.uplink import Uplink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.common.clock import Clock
    from sip_gateway.media.jitter import StreamStatistics
    from sip_gateway.media.settings import MediaConfig

_DRAIN_POLL_S = 0.02
_DRAIN_SLACK_MS = 5_000
# What the caller's own jitter buffer still has to play when the last packet has been sent.
_PLAYOUT_TAIL_S = 0.12


class CallMedia:
    """Playout, uplink, recording and statistics of one call. Everything is for the event loop."""

    def __init__(
        self,
        *,
        post: Callable[..., None],
        on_heard: Callable[[tuple[Heard, ...]], None],
        settings: MediaConfig,
        trunk: str,
        clock: Clock,
        log: Any,
    ) -> None:
        """`post` hands a call to the event loop from the media thread."""
        self._clock = clock
        self._post = post
        self._log = log
        self._settings = settings
        self._trunk = trunk
        self._rtp: RtpWatch | None = None
        self._past_streams: StreamStatistics | None = None
        self._statistics: StreamStatistics | None = None
        self.playout = PlayoutQueue()
        self.uplink = Uplink(post)
        self.tap = CallAudio(
            playout=self.playout,
            sink=self.uplink.push,
            heard=lambda events: post(on_heard, events),
            clock=clock,
        )

    def play(self, mark: str, pcm: bytes, *, last: bool) -> None:
        """Queue the agent's audio; what does not fit is counted and told."""
        dropped = self.playout.enqueue(mark, pcm, last=last)
        if dropped:
            telemetry.PLAYOUT_DROPPED.inc(dropped)
            self._log.warning("agent_audio_dropped", mark=mark, bytes=dropped)

    async def played_out(self, stop: asyncio.Future[Any]) -> None:
        """Until all that is queued was sent and has had time to be heard, or `stop` is done."""
        deadline_ms = self._clock.now_ms() + self.playout.queued_ms + _DRAIN_SLACK_MS
        while not self.playout.drained and self._clock.now_ms() < deadline_ms:
            if stop.done():
                return
            await asyncio.sleep(_DRAIN_POLL_S)
        await asyncio.sleep(_PLAYOUT_TAIL_S)

    # -- keys and tones -------------------------------------------------------------------------

    def send_keys(self, digits: str) -> None:
        """Let the caller hear the tones of these keys; what is queued waits."""
        self.tap.inserted.extend(tones.keys(digits))

    def listen_to_tones(self, on_key: Callable[[str, int], None] | None) -> None:
        """Look for keys in the caller's voice and tell `on_key(digit, ms)`; None to stop."""
        if on_key is None:
            self.tap.listener = None
        elif self.tap.listener is None:
            self.tap.listener = self._tone_listener(on_key)

    def _tone_listener(self, on_key: Callable[[str, int], None]) -> Callable[[bytes], None]:
        listener = tones.ToneListener()

        def hear(pcm: bytes) -> None:  # on the media thread
            key = listener.hear(pcm)
            if key is not None:
                self._post(on_key, *key)

        return hear

    def ring_back(self, on: bool) -> None:
        """What the caller hears while somebody else is being rung for him."""
        self.tap.waiting_tone = tones.RingBack() if on else None

    def mute(self, on: bool) -> None:
        """Send silence in place of what is played, which goes on."""
        self.tap.muted = on

    # -- statistics -----------------------------------------------------------------------------

    def note_statistics(self, current: StreamStatistics) -> MediaReport:
        """Count what is new in the running stream's statistics; how the call is doing."""
        total = current.plus(self._past_streams) if self._past_streams else current
        before, self._statistics = self._statistics, total
        discards = total.jitter_buffer_discards - (before.jitter_buffer_discards if before else 0)
        empties = total.jitter_buffer_empties - (before.jitter_buffer_empties if before else 0)
        telemetry.JITTER_DISCARDS.inc(max(discards, 0))
        telemetry.JITTER_EMPTIES.inc(max(empties, 0))
        report = MediaReport(totals=total, lately=total.quality(before), overall=total.quality())
        self._log.info(
            "media_statistics",
            jitter_buffer_ms=total.jitter_buffer_ms,
            jitter_buffer_average_ms=total.jitter_buffer_average_ms,
            discards=total.jitter_buffer_discards,
            empties=total.jitter_buffer_empties,
            received=total.packets_received,
            lost=total.packets_lost,
            jitter_ms=round(total.jitter_ms, 1),
            round_trip_ms=round(total.round_trip_ms, 1),
            mos=round(report.lately.mos, 2),
            call_mos=round(report.overall.mos, 2),
            underruns=self.playout.underruns,
        )
        return report

    def stream_closed(self, statistics: StreamStatistics) -> MediaReport:
        """The last statistics of a stream; the totals of the call."""
        report = self.note_statistics(statistics)
        self._past_streams = self._statistics
        return report

    def next_look_s(self, at_most_s: float) -> float:
        """How long statistics may wait without missing that audio has stopped."""
        now_ms = self._clock.now_ms()
        if self._rtp is None:
            self._rtp = RtpWatch(
                timeout_ms=self._settings.rtp_timeout_s * 1000,
                one_way_ms=self._settings.one_way_after_s * 1000,
                now_ms=now_ms,
            )
        return self._rtp.next_look_ms(now_ms, at_most_ms=at_most_s * 1000) / 1000

    def rtp_stopped(self, *, held: bool) -> bool:
        """True when no audio has come for too long. Also tells, once, when it never came."""
        total = self._statistics
        if self._rtp is None or total is None:
            return False
        life = Life(
            packets_sent=total.packets_sent,
            packets_received=total.packets_received,
            rtcp_received=total.rtcp_received,
        )
        trouble = self._rtp.update(life, held=held, now_ms=self._clock.now_ms())
        if trouble is RtpTrouble.ONE_WAY:
            telemetry.ONE_WAY_AUDIO.labels(self._trunk).inc()
            self._log.warning(
                "one_way_audio",
                reason=f"{total.packets_sent} packets of audio were sent and none came back in "
                f"{self._settings.one_way_after_s:g} s: what the other side sends does not reach "
                "our RTP port. Check the address in our SDP (public_address), the firewall's UDP "
                "ports (rtp_ports) and SIP-ALG in routers on the way",
            )
        elif trouble is RtpTrouble.TIMEOUT:
            self._log.warning("rtp_timeout", seconds=self._settings.rtp_timeout_s)
        return trouble is RtpTrouble.TIMEOUT

    # -- recording ------------------------------------------------------------------------------

    async def record(self, path: Path) -> None:
        """Record from now on; a file that cannot be opened is told and costs only itself."""
        try:
            self.tap.recorder = await asyncio.to_thread(Recorder, path)
        except OSError as error:
            telemetry.RECORDER_ERRORS.inc()
            self._log.error("recording_failed", reason=str(error))

    async def stop_recording(self) -> Recording | None:
        """Close the recording; None when there is none."""
        recorder, self.tap.recorder = self.tap.recorder, None
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

    async def close(self) -> Recording | None:
        """Count what was lost, say how it sounded, and close the recording."""
        if self._statistics is not None and self._statistics.packets_received:
            telemetry.MOS.labels(self._trunk).observe(self._statistics.quality().mos)
        telemetry.PLAYOUT_UNDERRUNS.inc(self.playout.underruns)
        telemetry.UPLINK_DROPPED.inc(self.uplink.dropped_frames)
        return await self.stop_recording()
