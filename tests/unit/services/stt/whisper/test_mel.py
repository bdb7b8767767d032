"""Features as Whisper was trained with, whatever pieces the audio comes in."""

from __future__ import annotations

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor
from hypothesis import given, settings
from hypothesis import strategies as st

from services.stt.engines.whisper.mel import MelStream, mel_bank, pad

RNG = np.random.default_rng(3)


def pcm(samples: int) -> bytes:
    return (RNG.standard_normal(samples) * 3_000).astype("<i2").tobytes()


def whole(audio: bytes, mels: int = 80) -> np.ndarray:
    stream = MelStream(mels)
    stream.push(audio)
    return stream.window(0)


@pytest.mark.parametrize("mels", [80, 128])
def test_features_equal_those_of_faster_whisper(mels: int) -> None:
    audio = pcm(40_000)
    samples = np.frombuffer(audio, "<i2").astype(np.float32) / 32768
    # Zeroes behind keep the peer's mirrored end away from the frames compared.
    theirs = FeatureExtractor(feature_size=mels)(samples, padding=800)
    ours = whole(audio, mels)
    assert ours.shape == (mels, 250)
    np.testing.assert_allclose(ours, theirs[:, :250], atol=2e-4)


def test_the_mel_bank_is_whisper_s() -> None:
    theirs = FeatureExtractor.get_mel_filters(16_000, 400, 80)
    np.testing.assert_allclose(mel_bank(80), theirs, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(pieces=st.lists(st.integers(0, 2_000), min_size=1, max_size=12))
def test_pieces_do_not_matter(pieces: list[int]) -> None:
    audio = pcm(sum(pieces))
    stream = MelStream(80)
    at = 0
    for samples in pieces:
        stream.push(audio[at * 2 : (at + samples) * 2])
        at += samples
        stream.window(0)
    np.testing.assert_allclose(stream.window(0), whole(audio), atol=1e-5)


def test_a_window_in_the_middle_is_that_part_of_the_whole() -> None:
    audio = pcm(32_000)
    stream = MelStream(80)
    stream.push(audio)
    assert stream.window(50, 90).shape == (80, 40)
    loud = stream.window(0)
    part = stream.window(50, 90)
    # Normalising depends only on the loudest value of each window.
    np.testing.assert_allclose(part, np.maximum(loud[:, 50:90], part.max() - 2.0), atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 200, 201, 399, 400])
def test_very_short_audio_has_features_too(samples: int) -> None:
    assert whole(pcm(samples)).shape == (80, -(-samples // 160))
    assert np.isfinite(whole(pcm(samples))).all()


def test_padding_is_silence_and_too_much_is_cut() -> None:
    features = whole(pcm(16_000))
    padded = pad(features, 300)
    assert padded.shape == (80, 300)
    np.testing.assert_array_equal(padded[:, :100], features)
    assert np.unique(padded[:, 100:]).tolist() == pytest.approx([features.max() - 2.0])
    assert pad(features, 40).shape == (80, 40)
