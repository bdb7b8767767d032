"""What a queued caller hears."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from services.common.audio import FRAME_BYTES
from services.common.errors import ConfigError
from sip_gateway.media.hold_music import HoldMusic, from_file, own_music


class Tap:
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def requested(self) -> bytes:
        return b"A" * FRAME_BYTES

    def received(self, pcm: bytes) -> None:
        self.heard.append(pcm)


def test_our_own_is_quiet_never_silent_and_has_no_seam() -> None:
    samples = np.frombuffer(own_music(), "<i2").astype(float)
    assert len(samples) == 16 * 16_000
    assert np.abs(samples).max() <= 0.101 * 32768
    seconds = samples.reshape(16, -1)
    assert (np.sqrt((seconds**2).mean(axis=1)) > 150).all()
    around = np.concatenate((samples[-50:], samples[:50]))
    assert np.abs(np.diff(around)).max() <= np.abs(np.diff(samples)).max()


def test_it_loops_frame_by_frame_and_then_gives_way() -> None:
    tap = Tap()
    music = bytes(range(250)) * 4  # no multiple of a frame
    hold = HoldMusic(music, tap)
    played = b"".join(hold.requested() for _ in range(40))
    assert played == (music * 40)[: len(played)]
    hold.received(b"x")
    assert tap.heard == []
    hold.finish()
    hold.received(b"y")
    assert (hold.requested(), tap.heard) == (b"A" * FRAME_BYTES, [b"y"])


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all"])
def test_a_file_that_is_no_wav_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hold.wav"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"hold\.wav"):
        from_file(path)
    with pytest.raises(ConfigError, match=r"missing\.wav"):
        from_file(tmp_path / "missing.wav")


@pytest.mark.parametrize(("width", "frames"), [(1, 8000), (2, 0)])
def test_a_wav_that_cannot_be_played_is_named(tmp_path: Path, width: int, frames: int) -> None:
    path = tmp_path / "hold.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(b"\0" * frames * width)
    with pytest.raises(ConfigError, match=r"hold\.wav"):
        from_file(path)
