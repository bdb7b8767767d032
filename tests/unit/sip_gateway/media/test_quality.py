"""The E-model against the values that ITU-T has published, and its shape everywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.media import quality

DELAYS = st.floats(0, 2000)
LOSSES = st.floats(0, 100)
BURSTS = st.floats(1, 8)


def test_default_values_give_93_2_and_4_41() -> None:
    """G.107, 7.7 and annex B: what is left with every parameter at its default."""
    best = quality.estimate(delay_ms=0, loss_percent=0)
    assert round(best.r_factor, 1) == 93.2
    assert round(best.mos, 2) == 4.41


@pytest.mark.parametrize(
    ("r_factor", "mos"), [(90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)]
)
def test_scores_of_the_categories(r_factor: float, mos: float) -> None:
    """G.107, table B.1."""
    assert quality.mos(r_factor) == pytest.approx(mos, abs=0.01)


@pytest.mark.parametrize(
    ("loss_percent", "impairment"), [(0, 0), (1, 5), (2, 7), (3, 10), (5, 15), (10, 25)]
)
def test_impairment_of_g711_by_random_loss(loss_percent: float, impairment: float) -> None:
    """G.113 (2001), appendix I: measured Ie of G.711 with concealment; the formula fits them."""
    assert quality.equipment_impairment(loss_percent) == pytest.approx(impairment, abs=2.2)


def test_delay_costs_nothing_up_to_100_ms_but_for_echo_and_much_at_400_ms() -> None:
    """G.114: most users are content up to 150 ms, and 400 ms are too much for planning."""
    assert quality.estimate(delay_ms=100, loss_percent=0).r_factor > 90
    assert quality.estimate(delay_ms=150, loss_percent=0).r_factor > 88
    assert 60 < quality.estimate(delay_ms=400, loss_percent=0).r_factor < 72


def test_losses_that_come_together_are_worse() -> None:
    single = quality.estimate(delay_ms=60, loss_percent=5)
    together = quality.estimate(delay_ms=60, loss_percent=5, burst_ratio=3)
    assert together.r_factor < single.r_factor - 1


@given(DELAYS, LOSSES, BURSTS)
def test_a_score_is_always_on_the_scale(delay: float, loss: float, burst: float) -> None:
    found = quality.estimate(delay_ms=delay, loss_percent=loss, burst_ratio=burst)
    assert 0 <= found.r_factor <= 93.3
    assert 1.0 <= found.mos <= 4.5


@given(DELAYS, DELAYS, LOSSES, LOSSES)
def test_more_delay_or_loss_never_sounds_better(
    delay: float, more_delay: float, loss: float, more_loss: float
) -> None:
    better = quality.estimate(delay_ms=delay, loss_percent=loss)
    worse = quality.estimate(delay_ms=delay + more_delay, loss_percent=min(loss + more_loss, 100))
    assert worse.r_factor <= better.r_factor + 1e-6
    assert worse.mos <= better.mos + 0.01  # the polynomial is not monotonic at its very bottom


@given(st.floats(0, 50), st.floats(0, 1))
def test_burst_ratio_is_never_below_that_of_independent_losses(
    packets: float, ratio: float
) -> None:
    assert quality.burst_ratio(packets, ratio) >= 1
