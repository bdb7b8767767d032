"""The caller's audio on its way from the media thread to the conversation.

One ring serves both: it holds the last 30 s for a replay, and a cursor in it says what has not
been sent. A reader that falls more than 30 s behind loses the oldest frames, counted.

The conversation judges audio in windows of 32 ms. A frame that completes none of them would only
wait there, so it waits here and travels with the next one: 31 messages a second instead of 50, and
no decision comes later for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.audio import FRAME_MS, FRAME_SAMPLES, ms_to_samples, samples_to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

RING_FRAMES = 30_000 // FRAME_MS
WINDOW_MS = 32  # of the voice activity detector of services/agent


@dataclass(frozen=True, slots=True)
class CallerAudio:
    """PCM whose first sample is the call's `first_sample`th."""

    first_sample: int
    pcm: bytes


class Uplink:
    """Frames of 20 ms in on the media thread, pieces of them out on the event loop.

    `notify` hands a function to the event loop from the media thread; it is used only when the
    reader waits, so a reader that is behind costs no wake-ups.
    """

    def __init__(
        self, notify: Callable[[Callable[[], None]], None], *, ring_frames: int = RING_FRAMES
    ) -> None:
        self._notify = notify
        self._ring: deque[bytes] = deque(maxlen=ring_frames)
        self._lock = threading.Lock()
        self._next_sample = 0
        self._unread = 0
        self._due_at_sample = ms_to_samples(WINDOW_MS)  # from here on what is unread must go out
        self._arrived = asyncio.Event()
        self._waiting = False
        self._closed = False
        self.dropped_frames = 0

    @property
    def behind_ms(self) -> int:
        """Audio that has come in and was not taken."""
        return self._unread * FRAME_MS

    @property
    def received_ms(self) -> int:
        return samples_to_ms(self._next_sample)

    def push(self, pcm: bytes) -> None:
        """Add one frame; never blocks."""
        with self._lock:
            self._ring.append(pcm)
            self._next_sample += FRAME_SAMPLES
            if self._unread == self._ring.maxlen:
                self.dropped_frames += 1
            else:
                self._unread += 1
            wake = self._waiting and self._due
            if wake:
                self._waiting = False
        if wake:
            self._notify(self._arrived.set)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """No more frames are wanted: a waiting reader returns. Called on the event loop."""
        self._closed = True
        self._arrived.set()

    def wake(self) -> None:
        """Let a waiting reader look again. Called on the event loop."""
        self._arrived.set()

    async def wait(self) -> None:
        """Until a window is complete, or `wake` or `close` was called."""
        with self._lock:
            if self._closed or (self._unread and self._due):
                return
            self._waiting = True
        await self._arrived.wait()
        self._arrived.clear()

    def take(self) -> CallerAudio | None:
        """All that was not taken before in one piece; None when that is nothing."""
        with self._lock:
            if not self._unread:
                return None
            # By index from the end: an iterator would walk through all that is kept for a replay.
            fresh = b"".join([self._ring[-behind] for behind in range(self._unread, 0, -1)])
            first_sample = self._next_sample - self._unread * FRAME_SAMPLES
            self._unread = 0
            window = ms_to_samples(WINDOW_MS)
            self._due_at_sample = (self._next_sample // window + 1) * window
            return CallerAudio(first_sample, fresh)

    def since(self, first_sample: int) -> list[CallerAudio]:
        """The frames still kept that end after `first_sample`, for a replay."""
        with self._lock:
            begin = self._next_sample - len(self._ring) * FRAME_SAMPLES
            kept = [
                CallerAudio(begin + number * FRAME_SAMPLES, pcm)
                for number, pcm in enumerate(self._ring)
            ]
        return [frame for frame in kept if frame.first_sample + FRAME_SAMPLES > first_sample]

    @property
    def _due(self) -> bool:
        return self._next_sample >= self._due_at_sample
