"""Whose RTP is believed: every state, and what no order of packets can bring about."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.media.source_lock import (
    LockState,
    Observation,
    Source,
    SourceFilter,
    SourceLock,
    SourceMode,
    SourcePolicy,
)

SIGNALLED = Source("192.0.2.10", 4000)
PUBLIC = Source("198.51.100.7", 50123)
STRANGER = Source("203.0.113.66", 6666)
POLICY = SourcePolicy(networks=(ipaddress.IPv4Network("198.51.100.0/24"),), rebind_after_ms=2000)


def saw(received: int = 0, dropped: int = 0, source: Source | None = None) -> Observation:
    return Observation(received=received, dropped=dropped, source=source)


def network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def test_first_only_the_signalled_address_is_let_in() -> None:
    lock = SourceLock(SIGNALLED, POLICY, 0)
    assert lock.state is LockState.EXACT
    assert lock.filters.rtp == SourceFilter((network("192.0.2.10/32"),), 4000)
    assert lock.locked_to is None


def test_audio_from_the_signalled_address_locks_to_it() -> None:
    lock = SourceLock(SIGNALLED, POLICY, 0)
    before = lock.filters
    lock.observe(saw(received=3, dropped=40), 50)
    assert lock.filters.rtp == before.rtp
    assert lock.locked_to == SIGNALLED


def test_silence_alone_opens_nothing() -> None:
    lock = SourceLock(SIGNALLED, POLICY, 0)
    for now_ms in range(0, 60_000, 50):
        assert not lock.observe(saw(), now_ms)
    assert lock.state is LockState.EXACT


def test_somebody_elses_packets_open_it_to_the_believed_networks_only() -> None:
    lock = SourceLock(SIGNALLED, POLICY, 0)
    assert not lock.observe(saw(dropped=3), 50)
    assert lock.observe(saw(dropped=9), 250)
    assert lock.state is LockState.BELIEVED
    assert lock.filters.rtp == SourceFilter((network("192.0.2.10/32"), network("198.51.100.0/24")))


def test_a_steady_believed_source_is_locked() -> None:
    lock = SourceLock(None, POLICY, 0)
    for count in (1, 2):
        assert not lock.observe(saw(received=count, source=PUBLIC), count * 50)
    assert lock.observe(saw(received=3, source=PUBLIC), 150)
    assert lock.filters.rtp == SourceFilter((network("198.51.100.7/32"),), 50123)
    assert lock.filters.rtcp == SourceFilter((network("198.51.100.7/32"),))


def test_the_signalled_source_needs_no_patience() -> None:
    lock = SourceLock(SIGNALLED, POLICY, 0)
    lock.observe(saw(dropped=1), 0)
    lock.observe(saw(dropped=2), 200)
    assert lock.observe(saw(received=1, dropped=2, source=SIGNALLED), 250)
    assert lock.locked_to == SIGNALLED


def test_two_sources_in_turn_do_not_settle() -> None:
    lock = SourceLock(None, SourcePolicy(mode=SourceMode.FIRST), 0)
    for count in range(1, 20):
        lock.observe(saw(received=count, source=(PUBLIC, STRANGER)[count % 2]), count * 50)
    assert lock.state is LockState.BELIEVED


def locked(policy: SourcePolicy = POLICY) -> SourceLock:
    lock = SourceLock(SIGNALLED, policy, 0)
    for count in range(1, 5):
        lock.observe(saw(received=count, source=SIGNALLED), count * 10)
    assert lock.state is LockState.LOCKED
    return lock


def test_a_silent_caller_stays_locked_as_long_as_nobody_knocks() -> None:
    lock = locked()
    for now_ms in range(100, 100_000, 500):
        assert not lock.observe(saw(received=4), now_ms)


def test_a_new_port_of_the_same_host_is_found() -> None:
    lock = locked()
    assert not lock.observe(saw(received=4, dropped=50), 1000)
    assert lock.observe(saw(received=4, dropped=99), 2100)
    assert lock.filters.rtp == SourceFilter((network("192.0.2.10/32"),))
    moved = Source(SIGNALLED.ip, 4777)
    for count, now_ms in ((5, 2150), (6, 2200), (7, 2250)):
        lock.observe(saw(received=count, dropped=99, source=moved), now_ms)
    assert lock.locked_to == moved


def test_a_carriers_other_media_server_is_found_after_as_long_again() -> None:
    lock = locked()
    for dropped, now_ms in ((50, 1000), (99, 2100), (150, 3000), (200, 4200)):
        lock.observe(saw(received=4, dropped=dropped), now_ms)
    assert lock.state is LockState.BELIEVED
    for count in (5, 6, 7):
        lock.observe(saw(received=count, dropped=200, source=PUBLIC), 4200 + count * 50)
    assert lock.locked_to == PUBLIC


def test_who_was_taken_for_being_first_is_never_given_up_for_another_host() -> None:
    policy = SourcePolicy(mode=SourceMode.FIRST, rebind_after_ms=1000)
    lock = SourceLock(SIGNALLED, policy, 0)
    assert lock.filters.rtp == SourceFilter((network("0.0.0.0/0"),))
    for count in (1, 2, 3):
        lock.observe(saw(received=count, source=PUBLIC), count * 50)
    for dropped, now_ms in enumerate(range(500, 60_000, 500)):
        lock.observe(saw(received=3, dropped=dropped), now_ms)
    assert lock.state is LockState.SAME_HOST
    assert lock.filters.rtp == SourceFilter((network("198.51.100.7/32"),))


def test_a_stream_made_anew_counts_from_zero_and_stays_locked() -> None:
    lock = locked()
    assert lock.resumes(SIGNALLED, POLICY)
    assert not lock.resumes(PUBLIC, POLICY)
    lock.restart(1000, dropped=70)
    assert not lock.observe(saw(received=1, dropped=70, source=SIGNALLED), 1500)
    assert lock.locked_to == SIGNALLED


@pytest.mark.parametrize(
    "text", ["", "host:1", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:70000", "[::1]:4000", "1.2.3:5"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert Source.parse(text) is None


looks = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(0, 500),
        st.sampled_from([SIGNALLED, PUBLIC, STRANGER, Source(SIGNALLED.ip, 9), None]),
        st.integers(1, 5000),
    ),
    max_size=60,
)


@given(looks)
def test_no_history_lets_an_unbelieved_host_in(
    history: list[tuple[int, int, Source | None, int]],
) -> None:
    """A source that the filter keeps out cannot be seen, so it is shown as dropped instead."""
    lock = SourceLock(SIGNALLED, POLICY, 0)
    received = dropped = 0
    now_ms = 0
    believed = (network("192.0.2.10/32"), network("198.51.100.0/24"))
    for more, knocks, source, passed_ms in history:
        now_ms += passed_ms
        rtp = lock.filters.rtp
        passes = (
            source is not None
            and any(ipaddress.IPv4Address(source.ip) in net for net in rtp.networks)
            and rtp.port in (None, source.port)
        )
        received += more if passes else 0
        dropped += knocks if passes else knocks + more
        lock.observe(saw(received, dropped, source if passes else None), now_ms)
        for filter_ in (lock.filters.rtp, lock.filters.rtcp):
            assert all(any(n.subnet_of(b) for b in believed) for n in filter_.networks)
        assert lock.locked_to != STRANGER


def test_a_private_address_told_from_outside_is_not_waited_for() -> None:
    private = Source("10.7.0.2", 4000)
    outside = SourcePolicy(sip_source="198.51.100.7")
    assert SourceLock(private, outside, 0).state is LockState.BELIEVED
    inside = SourcePolicy(sip_source="10.7.0.9")
    assert SourceLock(private, inside, 0).state is LockState.EXACT
