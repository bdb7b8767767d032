"""Log-mel features of speech as it comes: each frame is computed once, whatever the window.

The same features as Whisper was trained with: 25 ms Hann windows each 10 ms, a Slaney mel bank,
log10, limited to 8 below the window's loudest value. Only that limit depends on the window.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from services.common.audio import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

FRAME_SAMPLES = 160
FRAME_MS = 10
FRAMES_PER_S = SAMPLE_RATE_HZ // FRAME_SAMPLES
_FFT = 400
_HALF = _FFT // 2
_FLOOR = 1e-10
_RANGE = 8.0


class MelStream:
    """Features of one utterance. Frame n is centred on sample 160 n."""

    def __init__(self, mels: int) -> None:
        self._bank = mel_bank(mels)
        self._window = np.hanning(_FFT + 1)[:-1].astype(np.float32)
        # The beginning is mirrored once it is there, so that frame 0 has a left half.
        self._pending: Floats = np.zeros(0, np.float32)
        self._begun = False
        self._blocks: list[Floats] = []
        self._frames = 0
        self.samples = 0

    def push(self, pcm: bytes) -> None:
        """Take 16 kHz s16le PCM, in whole samples."""
        fresh = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
        self.samples += len(fresh)
        self._pending = np.concatenate((self._pending, fresh))
        if not self._begun:
            if len(self._pending) <= _HALF:
                return
            self._begun = True
            self._pending = np.concatenate((self._pending[_HALF:0:-1], self._pending))
        frames = (len(self._pending) - _FFT) // FRAME_SAMPLES + 1
        if frames > 0:
            self._add(self._compute(self._pending, frames))
            self._pending = self._pending[frames * FRAME_SAMPLES :]

    def window(self, first_frame: int, end_frame: int | None = None) -> Floats:
        """Normalised features [mels, frames] up to `end_frame`, or of all audio so far.

        The last frames are completed with silence; `push` goes on as if nothing had been asked.
        """
        total = -(-self.samples // FRAME_SAMPLES)
        end = total if end_frame is None else min(end_frame, total)
        known = self._known()
        if end > self._frames:
            known = np.concatenate((known, self._tail(end - self._frames)), axis=1)
        return normalise(np.asarray(known[:, first_frame:end], np.float32))

    def _known(self) -> Floats:
        if len(self._blocks) != 1:
            whole = np.concatenate(self._blocks, axis=1) if self._blocks else self._empty()
            self._blocks = [whole]
        return self._blocks[0]

    def _add(self, block: Floats) -> None:
        self._blocks.append(block)
        self._frames += block.shape[1]

    def _empty(self) -> Floats:
        return np.zeros((len(self._bank), 0), np.float32)

    def _tail(self, frames: int) -> Floats:
        pending = self._pending
        if not self._begun:
            mirrored = np.zeros(_HALF, np.float32)
            mirrored[_HALF - max(len(pending) - 1, 0) :] = pending[:0:-1]
            pending = np.concatenate((mirrored, pending))
        needed = (frames - 1) * FRAME_SAMPLES + _FFT
        return self._compute(np.pad(pending, (0, max(needed - len(pending), 0))), frames)

    def _compute(self, samples: Floats, frames: int) -> Floats:
        """Raw log10 mel energies [mels, frames]."""
        pieces = np.lib.stride_tricks.sliding_window_view(samples, _FFT)[::FRAME_SAMPLES][:frames]
        spectrum = np.fft.rfft(pieces * self._window, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        return np.asarray(np.log10(np.maximum(self._bank @ power.T, _FLOOR)), np.float32)


def normalise(raw: Floats) -> Floats:
    """What the encoder takes, from raw log10 energies."""
    if raw.size == 0:
        return raw
    limited = np.maximum(raw, raw.max() - _RANGE)
    return np.ascontiguousarray((limited + 4.0) / 4.0, np.float32)


def pad(features: Floats, frames: int) -> Floats:
    """Exactly `frames` frames: silence is added at the end, or what is too much cut off."""
    missing = frames - features.shape[1]
    if missing <= 0:
        return features[:, :frames]
    floor = float(features.max()) - _RANGE / 4.0 if features.size else 0.0
    return np.pad(features, ((0, 0), (0, missing)), constant_values=floor)


@cache
def mel_bank(mels: int) -> Floats:
    """Triangular filters [mels, 201] on Slaney's scale, of equal area, 0 to 8 kHz."""
    edges = _to_hz(np.linspace(0.0, _to_mel(SAMPLE_RATE_HZ / 2), mels + 2))
    bins = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    filters = np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]
    return np.asarray(filters, np.float32)


# Slaney's scale is linear below 1 kHz, with 3 mels for each 200 Hz, and logarithmic above.
_BREAK_HZ = 1_000.0
_BREAK_MEL = 15.0
_LOG_STEP = np.log(6.4) / 27.0


def _to_mel(hz: float) -> float:
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)  # above 1 kHz only


def _to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mels * 200.0 / 3.0
    return np.where(mels < _BREAK_MEL, linear, _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL)))
