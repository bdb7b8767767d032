"""One call's audio, put together at the tick of the media clock."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from services.common.audio import FRAME_MS, SILENCE_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.common.clock import Clock
    from sip_gateway.media.playout import Heard, PlayoutQueue
    from sip_gateway.media.recorder import Recorder
    from sip_gateway.media.tones import RingBack

# Ticks come each 20 ms. After this long without one, media was stopped and not merely late.
_PAUSE_MS = 200


class CallAudio:
    """A MediaTap: the playout queue goes out, the caller comes in, and both are recorded.

    In each tick PJMEDIA first asks for the outgoing frame and then delivers the incoming one;
    that pair is one stereo frame of the recording.
    """

    def __init__(
        self,
        *,
        playout: PlayoutQueue,
        sink: Callable[[bytes], None],
        heard: Callable[[tuple[Heard, ...]], None],
        clock: Clock,
        we_call: bool = False,
    ) -> None:
        """`we_call`: what goes out is the caller, and so the left side of the recording."""
        self._playout = playout
        self._sink = sink
        self._heard = heard
        self._clock = clock
        self._we_call = we_call
        self._outgoing: bytes | None = None
        self._last_tick_ms: float | None = None
        self.recorder: Recorder | None = None
        self.inserted: deque[bytes] = deque()  # frames that go out first; playout waits
        self.waiting_tone: RingBack | None = None  # heard while playout has nothing
        self.muted = False  # what goes out is silence
        self.listener: Callable[[bytes], None] | None = None  # hears the other side as well

    def requested(self) -> bytes:
        frame, events = self._next_frame()
        if self._outgoing is not None:  # the tick before had no incoming side
            self._record(SILENCE_FRAME)
        self._outgoing = frame
        if events:
            self._heard(events)
        return frame

    def _next_frame(self) -> tuple[bytes, tuple[Heard, ...]]:
        if self.inserted:
            return self.inserted.popleft(), ()
        waiting = self.waiting_tone if self._playout.drained else None
        frame, events = self._playout.pull()
        if self.muted:
            return SILENCE_FRAME, events
        return (waiting.next() if waiting is not None else frame), events

    def received(self, pcm: bytes) -> None:
        self._sink(pcm)
        if self.listener is not None:
            self.listener(pcm)
        self._record(pcm)

    def _record(self, incoming: bytes) -> None:
        outgoing, self._outgoing = self._outgoing or SILENCE_FRAME, None
        if self.recorder is None:
            return
        now_ms = self._clock.now_ms()
        if self._last_tick_ms is not None and now_ms - self._last_tick_ms > _PAUSE_MS:
            self.recorder.add_gap(int((now_ms - self._last_tick_ms) / FRAME_MS) - 1)
        self._last_tick_ms = now_ms
        if self._we_call:
            self.recorder.add(outgoing, incoming)
        else:
            self.recorder.add(incoming, outgoing)
