"""Which keys count, and how they are spelled in SIP INFO."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.dialog.dtmf import SAME_PRESS_MS, DtmfMethod, DtmfMode, Keys, parse_info

EVENT, INFO, TONE = DtmfMethod.RFC4733, DtmfMethod.INFO, DtmfMethod.INBAND


@pytest.mark.parametrize(
    ("content_type", "body", "key"),
    [
        ("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n", ("5", 160)),
        ("application/dtmf-relay", "Signal= *\nDuration= 80", ("*", 80)),
        ("Application/DTMF-Relay; charset=utf-8", "signal=a\r\n", ("A", 160)),
        ("application/dtmf-relay", "Signal=11\r\nDuration=250", ("#", 250)),
        ("application/dtmf", "9", ("9", 160)),
        ("application/dtmf", " d \r\n", ("D", 160)),
        ("application/dtmf", "16", None),  # hook flash
        ("application/dtmf", "", None),
        ("application/dtmf", "99", None),
        ("application/dtmf-relay", "Duration=160\r\n", None),
        ("text/plain", "Signal=5", None),
    ],
)
def test_info(content_type: str, body: str, key: tuple[str, int] | None) -> None:
    assert parse_info(content_type, body) == key


@given(st.text(max_size=60))
def test_no_body_breaks_it(body: str) -> None:
    key = parse_info("application/dtmf-relay", body)
    assert key is None or key[1] >= 0


@pytest.mark.parametrize(
    ("mode", "negotiated", "accepted"),
    [
        (DtmfMode.AUTO, True, {EVENT, INFO}),
        (DtmfMode.AUTO, False, {EVENT, INFO, TONE}),
        (DtmfMode.RFC4733, True, {EVENT}),
        (DtmfMode.RFC4733, False, {EVENT, INFO}),
        (DtmfMode.INFO, True, {INFO}),
        (DtmfMode.INBAND, True, {TONE}),
    ],
)
def test_ways_that_a_trunk_uses(
    mode: DtmfMode, negotiated: bool, accepted: set[DtmfMethod]
) -> None:
    for method in DtmfMethod:
        keys = Keys(mode)
        keys.media_changed(events_negotiated=negotiated)
        assert keys.accepts("1", method, 0) == (method in accepted), method


def test_the_same_key_twice_is_two_keys() -> None:
    keys = Keys(DtmfMode.AUTO)
    keys.media_changed(events_negotiated=True)
    assert [keys.accepts("1", EVENT, at) for at in (0, 120, 240)] == [True] * 3


def test_a_long_press_told_at_its_beginning_and_at_its_end_is_one() -> None:
    keys = Keys(DtmfMode.AUTO)
    keys.media_changed(events_negotiated=True)
    assert keys.accepts("1", INFO, 0)
    assert not keys.accepts("1", EVENT, 3000, duration_ms=2900)
    assert keys.accepts("1", EVENT, 6000, duration_ms=100)


def test_a_certain_way_ends_the_listening_for_tones() -> None:
    keys = Keys(DtmfMode.AUTO)
    assert keys.listens_to_tones
    assert keys.accepts("1", INFO, 0)
    assert not keys.listens_to_tones
    assert not keys.accepts("1", TONE, 3000)
    assert keys.sending is INFO


@pytest.mark.parametrize(
    ("mode", "negotiated", "way"),
    [
        (DtmfMode.AUTO, True, EVENT),
        (DtmfMode.AUTO, False, TONE),
        (DtmfMode.INFO, True, INFO),
        (DtmfMode.INBAND, True, TONE),
        (DtmfMode.RFC4733, False, EVENT),
    ],
)
def test_how_ours_are_sent(mode: DtmfMode, negotiated: bool, way: DtmfMethod) -> None:
    keys = Keys(mode)
    keys.media_changed(events_negotiated=negotiated)
    assert keys.sending is way


@given(
    presses=st.lists(st.sampled_from("0123456789*#"), max_size=20),
    ways=st.permutations([EVENT, INFO, TONE]),
    lag_ms=st.integers(min_value=0, max_value=SAME_PRESS_MS - 1),
    negotiated=st.booleans(),
)
def test_each_press_counts_once_however_often_it_is_told(
    presses: list[str], ways: list[DtmfMethod], lag_ms: int, negotiated: bool
) -> None:
    keys = Keys(DtmfMode.AUTO)
    keys.media_changed(events_negotiated=negotiated)
    told = []
    for number, digit in enumerate(presses):
        for order, way in enumerate(ways):
            if keys.accepts(digit, way, number * 2000 + order * lag_ms / 3):
                told.append(digit)
    assert told == presses
