from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.audio import SAMPLE_RATE_HZ
from sip_gateway.doctor.signals import find_sweep, loudness_dbfs, sweep


def surrounded(pcm: bytes, before_ms: int, *, gain: float = 1.0, noise: float = 0.0) -> bytes:
    """The sound `before_ms` after the start of three seconds."""
    heard = np.random.default_rng(7).normal(0, max(noise, 1e-9), SAMPLE_RATE_HZ * 3)
    start = before_ms * SAMPLE_RATE_HZ // 1000
    samples = np.frombuffer(pcm, "<i2") * gain
    heard[start : start + samples.size] += samples
    return np.clip(np.round(heard), -32768, 32767).astype("<i2").tobytes()


@given(before_ms=st.integers(0, 2300), gain=st.floats(0.02, 3.0))
def test_the_sweep_is_found_where_it_is(before_ms: int, gain: float) -> None:
    echo = find_sweep(surrounded(sweep(), before_ms, gain=gain))
    assert echo is not None
    assert echo.at_ms == pytest.approx(before_ms, abs=1)
    assert echo.level_dbfs == pytest.approx(-17.2 + 20 * np.log10(gain), abs=1.5)


def test_the_sweep_is_found_in_noise_of_a_bad_line() -> None:
    echo = find_sweep(surrounded(sweep(), 700, noise=2000))
    assert echo is not None
    assert echo.at_ms == pytest.approx(700, abs=1)


@pytest.mark.parametrize("before_ms", [0, 1000])
def test_a_phase_turned_round_is_still_the_sweep(before_ms: int) -> None:
    assert find_sweep(surrounded(sweep(), before_ms, gain=-1.0)) is not None


def test_other_sounds_are_not_the_sweep() -> None:
    seconds = np.arange(SAMPLE_RATE_HZ * 2) / SAMPLE_RATE_HZ
    tone = np.round(8000 * np.sin(2 * np.pi * 1000 * seconds)).astype("<i2").tobytes()
    noise = np.random.default_rng(3).normal(0, 5000, seconds.size).astype("<i2").tobytes()
    for sound in (tone, noise, bytes(64_000), b"", bytes(10)):
        assert find_sweep(sound) is None


def test_loudness() -> None:
    full = np.full(1600, 32767, "<i2").tobytes()
    assert loudness_dbfs(full) == pytest.approx(0, abs=0.01)
    assert loudness_dbfs(bytes(640)) == -96.0
    assert loudness_dbfs(b"") == -96.0
