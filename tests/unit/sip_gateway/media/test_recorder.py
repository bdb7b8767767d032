"""A recording opens at every moment, and says what is missing in it."""

from __future__ import annotations

import hashlib
import time
import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.common.clock import ManualClock
from sip_gateway.media.call_audio import CallAudio
from sip_gateway.media.playout import PlayoutQueue
from sip_gateway.media.recorder import Recorder

if TYPE_CHECKING:
    from pathlib import Path


def frame(value: int) -> bytes:
    return np.full(320, value, dtype="<i2").tobytes()


def channels(path: Path) -> tuple[list[int], list[int]]:
    """The first sample of each frame, left and right."""
    with wave.open(str(path), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return samples[::320, 0].tolist(), samples[::320, 1].tolist()


def test_caller_left_agent_right_and_the_hash_of_the_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "calls" / "a.wav")
    for number in range(1, 60):
        recorder.add(frame(number), frame(-number))
    recording = recorder.close()
    assert channels(recording.path) == (list(range(1, 60)), list(range(-1, -60, -1)))
    assert recording.sha256 == hashlib.sha256(recording.path.read_bytes()).hexdigest()
    assert (recording.duration_ms, recording.error) == (59 * 20, "")
    assert recording.path.stat().st_mode & 0o077 == 0


def test_file_opens_while_it_is_being_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.wav", flush_s=0.02)
    assert channels(recorder.path) == ([], [])
    recorder.add(frame(7), frame(8))
    deadline = time.monotonic() + 2
    while channels(recorder.path) != ([7], [8]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    recorder.close()


def test_full_queue_drops_and_counts(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.wav", capacity_frames=3, flush_s=60)
    for number in range(5):
        recorder.add(frame(number), frame(0))
    recording = recorder.close()
    assert recording.dropped_frames == 2
    assert channels(recording.path)[0] == [0, 1, 2]


def test_full_disk_ends_the_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path / "a.wav", flush_s=0.01)

    def no_space(_data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "_write", no_space)
    recorder.add(frame(1), frame(1))
    deadline = time.monotonic() + 2
    while not recorder.error:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    recorder.add(frame(2), frame(2))
    recording = recorder.close()
    assert recording.error == "No space left on device"
    assert recording.dropped_frames == 2
    assert channels(recording.path) == ([], [])


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "a.wav")


def test_pause_of_the_media_is_silence_of_the_same_length(tmp_path: Path) -> None:
    clock = ManualClock()
    audio = CallAudio(
        playout=PlayoutQueue(), sink=lambda _pcm: None, heard=lambda _events: None, clock=clock
    )
    audio.recorder = Recorder(tmp_path / "a.wav")
    for number in range(1, 4):
        audio.requested()
        audio.received(frame(number))
        clock.advance(20)
    clock.advance(1000)
    audio.received(frame(9))
    recording = audio.recorder.close()
    left, _right = channels(recording.path)
    assert left == [1, 2, 3] + [0] * 50 + [9]


def test_tick_without_a_caller_keeps_the_agents_frame(tmp_path: Path) -> None:
    playout = PlayoutQueue()
    playout.enqueue("a", frame(5) + frame(6), last=True)
    audio = CallAudio(
        playout=playout, sink=lambda _pcm: None, heard=lambda _events: None, clock=ManualClock()
    )
    audio.recorder = Recorder(tmp_path / "a.wav")
    audio.requested()
    audio.requested()
    audio.received(frame(1))
    recording = audio.recorder.close()
    assert channels(recording.path) == ([0, 1], [5, 6])
