"""What the caller is about to hear, and exactly how much of it has been heard.

The queue is fed by the conversation in pieces of any size and drained by the media clock, one frame
for each tick. It does no I/O and reads no clock: the tick is its time.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from services.common.audio import (
    BYTES_PER_SAMPLE,
    FRAME_BYTES,
    FRAME_SAMPLES,
    SILENCE_FRAME,
    bytes_to_ms,
    ms_to_samples,
    samples_to_ms,
)

PROGRESS_SAMPLES = ms_to_samples(200)
# After a gap inside a mark this much is gathered before it goes on, so that a slow speaker
# makes one pause and not a stutter. It is also the longest that audio is held back.
REBUFFER_FRAMES = 3
_UNITY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """How much of a mark has left the queue; `finished` when that was all of it."""

    mark: str
    played_ms: int
    finished: bool = False


@dataclass(slots=True)
class _Mark:
    name: str
    pieces: deque[memoryview] = field(default_factory=deque)
    queued_bytes: int = 0
    played_samples: int = 0
    reported_samples: int = 0
    closed: bool = False  # no more audio will come

    def heard(self, *, finished: bool = False) -> Heard:
        return Heard(
            mark=self.name, played_ms=samples_to_ms(self.played_samples), finished=finished
        )


class PlayoutQueue:
    """Audio of marks in the order in which they came. Safe to use from several threads.

    A mark's audio is contiguous: audio for another mark closes the one before it.
    """

    def __init__(self, *, capacity_ms: int = 120_000) -> None:
        self._capacity_bytes = ms_to_samples(capacity_ms) * BYTES_PER_SAMPLE
        self._lock = threading.Lock()
        self._marks: deque[_Mark] = deque()
        self._queued_bytes = 0
        self._gain = _UNITY
        self._target_gain = _UNITY
        self._ramp_samples_left = 0
        self._waiting_frames = 0  # ticks for which what is there may still be held back
        self._starved = False
        self.underruns = 0
        self.dropped_bytes = 0

    @property
    def queued_ms(self) -> int:
        return bytes_to_ms(self._queued_bytes)

    @property
    def drained(self) -> bool:
        """Nothing is left to be played."""
        return self._queued_bytes == 0

    def enqueue(self, mark: str, pcm: bytes, *, last: bool = False) -> int:
        """Add audio to the end; returns the bytes that did not fit or were half a sample.

        What does not fit is counted in `dropped_bytes` and lost; what is queued stays.
        """
        with self._lock:
            room = self._capacity_bytes - self._queued_bytes
            size = min(len(pcm), room) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
            if not self._marks or self._marks[-1].name != mark or self._marks[-1].closed:
                if self._marks:
                    self._marks[-1].closed = True
                self._marks.append(_Mark(mark))
            entry = self._marks[-1]
            if size:
                entry.pieces.append(memoryview(pcm)[:size])
                entry.queued_bytes += size
                self._queued_bytes += size
            entry.closed = last
            self.dropped_bytes += len(pcm) - size
            return len(pcm) - size

    def pull(self) -> tuple[bytes, tuple[Heard, ...]]:
        """The next frame (20 ms; silence where there is nothing) and what its leaving tells."""
        with self._lock:
            if not self._marks:
                self._skip_ramp()
                return SILENCE_FRAME, ()
            if self._hold_back():
                self._skip_ramp()
                return SILENCE_FRAME, ()
            pieces: list[memoryview] = []
            events: list[Heard] = []
            missing = FRAME_BYTES
            while self._marks:
                entry = self._marks[0]
                missing -= self._take(entry, missing, pieces)
                self._report(entry, events)
                if not (entry.closed and entry.queued_bytes == 0):
                    break
                self._marks.popleft()
            self._note_starvation(missing)
            if missing == FRAME_BYTES:
                self._skip_ramp()
                return SILENCE_FRAME, tuple(events)
            frame = b"".join(pieces) if len(pieces) > 1 or missing else bytes(pieces[0])
            return self._scaled(frame.ljust(FRAME_BYTES, b"\0")), tuple(events)

    def clear(self) -> tuple[Heard, ...]:
        """Drop everything; every mark that was cut or never begun, with the exact ms heard."""
        with self._lock:
            cut = tuple(entry.heard() for entry in self._marks)
            self._marks.clear()
            self._queued_bytes = 0
            self._waiting_frames = 0
            self._starved = False
            return cut

    def duck(self, gain: float, ramp_ms: int) -> None:
        """Move the gain to `gain` (0.0 to 1.0) in a straight line over `ramp_ms`."""
        with self._lock:
            self._target_gain = min(max(gain, 0.0), _UNITY)
            self._ramp_samples_left = ms_to_samples(ramp_ms)
            if not self._ramp_samples_left:
                self._gain = self._target_gain

    def _take(self, entry: _Mark, wanted: int, into: list[memoryview]) -> int:
        taken = 0
        while taken < wanted and entry.pieces:
            piece = entry.pieces[0]
            part = piece[: wanted - taken]
            into.append(part)
            taken += len(part)
            if len(part) == len(piece):
                entry.pieces.popleft()
            else:
                entry.pieces[0] = piece[len(part) :]
        entry.queued_bytes -= taken
        self._queued_bytes -= taken
        entry.played_samples += taken // BYTES_PER_SAMPLE
        return taken

    @staticmethod
    def _report(entry: _Mark, events: list[Heard]) -> None:
        if entry.closed and entry.queued_bytes == 0:
            events.append(entry.heard(finished=True))
        elif entry.played_samples - entry.reported_samples >= PROGRESS_SAMPLES:
            entry.reported_samples = entry.played_samples
            events.append(entry.heard())

    def _hold_back(self) -> bool:
        """True while the audio after a gap is still being gathered."""
        if self._waiting_frames == 0 or self._queued_bytes == 0:
            return False
        enough = self._queued_bytes >= REBUFFER_FRAMES * FRAME_BYTES or self._marks[0].closed
        self._waiting_frames = 0 if enough else self._waiting_frames - 1
        return self._waiting_frames > 0

    def _note_starvation(self, missing: int) -> None:
        """Count a gap in the middle of a mark once, when it begins."""
        starved = bool(self._marks) and missing > 0 and self._marks[0].played_samples > 0
        if starved and not self._starved:
            self.underruns += 1
            self._waiting_frames = REBUFFER_FRAMES
        self._starved = starved

    def _skip_ramp(self) -> None:
        if self._ramp_samples_left:
            self._advance_gain()

    def _advance_gain(self) -> tuple[float, float, int]:
        """Gain at the start and end of this frame's ramp, and the ramp's samples in the frame."""
        start = self._gain
        ramp = min(self._ramp_samples_left, FRAME_SAMPLES)
        if ramp:
            self._gain += (self._target_gain - start) * ramp / self._ramp_samples_left
            self._ramp_samples_left -= ramp
        return start, self._gain, ramp

    def _scaled(self, frame: bytes) -> bytes:
        if self._gain == _UNITY and not self._ramp_samples_left:
            return frame
        start, end, ramp = self._advance_gain()
        gains = np.full(FRAME_SAMPLES, end, dtype=np.float32)
        gains[:ramp] = np.linspace(start, end, ramp, endpoint=False, dtype=np.float32)
        return np.rint(np.frombuffer(frame, "<i2") * gains).astype("<i2").tobytes()
