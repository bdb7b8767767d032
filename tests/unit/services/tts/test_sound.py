from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tts.sound import Resampler, SilenceTrimmer, limit
from tests.fakes.tones import peak_hz, tone

SILENCE = np.zeros(8_000, dtype=np.int16)
LOUD = np.frombuffer(tone(440, 0.5), dtype="<i2")


def trim(*parts: np.ndarray) -> tuple[list[np.ndarray], SilenceTrimmer]:
    trimmer = SilenceTrimmer()
    return [*(trimmer.process(part) for part in parts), trimmer.finish()], trimmer


def test_limit_bends_peaks_and_leaves_the_rest() -> None:
    soft = np.array([0, 1_000, -19_000], dtype=np.float32)
    assert limit(soft).tolist() == [0, 1_000, -19_000]
    hard = limit(np.array([30_000, -60_000, 1e9, -1e9], dtype=np.float32))
    assert 19_660 < hard[0] < 30_000
    assert -32_767 <= hard[1] < -30_000
    assert abs(int(hard[2])) <= 32_767


def test_limit_never_turns_a_louder_sample_into_a_softer_one() -> None:
    steps = limit(np.arange(0, 100_000, 10, dtype=np.float32))
    assert (np.diff(steps.astype(int)) >= 0).all()


def test_resampling_in_pieces_is_seamless_and_exact_in_length() -> None:
    at = np.arange(22_050) / 22_050
    pcm = (np.sin(2 * np.pi * 440 * at) * 8_000).astype("<i2").tobytes()
    whole = Resampler(22_050, 1.0).process(pcm, last=True)
    resampler = Resampler(22_050, 1.0)
    parts = [resampler.process(pcm[i : i + 1_324]) for i in range(0, len(pcm), 1_324)]
    pieced = np.concatenate([*parts, resampler.process(b"", last=True)])
    assert len(pieced) == len(whole) == 16_000
    assert np.abs(pieced.astype(int) - whole).max() <= 2
    assert peak_hz(pieced.tobytes()) == pytest.approx(440, abs=2)


def test_silence_before_goes_at_once_and_silence_within_stays() -> None:
    parts, trimmer = trim(SILENCE, LOUD, SILENCE, LOUD, SILENCE)
    assert len(parts[0]) == 0
    assert 7_800 <= trimmer.cut_samples <= 8_000
    audio = np.concatenate(parts)
    assert len(audio) == pytest.approx(8_000 * 3 + 16 * 120, abs=200)


def test_silence_alone_is_nothing() -> None:
    parts, trimmer = trim(SILENCE, SILENCE)
    assert sum(map(len, parts)) == 0
    assert not trimmer.heard


@given(st.lists(st.integers(1, 900), max_size=30))
def test_the_way_the_audio_is_cut_makes_no_difference(sizes: list[int]) -> None:
    source = np.concatenate((SILENCE[:3_000], LOUD[:4_000], SILENCE[:2_000], LOUD[:1_000]))
    cuts = np.cumsum(sizes)
    parts, trimmer = trim(*np.split(source, cuts[cuts < len(source)]))
    whole, _ = trim(source)
    assert np.array_equal(np.concatenate(parts)[-6_000:], np.concatenate(whole)[-6_000:])
    total = sum(map(len, parts)) + trimmer.cut_samples
    assert total == len(source) + 16 * 120
