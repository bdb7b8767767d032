"""Writes a call to disk as it happens: stereo WAV, the caller left, the agent right.

The media thread only appends to a bounded queue. A thread of the recorder's own writes it out
about once a second and then makes the header true, so that a process that dies leaves a file
that opens. A full disk ends the recording, never the call.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from services.common.audio import (
    BYTES_PER_SAMPLE,
    FRAME_MS,
    SAMPLE_RATE_HZ,
    SILENCE_FRAME,
)

if TYPE_CHECKING:
    from pathlib import Path

_CHANNELS = 2
_FLUSH_S = 1.0
_CAPACITY_FRAMES = 30_000 // FRAME_MS
_LONGEST_GAP_FRAMES = 3_600_000 // FRAME_MS
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_MAX_DATA_BYTES = 0xFFFFFFFF - _HEADER.size
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A closed recording. `error` is empty when all of the call is in the file."""

    path: Path
    sha256: str
    duration_ms: int
    dropped_frames: int
    error: str


class Recorder:
    """Records one call. `add` is for the media thread and never blocks."""

    def __init__(
        self, path: Path, *, capacity_frames: int = _CAPACITY_FRAMES, flush_s: float = _FLUSH_S
    ) -> None:
        """Create the file; OSError when that fails."""
        self.path = path
        self.dropped_frames = 0
        self.error = ""
        self._capacity_frames = capacity_frames
        self._flush_s = flush_s
        self._frames: deque[tuple[bytes, bytes]] = deque()
        self._data_bytes = 0
        self._closing = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = io.FileIO(descriptor, "r+")
        self._write_header()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, caller: bytes, agent: bytes) -> None:
        """One frame of each side, heard at the same tick; dropped and counted when full."""
        if len(self._frames) >= self._capacity_frames:
            self.dropped_frames += 1
            return
        self._frames.append((caller, agent))

    def add_gap(self, frames: int) -> None:
        """Silence on both sides for ticks on which no media flowed, such as a hold."""
        for _ in range(min(frames, _LONGEST_GAP_FRAMES)):
            self.add(SILENCE_FRAME, SILENCE_FRAME)

    def close(self) -> Recording:
        """Write what is left and hash the file; blocks, so not for the event loop."""
        self._closing.set()
        self._thread.join()
        sha256 = ""
        try:
            self._file.seek(0)
            sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
        except OSError as error:
            self._fail(error)
        finally:
            self._file.close()
        frame_bytes = _CHANNELS * BYTES_PER_SAMPLE
        return Recording(
            path=self.path,
            sha256=sha256,
            duration_ms=self._data_bytes // frame_bytes * 1000 // SAMPLE_RATE_HZ,
            dropped_frames=self.dropped_frames,
            error=self.error,
        )

    def _run(self) -> None:
        while not self._closing.wait(self._flush_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        batch = [self._frames.popleft() for _ in range(len(self._frames))]
        if not batch:
            return
        if self.error:
            self.dropped_frames += len(batch)
            return
        try:
            self._write(_interleave(batch))
            self._write_header()
        except OSError as error:
            self.dropped_frames += len(batch)
            self._fail(error)

    def _write(self, data: bytes) -> None:
        if self._data_bytes + len(data) > _MAX_DATA_BYTES:
            raise OSError("the recording has reached the 4 GiB that a WAV file can hold")
        self._file.seek(_HEADER.size + self._data_bytes)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._data_bytes += len(data)

    def _write_header(self) -> None:
        """RIFF/WAVE, PCM, as in the Multimedia Programming Interface 1.0 (IBM, Microsoft)."""
        block_bytes = _CHANNELS * BYTES_PER_SAMPLE
        self._file.seek(0)
        self._file.write(
            _HEADER.pack(
                b"RIFF",
                _HEADER.size - 8 + self._data_bytes,
                b"WAVE",
                b"fmt ",
                16,
                1,
                _CHANNELS,
                SAMPLE_RATE_HZ,
                SAMPLE_RATE_HZ * block_bytes,
                block_bytes,
                8 * BYTES_PER_SAMPLE,
                b"data",
                self._data_bytes,
            )
        )

    def _fail(self, error: OSError) -> None:
        self.error = error.strerror or str(error)
        _log.error("recording_failed", path=str(self.path), reason=self.error)


def _interleave(frames: list[tuple[bytes, bytes]]) -> bytes:
    left = np.frombuffer(b"".join(caller for caller, _ in frames), "<i2")
    right = np.frombuffer(b"".join(agent for _, agent in frames), "<i2")
    return np.stack((left, right), axis=1).tobytes()
