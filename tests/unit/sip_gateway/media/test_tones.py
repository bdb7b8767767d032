"""Keys in a voice: each is found over a bad line, and no voice is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.audio import FRAME_BYTES, SILENCE_FRAME
from sip_gateway.media.tones import RingBack, ToneListener, key_in, keys
from tests.fakes.telephone import over_the_line, prompts, read_prompt
from tests.fakes.tones import peak_hz, tone

ALL_KEYS = "123A456B789C*0#D"


def heard_in(pcm: bytes) -> list[tuple[str, int]]:
    listener = ToneListener()
    frames = (
        pcm[at : at + FRAME_BYTES] for at in range(0, len(pcm) - FRAME_BYTES + 1, FRAME_BYTES)
    )
    return [key for frame in frames if (key := listener.hear(frame)) is not None]


def over_g711(pcm: bytes, *, noise_db: float | None = None, shift: int = 0) -> bytes:
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)[shift:]
    if noise_db is not None:
        noise = np.random.default_rng(7).normal(0, 0.2 * 32767, len(samples))
        samples = samples + noise * 10 ** (-noise_db / 20)
    return over_the_line(soxr.resample(np.clip(samples, -32768, 32767), 16_000, 8_000))


@pytest.mark.parametrize("shift", [0, 97, 211])
@pytest.mark.parametrize("noise_db", [None, 25, 15])
def test_every_key_is_found_once_over_a_noisy_line(noise_db: float | None, shift: int) -> None:
    pcm = b"".join(keys(ALL_KEYS * 2)) + SILENCE_FRAME * 5
    found = heard_in(over_g711(pcm, noise_db=noise_db, shift=shift))
    assert "".join(key for key, _ms in found) == ALL_KEYS * 2
    assert all(80 <= ms <= 160 for _key, ms in found)


def test_a_lost_packet_does_not_make_two_keys_of_one() -> None:
    frames = keys("5")
    frames[3] = SILENCE_FRAME
    assert [key for key, _ms in heard_in(b"".join(frames))] == ["5"]


@pytest.mark.parametrize("frequency_hz", [440, 697, 941, 1000, 1209, 1633, 2100])
def test_one_tone_is_no_key(frequency_hz: float) -> None:
    assert heard_in(tone(frequency_hz, 0.5)) == []


def test_no_human_voice_is_a_key() -> None:
    spoken = prompts(range(2, 30))[::6]
    seconds = 0.0
    for _text, path in spoken:
        pcm = read_prompt(path)
        seconds += len(pcm) / 32_000
        assert heard_in(pcm) == [], path
    assert seconds > 60


@settings(max_examples=50)
@given(st.binary(min_size=FRAME_BYTES, max_size=FRAME_BYTES))
def test_any_frame_is_taken(frame: bytes) -> None:
    assert key_in(frame) in ("", *ALL_KEYS)


def test_ringing_is_a_second_of_tone_in_five() -> None:
    ringing = RingBack()
    frames = [ringing.next() for _ in range(250)]
    assert peak_hz(b"".join(frames[:50])) == pytest.approx(425, abs=2)
    assert set(frames[50:]) == {SILENCE_FRAME}
