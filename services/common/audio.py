"""The one audio format inside Landline: 16 kHz, mono, signed 16-bit little-endian PCM."""

from __future__ import annotations

SAMPLE_RATE_HZ = 16_000
BYTES_PER_SAMPLE = 2
FRAME_MS = 20
FRAME_SAMPLES = SAMPLE_RATE_HZ * FRAME_MS // 1000
FRAME_BYTES = FRAME_SAMPLES * BYTES_PER_SAMPLE
SILENCE_FRAME = bytes(FRAME_BYTES)


def samples_to_ms(samples: int) -> int:
    """Whole milliseconds that `samples` last."""
    return samples * 1000 // SAMPLE_RATE_HZ


def ms_to_samples(ms: float) -> int:
    """Samples in `ms` milliseconds."""
    return int(ms * SAMPLE_RATE_HZ / 1000)


def bytes_to_ms(size: int) -> int:
    """Whole milliseconds of PCM in `size` bytes."""
    return samples_to_ms(size // BYTES_PER_SAMPLE)
