"""Tones, and which of them are in a piece of audio."""

from __future__ import annotations

import numpy as np

RATE_HZ = 16_000


def tone(frequency_hz: float, seconds: float, *, level: float = 0.4) -> bytes:
    """A sine as 16 kHz mono s16le; `level` 1.0 is full scale."""
    at = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (np.sin(2 * np.pi * frequency_hz * at) * level * 32767).astype("<i2").tobytes()


def peak_hz(pcm: bytes) -> float:
    """The strongest frequency; 0.0 for silence."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    if rms(pcm) < 50:
        return 0.0
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / RATE_HZ)[spectrum.argmax()])


def rms(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0


def share_of(pcm: bytes, frequency_hz: float, *, width_hz: float = 20) -> float:
    """How much of the sound's power lies around that frequency, 0.0 to 1.0."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    at = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return float(power[np.abs(at - frequency_hz) <= width_hz].sum() / max(power.sum(), 1.0))
