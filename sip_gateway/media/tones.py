"""Keys as tones in the voice (ITU-T Q.23, Q.24), and the tone that a waiting caller hears."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from services.common.audio import (
    FRAME_BYTES,
    FRAME_MS,
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    SILENCE_FRAME,
    ms_to_samples,
)
from sip_gateway.dialog.dtmf import GAP_MS, TONE_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW_HZ = (697, 770, 852, 941)
_HIGH_HZ = (1209, 1336, 1477, 1633)
_KEYS = ("123A", "456B", "789C", "*0#D")
_LEVEL = 0.2  # of full scale for each of the two tones: -14 dBov
_RINGING_HZ = 425  # ITU-T E.180; 1 s of tone in each 5 s
_RINGING_LEVEL = 0.1
# A frame holds a key when its two tones are loud enough, alike enough and nearly all that it is.
_MIN_POWER = (0.004 * 32768) ** 2
_MAX_TWIST = 10 ** (9 / 10)
_MIN_SHARE = 0.72
_MIN_LEAD = 10 ** (6 / 10)  # over the other tones of the group
_MIN_FRAMES = 2
_MIN_PAUSE_FRAMES = 2


@cache
def _probes() -> NDArray[np.float32]:
    at = np.arange(FRAME_SAMPLES) / SAMPLE_RATE_HZ
    angles = 2 * np.pi * np.outer(np.array(_LOW_HZ + _HIGH_HZ), at)
    return np.concatenate((np.cos(angles), np.sin(angles))).astype(np.float32)


def key_in(pcm: bytes) -> str:
    """The key that sounds in one frame; empty when none does."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    power = float(samples @ samples) / FRAME_SAMPLES
    if power < _MIN_POWER:
        return ""
    parts = _probes() @ samples
    # The power of a sine in a frame of N samples is |X|^2 * 2 / N^2.
    powers = (parts[:8] ** 2 + parts[8:] ** 2) * (2 / FRAME_SAMPLES**2)
    low, high = powers[:4], powers[4:]
    row, column = int(low.argmax()), int(high.argmax())
    strongest_low, strongest_high = float(low[row]), float(high[column])
    if strongest_low + strongest_high < _MIN_SHARE * power:
        return ""
    if not 1 / _MAX_TWIST < strongest_low / max(strongest_high, 1e-9) < _MAX_TWIST:
        return ""
    for group, strongest in ((low, strongest_low), (high, strongest_high)):
        if float(np.partition(group, -2)[-2]) * _MIN_LEAD > strongest:
            return ""
    return _KEYS[row][column]


class ToneListener:
    """Finds keys in a voice, frame after frame: one key, once, when it has ended."""

    def __init__(self) -> None:
        self._key = ""
        self._frames = 0
        self._pause = 0

    def hear(self, pcm: bytes) -> tuple[str, int] | None:
        """Take one frame; the key that is now complete and how long it sounded, in ms."""
        key = key_in(pcm)
        if key and key == self._key:
            self._frames += 1 + self._pause  # a gap of one frame is a lost packet
            self._pause = 0
            return None
        if not key and self._key and self._pause + 1 < _MIN_PAUSE_FRAMES:
            self._pause += 1
            return None
        told = (self._key, self._frames * FRAME_MS) if self._frames >= _MIN_FRAMES else None
        self._key, self._frames, self._pause = key, 1 if key else 0, 0
        return told


def keys(digits: str) -> list[bytes]:
    """The frames of tones for these keys, each with the pause that follows it."""
    frames: list[bytes] = []
    for digit in digits.upper():
        row = next(index for index, keys_of_row in enumerate(_KEYS) if digit in keys_of_row)
        column = _KEYS[row].index(digit)
        at = np.arange(ms_to_samples(TONE_MS)) / SAMPLE_RATE_HZ
        tone = np.sin(2 * np.pi * _LOW_HZ[row] * at) + np.sin(2 * np.pi * _HIGH_HZ[column] * at)
        pcm = (tone * _LEVEL * 32767).astype("<i2").tobytes()
        frames += [pcm[begin : begin + FRAME_BYTES] for begin in range(0, len(pcm), FRAME_BYTES)]
        frames += [SILENCE_FRAME] * (GAP_MS // FRAME_MS)
    return frames


class RingBack:
    """What a caller hears while somebody else's telephone rings, frame after frame."""

    def __init__(self) -> None:
        self._frame = 0

    def next(self) -> bytes:
        """The next 20 ms."""
        second, self._frame = self._frame * FRAME_MS % 5_000 // 1_000, self._frame + 1
        if second:
            return SILENCE_FRAME
        at = (np.arange(FRAME_SAMPLES) + (self._frame - 1) * FRAME_SAMPLES) / SAMPLE_RATE_HZ
        tone = np.sin(2 * np.pi * _RINGING_HZ * at)
        return bytes((tone * _RINGING_LEVEL * 32767).astype("<i2").tobytes())
