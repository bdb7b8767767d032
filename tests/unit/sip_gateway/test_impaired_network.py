"""The network that tests and benchmarks are run on does what it says, the same each time."""

from __future__ import annotations

import statistics

import pytest

from tests.fakes.impaired_network import Impairment, Network


def delays(impairment: Impairment, packets: int = 5000) -> list[float | None]:
    network = Network(impairment)
    sent = [1000 + number * 20.0 for number in range(packets)]
    released = [network.release_ms(at) for at in sent]
    return [None if to is None else to - at for at, to in zip(sent, released, strict=True)]


def test_the_same_seed_gives_the_same_network() -> None:
    bad = Impairment(jitter_ms=20, loss=0.05, reorder=0.02, seed=9)
    assert delays(bad) == delays(bad)
    assert delays(bad) != delays(Impairment(jitter_ms=20, loss=0.05, reorder=0.02, seed=10))


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_loss(loss: float) -> None:
    found = delays(Impairment(loss=loss))
    assert found.count(None) / len(found) == pytest.approx(loss, rel=0.25)


@pytest.mark.parametrize("sigma_ms", [20.0, 60.0])
def test_jitter_is_half_a_gaussian(sigma_ms: float) -> None:
    found = [delay for delay in delays(Impairment(jitter_ms=sigma_ms)) if delay is not None]
    assert statistics.mean(delay**2 for delay in found) ** 0.5 == pytest.approx(sigma_ms, rel=0.05)
    assert min(found) >= 0


def test_reordered_packets_fall_behind_the_next_one() -> None:
    found = delays(Impairment(reorder=0.02))
    late = [delay for delay in found if delay]
    assert len(late) / len(found) == pytest.approx(0.02, rel=0.3)
    assert all(20 < delay < 40 for delay in late)


def test_a_stall_holds_everything_and_lets_it_go_at_once() -> None:
    found = delays(Impairment(stall_at_ms=1000, stall_ms=200), 100)
    assert found[50:60] == [200 - 20 * number for number in range(10)]
    assert not any(found[:50] + found[60:])
