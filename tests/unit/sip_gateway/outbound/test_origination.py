"""What an answer to our INVITE means, and which numbers are shown and sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import LandlineError
from sip_gateway.outbound.origination import (
    Attempt,
    DialState,
    caller_id_for,
    number_for,
    target_by,
)
from sip_gateway.trunks.trunk import DialFormat, Did, Server, Trunk, TrunkKind

TRUNK = Trunk(
    name="carrier",
    kind=TrunkKind.PEER,
    allow=["192.0.2.0/24"],  # type: ignore[list-item]
    caller_id="+4930901820",
    dids=[Did(number="+49309018*")],
)


@pytest.mark.parametrize(
    ("status", "rang", "state", "next_trunk"),
    [
        (486, False, DialState.BUSY, False),
        (486, True, DialState.BUSY, False),
        (600, False, DialState.BUSY, False),
        (603, False, DialState.DECLINED, False),
        (607, True, DialState.DECLINED, False),
        (480, False, DialState.NO_ANSWER, False),
        (480, True, DialState.NO_ANSWER, False),
        (487, True, DialState.NO_ANSWER, False),
        (408, True, DialState.NO_ANSWER, False),
        (408, False, DialState.FAILED, True),
        (500, False, DialState.FAILED, True),
        (503, False, DialState.FAILED, True),
        (503, True, DialState.FAILED, False),
        (401, False, DialState.FAILED, True),
        (407, False, DialState.FAILED, True),
        (404, False, DialState.FAILED, False),
        (484, False, DialState.FAILED, False),
    ],
)
def test_what_an_answer_means(status: int, rang: bool, state: DialState, next_trunk: bool) -> None:
    attempt = Attempt(sip_status=status, reason="", rang=rang)
    assert (attempt.state, attempt.next_trunk) == (state, next_trunk)


@given(st.integers(min_value=300, max_value=699), st.booleans())
def test_nobody_who_was_reached_is_called_a_second_time(status: int, rang: bool) -> None:
    attempt = Attempt(sip_status=status, reason="", rang=rang)
    if rang or attempt.state in (DialState.BUSY, DialState.DECLINED, DialState.NO_ANSWER):
        assert not attempt.next_trunk
        assert not attempt.next_address


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (DialFormat.PLUS_E164, "+4930123456"),
        (DialFormat.E164, "4930123456"),
        (DialFormat.AS_DIALLED, "030123456"),
    ],
)
def test_the_number_is_sent_as_the_trunk_wants_it(form: DialFormat, sent: str) -> None:
    trunk = TRUNK.model_copy(update={"dial_as": form})
    assert number_for(trunk, "+4930123456", "030123456") == sent


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("", "+4930901820"),
        ("+4930901820", "+4930901820"),
        ("030901855", "+4930901855"),
        ("+4940123456", None),
        ("112", None),
    ],
)
def test_only_our_own_numbers_are_shown(wanted: str, shown: str | None) -> None:
    assert caller_id_for(TRUNK, wanted, "DE") == shown


@pytest.mark.parametrize(
    "wanted", ["+4930>;x", "+4930\r\nX-Evil: 1", "+4930@evil", "+49 30 <sip:x>"]
)
def test_no_caller_id_breaks_out_of_its_header(wanted: str) -> None:
    anything = TRUNK.model_copy(update={"dids": [Did(number="*")]})
    assert caller_id_for(anything, wanted, "") is None
    assert caller_id_for(anything, "+49309018200", "") == "+49309018200"


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("sip:desk@10.0.0.5", "sip:desk@10.0.0.5"),
        ("tel:030901820", "sip:+4930901820@sip.carrier.example"),
        ("tel:+4930901820;phone-context=x", "sip:+4930901820@sip.carrier.example"),
        ("TEL:200", "sip:200@sip.carrier.example"),
    ],
)
def test_a_telephone_number_is_called_at_the_trunks_server(target: str, uri: str) -> None:
    trunk = TRUNK.model_copy(update={"server": Server("sip.carrier.example", 0)})
    assert target_by(trunk, target, "DE") == uri


def test_a_trunk_without_a_server_calls_no_number() -> None:
    with pytest.raises(LandlineError, match="no server"):
        target_by(TRUNK, "tel:+4930901820", "DE")
