"""Servers in DNS: the order of SRV records, and the forms in which a server may be written."""

from __future__ import annotations

import dns.name
import dns.rdataclass
import dns.rdatatype
import pytest
from dns.rdtypes.IN.SRV import SRV
from hypothesis import given
from hypothesis import strategies as st

from services.common.addresses import HostPort
from sip_gateway.trunks.resolving import Resolver, Target, UnknownServerError, in_order
from sip_gateway.trunks.trunk import Server, Transport
from tests.fakes.dns_server import DnsServer


def record(priority: int, weight: int, port: int = 5060) -> SRV:
    target = dns.name.from_text("host.example.")
    return SRV(dns.rdataclass.IN, dns.rdatatype.SRV, priority, weight, port, target)


records = st.builds(
    record,
    st.integers(min_value=0, max_value=3),
    st.integers(min_value=0, max_value=100),
    st.integers(min_value=1, max_value=65535),
)


@given(st.lists(records, max_size=8), st.floats(min_value=0, max_value=0.999))
def test_every_record_is_tried_once_the_low_priorities_first(
    found: list[SRV], chance: float
) -> None:
    ordered = in_order(found, lambda: chance)
    assert sorted(map(repr, ordered)) == sorted(map(repr, found))
    priorities = [item.priority for item in ordered]
    assert priorities == sorted(priorities)


def test_weights_are_shares() -> None:
    found = [record(1, 75, 2), record(1, 25, 1)]
    first = [in_order(found, lambda share=share: share / 100)[0].port for share in range(100)]
    assert 74 <= first.count(2) <= 76


async def test_an_address_asks_nobody() -> None:
    resolver = Resolver([HostPort("127.0.0.1", 1)])
    assert await resolver.targets(Server("192.0.2.1", 0), Transport.UDP) == [
        Target("192.0.2.1", 5060, Transport.UDP)
    ]
    resolver.close()


async def test_a_server_written_with_its_port_is_no_question_for_srv() -> None:
    async with DnsServer({("pbx.example", "A"): ["192.0.2.7", "192.0.2.8"]}) as server:
        resolver = Resolver([HostPort("127.0.0.1", server.port)])
        targets = await resolver.targets(Server("pbx.example", 5080), Transport.TCP)
        resolver.close()
    assert [str(target) for target in targets] == ["192.0.2.7:5080", "192.0.2.8:5080"]
    assert targets[0].route() == "<sip:192.0.2.7:5080;transport=tcp;lr;hide>"
    assert server.asked == [("pbx.example", "A")]


async def test_a_record_that_leads_nowhere_is_left_out() -> None:
    found = {
        ("_sip._tcp.pbx.example", "SRV"): ["1 0 5060 gone.example.", "2 0 5070 here.example."],
        ("here.example", "A"): ["192.0.2.9"],
    }
    async with DnsServer(found) as server:
        resolver = Resolver([HostPort("127.0.0.1", server.port)])
        targets = await resolver.targets(Server("pbx.example", 0), Transport.TCP)
        resolver.close()
    assert [str(target) for target in targets] == ["192.0.2.9:5070"]


async def test_a_name_that_nobody_knows_says_so() -> None:
    async with DnsServer({}) as server:
        resolver = Resolver([HostPort("127.0.0.1", server.port)])
        with pytest.raises(UnknownServerError, match="no such name"):
            await resolver.targets(Server("pbx.example", 0), Transport.UDP)
        resolver.close()


async def test_names_of_this_machine_are_known_without_dns() -> None:
    resolver = Resolver()
    assert await resolver.ips("localhost") == ["127.0.0.1"]
    resolver.close()
