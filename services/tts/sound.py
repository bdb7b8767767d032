"""From an engine's sound to the sound of the house: 16 kHz, one level, no silence around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr

from services.common.audio import SAMPLE_RATE_HZ, ms_to_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_SAMPLES = ms_to_samples(10)
_QUIET = 100  # -50 dBFS: softer than this is silence to a caller
_TAIL_SAMPLES = ms_to_samples(
    120
)  # left after the last word, so that sentences do not run together
_KNEE = 0.6  # of full scale; above it peaks are bent instead of cut
_FULL_SCALE = 32767.0


class Resampler:
    """One piece of an engine's speech to 16 kHz at the level of the house."""

    def __init__(self, rate_hz: int, gain: float) -> None:
        self._gain = gain
        self._stream = (
            None
            if rate_hz == SAMPLE_RATE_HZ
            else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
        )

    def process(self, pcm: bytes, *, last: bool = False) -> NDArray[np.int16]:
        """s16le in, samples out; `last` brings out what the filter still holds."""
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
        if self._stream is not None:
            samples = self._stream.resample_chunk(samples, last=last)
        return limit(samples * self._gain)


def limit(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of s16 scale that may exceed it, bent smoothly so that none is clipped."""
    level = np.abs(samples) / _FULL_SCALE
    room = 1.0 - _KNEE
    bent = _KNEE + room * np.tanh((level - _KNEE) / room)
    shaped = np.where(level > _KNEE, bent, level)
    return np.asarray(np.copysign(shaped, samples) * _FULL_SCALE, dtype=np.int16)


class SilenceTrimmer:
    """Takes silence off the beginning at once, and off the end when it proves to be the end."""

    def __init__(self) -> None:
        self._pending = np.zeros(0, dtype=np.int16)
        self._heard = False
        self.cut_samples = 0  # taken off the beginning

    @property
    def heard(self) -> bool:
        """Whether anything audible has come yet."""
        return self._heard

    def process(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """What can be played now."""
        self._pending = np.concatenate((self._pending, samples))
        loud = np.flatnonzero(np.abs(self._pending) > _QUIET)
        if not loud.size:
            return self._keep_quiet()
        if not self._heard:
            self._heard = True
            self._cut(max(int(loud[0]) - _BLOCK_SAMPLES, 0))
            loud = np.flatnonzero(np.abs(self._pending) > _QUIET)
        return self._take(int(loud[-1]) + 1)

    def finish(self) -> NDArray[np.int16]:
        """The short silence that closes the speech, however much the engine made."""
        if not self._heard:
            return self._take(0)
        self._pending = np.concatenate((self._pending, np.zeros(_TAIL_SAMPLES, dtype=np.int16)))
        return self._take(_TAIL_SAMPLES)

    def _keep_quiet(self) -> NDArray[np.int16]:
        if not self._heard:
            self._cut(max(len(self._pending) - _BLOCK_SAMPLES, 0))
        return self._take(0)

    def _cut(self, count: int) -> None:
        self.cut_samples += count
        self._pending = self._pending[count:]

    def _take(self, count: int) -> NDArray[np.int16]:
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken
