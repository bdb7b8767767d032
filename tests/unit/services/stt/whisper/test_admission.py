"""How many calls a recogniser bears."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.stt.engines.whisper.admission import Load


def busy_for(share: float, seconds: int, devices: int = 1) -> tuple[Load, float]:
    load = Load(devices=devices, limit=0.85)
    for tenth in range(seconds * 10):
        began = tenth * 100.0
        load.decoded(began, began + 100 * share)
    return load, seconds * 1_000.0


def test_the_load_is_the_share_of_the_time_that_was_decoded() -> None:
    load, now_ms = busy_for(0.4, 60)
    assert load.share(now_ms) == pytest.approx(0.4, abs=0.02)
    load, now_ms = busy_for(0.4, 60, devices=2)
    assert load.share(now_ms) == pytest.approx(0.2, abs=0.02)


def test_it_is_right_from_the_first_seconds_on() -> None:
    load, now_ms = busy_for(0.5, 3)
    assert load.share(now_ms) == pytest.approx(0.5, abs=0.1)


def test_what_was_long_ago_is_forgotten() -> None:
    load, now_ms = busy_for(0.9, 30)
    assert load.share(now_ms + 60_000) < 0.01


def test_one_call_more_is_refused_when_it_would_be_too_much() -> None:
    load, now_ms = busy_for(0.8, 30)
    assert "8 calls keep the recogniser busy for 80%" in load.refusal(now_ms, 8)
    assert load.refusal(now_ms, 40) == ""


@given(st.floats(0, 1), st.integers(0, 100))
def test_an_idle_recogniser_takes_a_call_and_a_saturated_one_takes_none(
    share: float, streams: int
) -> None:
    load, now_ms = busy_for(share, 5)
    refusal = load.refusal(now_ms, streams)
    if streams < 2 or share * (streams + 1) / streams < 0.8:
        assert refusal == ""
    elif share > 0.88:
        assert "is the limit" in refusal
