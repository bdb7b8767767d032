"""What a queued caller hears: a file, or a quiet piece that is made here."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np
import soxr

from services.common.audio import FRAME_BYTES, SAMPLE_RATE_HZ
from services.common.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sip_gateway.media.port import MediaTap

_PEAK = 0.10  # of full scale: to be talked over, and easy on the ear
_LONGEST_S = 600
# Broken chords: C, A minor, F, G with the sixth. MIDI numbers, a note each half second.
_CHORDS = (
    (48, 55, 60, 64, 67, 64, 60, 55),
    (45, 52, 57, 60, 64, 60, 57, 52),
    (41, 48, 53, 57, 60, 57, 53, 48),
    (43, 50, 55, 59, 64, 59, 55, 50),
)
_NOTE_S = 0.5
_RING_S = 2.0
_PARTIALS = ((1.0, 1.0), (2.0, 0.35), (3.0, 0.12), (4.0, 0.05))


def own_music() -> bytes:
    """Sixteen seconds that repeat without a seam: 16 kHz mono s16le."""
    notes = [note for chord in _CHORDS for note in chord]
    step = int(_NOTE_S * SAMPLE_RATE_HZ)
    loop = np.zeros(len(notes) * step)
    for index, note in enumerate(notes):
        places = (np.arange(int(_RING_S * SAMPLE_RATE_HZ)) + index * step) % len(loop)
        loop[places] += _pluck(note)  # what rings over the end sounds at the beginning
    return _pcm(loop / np.abs(loop).max() * _PEAK)


def from_file(path: Path) -> bytes:
    """A WAV of 16-bit PCM, any rate, the mean of its channels; ConfigError when it is not one."""
    try:
        with wave.open(str(path)) as file:
            if file.getsampwidth() != 2:
                raise ConfigError(f"[sip.admission] hold_music = {path}: only 16-bit PCM is played")
            channels, rate_hz = file.getnchannels(), file.getframerate()
            frames = file.readframes(min(file.getnframes(), _LONGEST_S * rate_hz))
    except (OSError, EOFError, wave.Error) as error:
        raise ConfigError(f"[sip.admission] hold_music = {path}: {error}") from None
    samples = np.frombuffer(frames, "<i2").reshape(-1, channels).mean(axis=1) / 32768
    if not len(samples):
        raise ConfigError(f"[sip.admission] hold_music = {path}: it is empty")
    return _pcm(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ))


class HoldMusic:
    """A MediaTap: music for the caller until `finish`, and from then on the call's own tap."""

    def __init__(self, music: bytes, then: MediaTap) -> None:
        self._music = music
        self._then = then
        self._position = 0
        self._over = False

    def finish(self) -> None:
        self._over = True

    def requested(self) -> bytes:
        if self._over:
            return self._then.requested()
        frame = self._music[self._position : self._position + FRAME_BYTES]
        self._position += FRAME_BYTES
        if len(frame) < FRAME_BYTES:
            self._position = FRAME_BYTES - len(frame)
            frame += self._music[: self._position]
        return frame

    def received(self, pcm: bytes) -> None:
        if self._over:
            self._then.received(pcm)


def _pluck(note: int) -> NDArray[np.float64]:
    seconds = np.arange(int(_RING_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    hz = 440 * 2 ** ((note - 69) / 12)
    tone = sum(
        weight * np.exp(-1.6 * partial * seconds) * np.sin(2 * np.pi * hz * partial * seconds)
        for partial, weight in _PARTIALS
    )
    attack = np.minimum(seconds / 0.02, 1.0)
    release = np.minimum((_RING_S - seconds) / 0.1, 1.0)
    return np.asarray(tone * attack * release)


def _pcm(samples: NDArray[np.float64]) -> bytes:
    """At least a second, in whole samples."""
    data = np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes()
    return data * max(1, -(-SAMPLE_RATE_HZ * 2 // len(data)))
