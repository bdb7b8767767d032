"""A sound that survives telephone codecs, and the search for it in what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.common.audio import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWEEP_MS = 600
_FROM_HZ, _TO_HZ = 600.0, 2400.0
_AMPLITUDE = 8000.0
# Of a sweep against itself 1.0; through G.711 and a resampler above 0.9; of speech below 0.3.
_FOUND = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """Where the sweep was found: `at_ms` from the start, how alike, and its level in dBFS."""

    at_ms: float
    likeness: float
    level_dbfs: float


def sweep() -> bytes:
    """A tone that rises through the telephone band: 16 kHz mono s16le."""
    return np.round(_sweep() * _AMPLITUDE).astype("<i2").tobytes()


def find_sweep(pcm: bytes) -> Echo | None:
    """The place in 16 kHz mono s16le that is most like the sweep; None when nothing is."""
    heard = np.frombuffer(pcm, "<i2").astype(np.float64)
    pattern = _sweep()
    if heard.size < pattern.size:
        return None
    size = 1 << (heard.size + pattern.size).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(pattern, size))
    matches = np.fft.irfft(spectrum, size)[: heard.size - pattern.size + 1]
    energy = np.concatenate(([0.0], np.cumsum(heard**2)))
    windows = energy[pattern.size :] - energy[: -pattern.size]
    # Windows that are as good as silent would divide by nothing.
    floor = pattern.size * 10.0**2
    norms = np.sqrt(np.maximum(windows, floor) * float(pattern @ pattern))
    likeness = np.abs(matches) / norms
    best = int(np.argmax(likeness))
    if likeness[best] < _FOUND:
        return None
    return Echo(
        at_ms=best * 1000 / SAMPLE_RATE_HZ,
        likeness=float(likeness[best]),
        level_dbfs=_dbfs(heard[best : best + pattern.size]),
    )


def loudness_dbfs(pcm: bytes) -> float:
    """Mean level of 16 kHz mono s16le against full scale; -96 for silence."""
    return _dbfs(np.frombuffer(pcm, "<i2").astype(np.float64))


def _sweep() -> NDArray[np.float64]:
    samples = SAMPLE_RATE_HZ * SWEEP_MS // 1000
    seconds = np.arange(samples) / SAMPLE_RATE_HZ
    rate = (_TO_HZ - _FROM_HZ) / (SWEEP_MS / 1000)
    phase = 2 * np.pi * (_FROM_HZ * seconds + rate * seconds**2 / 2)
    return np.asarray(np.sin(phase) * np.hanning(samples) ** 0.25)


def _dbfs(samples: NDArray[np.float64]) -> float:
    if samples.size == 0:
        return -96.0
    power = float(np.mean(samples**2))
    return max(float(10 * np.log10(power / 32768.0**2)), -96.0) if power > 0 else -96.0
