"""Totals of a call over its streams, and what is made of them."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pjsua2 as pj
import pytest
from pydantic import ValidationError

from sip_gateway.media.jitter import (
    DISCARD_STEADILY,
    JitterPolicy,
    StreamStatistics,
    discard_steadily,
)
from sip_gateway.media.settings import MediaConfig, TrunkMedia

FIRST = StreamStatistics(
    jitter_buffer_ms=20,
    jitter_buffer_average_ms=25,
    jitter_buffer_discards=2,
    jitter_buffer_empties=1,
    packets_received=1000,
    packets_lost=10,
    packets_sent=900,
    jitter_ms=3.5,
    loss_bursts=5,
    round_trip_ms=80,
    rtcp_received=3,
)


def test_policy_reaches_pjmedia() -> None:
    info = pj.StreamInfo()
    JitterPolicy(start_ms=40, max_ms=300).apply(info)
    assert (info.jbInit, info.jbMax) == (40, 300)


def test_the_installed_pjsua2_lets_the_buffer_discard_steadily(
    capfd: pytest.CaptureFixture[str],
) -> None:
    media = pj.MediaConfig()
    assert discard_steadily(media)
    algorithm = media.jbDiscardAlgo
    algorithm.disown()
    assert ctypes.c_int.from_address(int(algorithm)).value == DISCARD_STEADILY
    assert capfd.readouterr().out == ""


def test_a_pjsua2_that_hides_it_is_left_alone() -> None:
    assert not discard_steadily(object())


def test_totals_go_on_over_a_new_stream() -> None:
    second = replace(FIRST, packets_received=50, packets_lost=1, jitter_ms=9, round_trip_ms=0)
    total = second.plus(FIRST)
    assert (total.packets_received, total.packets_lost, total.loss_bursts) == (1050, 11, 10)
    assert (total.jitter_ms, total.round_trip_ms) == (9, 80)
    assert (total.rtcp_received, total.packets_sent) == (6, 1800)


def test_loss_of_a_call_counts_late_packets_and_its_delay_what_is_known() -> None:
    found = FIRST.quality()
    assert found.loss_percent == pytest.approx(100 * 12 / 1010)  # the late ones had come
    assert found.delay_ms == 40 + 25 + 20


def test_packets_that_all_come_too_late_are_all_lost() -> None:
    deaf = replace(FIRST, packets_lost=0, loss_bursts=0, jitter_buffer_discards=1000)
    assert deaf.quality().loss_percent == 100


def test_late_packets_do_not_make_a_burst_of_one_lost_packet() -> None:
    late = replace(FIRST, packets_lost=0, loss_bursts=0, jitter_buffer_discards=100)
    lost_too = replace(late, packets_lost=1, loss_bursts=1)
    assert lost_too.quality().mos == pytest.approx(late.quality().mos, abs=0.02)


def test_lately_is_what_came_since() -> None:
    later = replace(FIRST, packets_received=1250, jitter_buffer_ms=60)
    found = later.quality(FIRST)
    assert found.loss_percent == 0
    assert found.delay_ms == 40 + 60 + 20
    worse = replace(FIRST, packets_received=1050, packets_lost=60, loss_bursts=10)
    assert worse.quality(FIRST).loss_percent == pytest.approx(50)
    assert worse.quality(FIRST).mos < found.mos - 1


def test_a_moment_is_not_judged_by_itself() -> None:
    later = replace(FIRST, packets_received=1001, packets_lost=11)
    assert later.quality(FIRST) == later.quality()


def test_a_packet_that_was_only_late_makes_no_negative_loss() -> None:
    assert replace(FIRST, packets_lost=5, packets_received=1105).quality(FIRST).loss_percent == 0


def test_a_stream_without_packets_is_no_loss() -> None:
    nothing = replace(FIRST, packets_received=0, packets_lost=0, jitter_buffer_discards=0)
    assert nothing.quality().loss_percent == 0


def test_a_trunk_says_what_is_different() -> None:
    both = MediaConfig(jitter_buffer_max_ms=300, rtp_timeout_s=30)
    own = both.for_trunk(TrunkMedia(jitter_buffer_max_ms=120, rtp_timeout_s=0))
    assert own.jitter == JitterPolicy(start_ms=20, max_ms=120)
    assert own.rtp_timeout_s == 0
    assert both.for_trunk(TrunkMedia()) == both


def test_a_start_that_the_buffer_cannot_hold_is_refused() -> None:
    with pytest.raises(ValidationError, match="four fifths"):
        MediaConfig(jitter_buffer_start_ms=200)
    with pytest.raises(ValidationError, match="four fifths"):
        MediaConfig().for_trunk(TrunkMedia(jitter_buffer_start_ms=180))
