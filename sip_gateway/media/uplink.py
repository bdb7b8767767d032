"""The caller's audio on its way from the media thread to the conversation.

One ring serves both: it holds the last 30 s for a replay, and a cursor in it says what has not
been sent. A reader that falls more than 30 s behind loses the oldest frames, counted.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from services.common.audio import BYTES_PER_SAMPLE, FRAME_MS, samples_to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

RING_FRAMES = 30_000 // FRAME_MS


@dataclass(frozen=True, slots=True)
class CallerFrame:
    """PCM whose first sample is the call's `first_sample`th."""

    first_sample: int
    pcm: bytes


class Uplink:
    """Frames in on the media thread, out on the event loop.

    `notify` hands a function to the event loop from the media thread; it is used only when the
    reader waits, so a reader that is behind costs no wake-ups.
    """

    def __init__(
        self, notify: Callable[[Callable[[], None]], None], *, ring_frames: int = RING_FRAMES
    ) -> None:
        self._notify = notify
        self._ring: deque[CallerFrame] = deque(maxlen=ring_frames)
        self._lock = threading.Lock()
        self._next_sample = 0
        self._unread = 0
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
            self._ring.append(CallerFrame(self._next_sample, pcm))
            self._next_sample += len(pcm) // BYTES_PER_SAMPLE
            if self._unread == self._ring.maxlen:
                self.dropped_frames += 1
            else:
                self._unread += 1
            wake, self._waiting = self._waiting, False
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
        """Until there are frames to take, or `wake` or `close` was called."""
        with self._lock:
            if self._unread or self._closed:
                return
            self._waiting = True
        await self._arrived.wait()
        self._arrived.clear()

    def take(self) -> list[CallerFrame]:
        """Every frame not taken before, oldest first."""
        with self._lock:
            fresh = list(islice(self._ring, len(self._ring) - self._unread, None))
            self._unread = 0
            return fresh

    def since(self, first_sample: int) -> list[CallerFrame]:
        """The frames still kept that end after `first_sample`, for a replay."""
        with self._lock:
            return [
                frame
                for frame in self._ring
                if frame.first_sample + len(frame.pcm) // BYTES_PER_SAMPLE > first_sample
            ]
