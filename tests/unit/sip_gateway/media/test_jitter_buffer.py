"""Our policy on PJMEDIA's own jitter buffer, in virtual time: what a bad network costs."""

from __future__ import annotations

import statistics

import pytest

from sip_gateway.media.settings import MediaConfig
from tests.fakes.impaired_network import Impairment
from tests.fakes.jitter_buffer import Played, play

POLICY = MediaConfig().jitter


def with_our_policy(impairment: Impairment, seconds: float) -> Played:
    return play(impairment, seconds=seconds, start_ms=POLICY.start_ms, max_ms=POLICY.max_ms)


@pytest.mark.parametrize("jitter_ms", [0.0, 4.0])
def test_at_most_60_ms_are_buffered_5_s_after_a_stall_of_200_ms(jitter_ms: float) -> None:
    stall = Impairment(jitter_ms=jitter_ms, stall_at_ms=4000, stall_ms=200)
    played = with_our_policy(stall, 14)
    assert max(played.delays(4200, 5000)) >= 180
    assert max(played.delays(4200 + 5000)) <= 60


def test_a_clean_network_costs_less_than_a_packet_and_loses_nothing() -> None:
    played = with_our_policy(Impairment(), 10)
    assert max(played.delays(1000)) <= 20
    assert not [at for at in played.missing_ms if at > 1000]


@pytest.mark.parametrize(
    ("jitter_ms", "delay_ms", "missing"), [(20.0, 80, 0.01), (60.0, 150, 0.08)]
)
def test_jitter_costs_delay_up_to_the_maximum_and_few_packets(
    jitter_ms: float, delay_ms: float, missing: float
) -> None:
    played = with_our_policy(Impairment(jitter_ms=jitter_ms, seed=5), 40)
    delays = played.delays(2000)
    assert statistics.median(delays) <= delay_ms
    assert max(delays) <= POLICY.max_ms + 20
    assert played.missing_ratio() < missing


def test_without_prefetching_jitter_would_lose_several_times_as_much() -> None:
    """Why `start_ms` is not 0, which is what PJSIP does when it is not told."""
    jitter = Impairment(jitter_ms=60, seed=5)
    ours = with_our_policy(jitter, 40)
    bare = play(jitter, seconds=40, start_ms=0, max_ms=POLICY.max_ms, steadily=False)
    assert bare.missing_ratio() > 3 * ours.missing_ratio()


def test_lost_and_reordered_packets_leave_no_delay_behind() -> None:
    played = with_our_policy(Impairment(loss=0.05, reorder=0.02, seed=3), 40)
    assert statistics.median(played.delays(2000)) <= 40
    assert played.missing_ratio() < 0.09
