"""Which number was dialled, and who answers it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.events import Invite
from sip_gateway.trunks import dids
from sip_gateway.trunks.trunk import Did, DidSource, Trunk, TrunkKind

INVITE = Invite(
    source_ip="192.0.2.1",
    source_port=5060,
    request_user="landline",
    caller="0301",
    callee="+4930901820",
    called_party="+4930901821",
    diverted_from="+4930901822",
    sip_call_id="1",
    body="",
)


def trunk(*numbers: str, agent: str = "", did_from: DidSource | None = None) -> Trunk:
    return Trunk(
        name="carrier",
        kind=TrunkKind.PEER,
        allow=["192.0.2.0/24"],  # type: ignore[list-item]
        agent=agent,
        did_from=did_from,
        dids=[Did(number=n, agent=f"agent-{n}", region=f"at-{n}") for n in numbers],
    )


@pytest.mark.parametrize(
    ("source", "number"),
    [
        (DidSource.REQUEST_URI, "landline"),
        (DidSource.TO, "+4930901820"),
        (DidSource.P_CALLED_PARTY_ID, "+4930901821"),
        (DidSource.DIVERSION, "+4930901822"),
    ],
)
def test_the_number_comes_from_the_configured_place(source: DidSource, number: str) -> None:
    found = dids.route(trunk(did_from=source), INVITE, "")
    assert found is not None
    assert found.number == number


@pytest.mark.parametrize("source", [DidSource.P_CALLED_PARTY_ID, DidSource.DIVERSION])
def test_without_that_header_the_number_is_the_one_in_to(source: DidSource) -> None:
    bare = replace(INVITE, called_party="", diverted_from="")
    assert dids.dialled(bare, source) == "+4930901820"
    assert dids.dialled(replace(bare, callee=""), source) == "landline"


@pytest.mark.parametrize(
    ("dialled", "agent"),
    [
        ("+4930901820", "agent-030901820"),
        ("030901820", "agent-030901820"),
        ("004930901820", "agent-030901820"),
        ("4930901820", "agent-030901820"),
        ("+4930901855", "agent-+49309018*"),
        ("030901855", "agent-+49309018*"),
        ("600", "agent-600"),
        ("reception", "agent-reception"),
    ],
)
def test_a_number_is_the_same_however_it_is_written(dialled: str, agent: str) -> None:
    line = trunk("030901820", "+49309018*", "600", "reception")
    found = dids.route(line, replace(INVITE, request_user=dialled), "DE")
    assert found is not None
    assert found.agent == agent
    assert found.region == agent.replace("agent", "at", 1)


def test_an_unknown_number_goes_to_the_trunks_agent_or_nowhere() -> None:
    unknown = replace(INVITE, request_user="+4940123456")
    assert dids.route(trunk("+4930901820"), unknown, "DE") is None
    found = dids.route(trunk("+4930901820", agent="clinic"), unknown, "DE")
    assert found == dids.Route(number="+4940123456", agent="clinic", region="")


def test_a_caller_cannot_dial_a_pattern() -> None:
    assert dids.route(trunk("+4930901820"), replace(INVITE, request_user="*"), "DE") is None


def test_where_we_register_the_number_is_in_to() -> None:
    line = Trunk(
        name="pbx",
        kind=TrunkKind.REGISTRATION,
        registrar="pbx.example",  # type: ignore[arg-type]
        username="200",
        password={"env": "X"},  # type: ignore[arg-type]
    )
    assert line.did_source is DidSource.TO
    assert str(line.registrar) == "pbx.example"


@pytest.mark.parametrize(
    ("number", "country", "normal"),
    [
        ("030 90 18 20", "DE", "+4930901820"),
        ("2125550100", "US", "+12125550100"),
        ("12125550100", "US", "+12125550100"),
        ("011 49 30 901820", "US", "+4930901820"),
        ("110", "DE", "110"),
        ("911", "US", "911"),
        ("*72", "US", "*72"),
        ("anonymous", "DE", "anonymous"),
        ("030901820", "", "030901820"),
        ("+4930901820", "", "+4930901820"),
        ("", "DE", ""),
    ],
)
def test_numbers_become_e164_where_they_are_numbers(number: str, country: str, normal: str) -> None:
    assert dids.e164(number, country) == normal


@given(st.text(alphabet="0123456789+*#-() ", max_size=24), st.sampled_from(["DE", "US", "GB", ""]))
def test_a_number_once_normal_stays_as_it_is(number: str, country: str) -> None:
    normal = dids.e164(number, country)
    assert dids.e164(normal, country) == normal
