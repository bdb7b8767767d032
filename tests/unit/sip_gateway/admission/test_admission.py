"""Whose calls are taken, and how many."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.addresses import HostPort
from services.common.clock import ManualClock
from services.common.config import Secret
from sip_gateway.admission.admission import FULL, STOPPING, TOO_FAST, UNKNOWN_SOURCE, Admission
from sip_gateway.admission.house import open_house
from sip_gateway.config import SipConfig
from sip_gateway.events import Invite
from sip_gateway.trunks.trunk import Trunk, TrunkKind

PEER = Trunk(name="peer", kind=TrunkKind.PEER, allow=["192.0.2.0/28"])  # type: ignore[list-item]


def extension(username: str) -> Trunk:
    return Trunk(
        name=f"ext-{username}",
        kind=TrunkKind.REGISTRATION,
        registrar=HostPort("pbx.example", 5060),
        username=username,
        password=Secret(env="X"),
    )


def invite(source_ip: str, user: str = "100") -> Invite:
    return Invite(
        source_ip=source_ip,
        source_port=5060,
        request_user=user,
        caller="me",
        callee=user,
        sip_call_id="1",
        body="",
    )


def test_only_named_sources_are_taken() -> None:
    admission = Admission([PEER], clock=ManualClock(), limit=3)
    assert admission.decide(invite("192.0.2.5"), 0) is None
    assert admission.decide(invite("192.0.2.16"), 0) == UNKNOWN_SOURCE
    assert admission.decide(invite("::1"), 0) == UNKNOWN_SOURCE


def test_a_stranger_learns_nothing_about_how_busy_we_are() -> None:
    admission = Admission([PEER], clock=ManualClock(), limit=3)
    admission.stopping = True
    assert admission.decide(invite("198.51.100.1"), 3) == UNKNOWN_SOURCE


@pytest.mark.parametrize(("others", "refusal"), [(0, None), (2, None), (3, FULL), (4, FULL)])
def test_the_limit(others: int, refusal: object) -> None:
    assert (
        Admission([PEER], clock=ManualClock(), limit=3).decide(invite("192.0.2.1"), others)
        == refusal
    )
    assert FULL.retry_after_s


def test_stopping_refuses_everybody() -> None:
    admission = Admission([PEER], clock=ManualClock(), limit=3)
    admission.stopping = True
    assert admission.decide(invite("192.0.2.1"), 0) == STOPPING


def test_a_registrar_may_call_once_its_address_is_known() -> None:
    admission = Admission([extension("600")], clock=ManualClock(), limit=3)
    assert admission.trunk_of(invite("203.0.113.7", "600")) is None
    admission.learn_registrar("ext-600", ["203.0.113.7"])
    trunk = admission.trunk_of(invite("203.0.113.7", "600"))
    assert trunk is not None
    assert trunk.name == "ext-600"


def test_the_edge_names_the_trunk() -> None:
    admission = Admission([PEER, extension("600")], clock=ManualClock(), limit=3)
    by_edge = replace(invite("203.0.113.9"), via_edge=True, trunk="ext-600")
    assert admission.decide(by_edge, 0) is None
    trunk = admission.trunk_of(by_edge)
    assert trunk is not None
    assert trunk.name == "ext-600"
    for name in ("", "unknown"):
        unnamed = replace(invite("192.0.2.1"), via_edge=True, trunk=name)
        assert admission.decide(unnamed, 0) == UNKNOWN_SOURCE


def test_of_several_extensions_the_dialled_one_is_meant() -> None:
    admission = Admission([extension("600"), extension("601")], clock=ManualClock(), limit=3)
    for name in ("ext-600", "ext-601"):
        admission.learn_registrar(name, ["203.0.113.7"])
    trunk = admission.trunk_of(invite("203.0.113.7", "601"))
    assert trunk is not None
    assert trunk.name == "ext-601"


def test_a_burst_is_slowed_down_and_time_heals_it() -> None:
    clock = ManualClock()
    admission = Admission([PEER], clock=clock, limit=3)
    decisions = [admission.decide(invite("192.0.2.1"), 0) for _ in range(12)]
    assert decisions == [None] * 10 + [TOO_FAST] * 2
    clock.advance(200)
    decisions = [admission.decide(invite("192.0.2.1"), 0) for _ in range(3)]
    assert decisions == [None, None, TOO_FAST]


def test_strangers_use_up_nobodys_burst() -> None:
    admission = Admission([PEER], clock=ManualClock(), limit=3)
    for _ in range(100):
        assert admission.decide(invite("198.51.100.1"), 0) == UNKNOWN_SOURCE
    assert admission.decide(invite("192.0.2.1"), 0) is None


def test_a_call_for_help_in_a_burst_still_gets_the_people_named_for_it(tmp_path: Path) -> None:
    route = "sip:reception@192.0.2.10"
    config = SipConfig.model_validate(
        {"agent": "127.0.0.1:1", "dialling": {"emergency_route": route}}
    )
    clock = ManualClock()
    house = open_house(config, data_dir=tmp_path, clock=clock)
    admission = Admission([PEER], clock=clock, limit=3, house=house)
    help_wanted = dataclasses.replace(invite("192.0.2.1"), request_user="112")
    for _ in range(10):
        assert admission.decide(invite("192.0.2.1"), 0) is None
    assert admission.decide(invite("192.0.2.1"), 0) == TOO_FAST
    refusal = admission.decide(help_wanted, 0)
    assert refusal is not None
    assert (refusal.sip_status, refusal.contact) == (302, route)
