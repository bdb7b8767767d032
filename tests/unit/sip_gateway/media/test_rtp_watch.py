"""A side that falls silent is given up, one that never spoke is told, one on hold is neither."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.media.rtp_watch import Life, RtpTrouble, RtpWatch


def life(received: int, *, sent: int = 100, rtcp: int = 0) -> Life:
    return Life(packets_sent=sent, packets_received=received, rtcp_received=rtcp)


def watch(timeout_ms: float = 20_000) -> RtpWatch:
    return RtpWatch(timeout_ms=timeout_ms, one_way_ms=5_000, now_ms=0)


def test_silence_ends_the_call_after_the_timeout() -> None:
    one = watch()
    assert one.update(life(250), held=False, now_ms=5_000) is None
    assert one.update(life(250), held=False, now_ms=24_999) is None
    assert one.update(life(250), held=False, now_ms=25_000) is RtpTrouble.TIMEOUT


def test_one_packet_begins_the_wait_anew() -> None:
    one = watch()
    one.update(life(250), held=False, now_ms=5_000)
    assert one.update(life(251), held=False, now_ms=24_000) is None
    assert one.update(life(251), held=False, now_ms=43_000) is None
    assert one.update(life(251), held=False, now_ms=44_000) is RtpTrouble.TIMEOUT


def test_reports_of_a_side_that_suppresses_silence_are_signs_of_life() -> None:
    one = watch()
    for second in range(5, 100, 5):
        assert one.update(life(250, rtcp=second), held=False, now_ms=second * 1000) is None


def test_nothing_need_come_while_held() -> None:
    one = watch()
    one.update(life(250), held=False, now_ms=5_000)
    for second in range(10, 200, 5):
        assert one.update(life(250), held=True, now_ms=second * 1000) is None
    assert one.update(life(250), held=False, now_ms=200_000) is None
    assert one.update(life(250), held=False, now_ms=214_999) is None
    assert one.update(life(250), held=False, now_ms=215_000) is RtpTrouble.TIMEOUT


def test_audio_that_never_came_is_told_once_and_then_times_out() -> None:
    one = watch()
    assert one.update(life(0), held=False, now_ms=4_900) is None
    assert one.update(life(0), held=False, now_ms=5_000) is RtpTrouble.ONE_WAY
    assert one.update(life(0), held=False, now_ms=10_000) is None
    assert one.update(life(0), held=False, now_ms=20_000) is RtpTrouble.TIMEOUT


def test_audio_that_came_once_is_not_one_way() -> None:
    one = watch(timeout_ms=0)
    one.update(life(1), held=False, now_ms=4_000)
    assert one.update(life(1), held=False, now_ms=90_000) is None


def test_who_sends_nothing_itself_does_not_call_it_one_way() -> None:
    assert watch().update(life(0, sent=0), held=False, now_ms=9_000) is None


def test_without_a_timeout_it_may_last() -> None:
    one = watch(timeout_ms=0)
    one.update(life(10), held=False, now_ms=5_000)
    assert one.update(life(10), held=False, now_ms=10_000_000) is None


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
    st.floats(100, 30_000),
)
def test_looking_when_it_says_never_misses_the_timeout_by_more_than_a_look(
    steps: list[tuple[int, bool]], timeout_ms: float
) -> None:
    """It ends a call only after the timeout without a sign, and then at once."""
    one = RtpWatch(timeout_ms=timeout_ms, one_way_ms=5_000, now_ms=0)
    now_ms = alive_ms = 0.0
    received = 0
    for new, held in steps:
        now_ms += one.next_look_ms(now_ms, at_most_ms=5_000)
        received += new
        if new or held:
            alive_ms = now_ms
        verdict = one.update(life(received), held=held, now_ms=now_ms)
        assert (verdict is RtpTrouble.TIMEOUT) == (now_ms - alive_ms >= timeout_ms)
        if verdict is RtpTrouble.TIMEOUT:
            assert now_ms - alive_ms < timeout_ms + 5_001
            return
