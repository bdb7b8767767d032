"""Trunks' servers: found in DNS, asked whether they are there, and registered at again."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.fakes.dns_server import DnsServer
from tests.fakes.kamailio import Kamailio, free_port
from tests.fakes.sip_peer import SipPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

PASSWORD = "correct horse"
LAB = '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'


@pytest.fixture
async def registrar(tmp_path: Path) -> AsyncIterator[Kamailio]:
    server = Kamailio(tmp_path, password=PASSWORD)
    await server.start()
    yield server
    await server.stop()


def extension(folder: Path, registrar: str) -> str:
    secret = folder / "secret"
    secret.write_text(PASSWORD, encoding="utf-8")
    return (
        '[[sip.trunks]]\nname = "pbx"\nkind = "registration"\nusername = "600"\n'
        f'registrar = "{registrar}"\npassword = {{ file = "{secret}" }}\nqualify_s = 0\n'
    )


async def test_a_registrar_is_found_by_srv_and_the_next_one_when_the_first_is_silent(
    registrar: Kamailio, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    records = {
        ("_sip._udp.pbx.example", "SRV"): [
            f"10 0 {free_port()} one.pbx.example.",
            f"20 0 {registrar.port} two.pbx.example.",
        ],
        ("one.pbx.example", "A"): ["127.0.0.1"],
        ("two.pbx.example", "A"): ["127.0.0.1"],
    }
    async with DnsServer(records) as dns:
        gateway = await launch_gateway(
            sip=f'nameservers = ["127.0.0.1:{dns.port}"]',
            trunks=extension(tmp_path, "pbx.example"),
        )
        await gateway.wait_for_log("registered")
    assert ("_sip._udp.pbx.example", "SRV") in dns.asked
    assert (await gateway.wait_for_log("next_address"))["target"] == f"127.0.0.1:{registrar.port}"


async def test_a_name_without_srv_is_taken_as_a_host(
    registrar: Kamailio, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    async with DnsServer({("pbx.example", "A"): ["127.0.0.1"]}) as dns:
        gateway = await launch_gateway(
            sip=f'nameservers = ["127.0.0.1:{dns.port}"]',
            trunks=extension(tmp_path, f"pbx.example:{registrar.port}"),
        )
        await gateway.wait_for_log("registered")
    assert dns.asked[0] == ("pbx.example", "A")


async def test_slow_dns_holds_up_no_call(
    agent: FakeAgent, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    async with DnsServer({("pbx.example", "A"): ["127.0.0.1"]}, delay_s=4.0) as dns:
        gateway = await launch_gateway(
            sip=f'nameservers = ["127.0.0.1:{dns.port}"]',
            trunks=LAB + extension(tmp_path, "pbx.example"),
        )
        async with asyncio.timeout(3):
            while not dns.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with SipPeer() as peer:
            dialog = peer.dialog(gateway.uri())
            answer = await dialog.invite(peer.sdp())
            assert answer.status == 200
            await (await agent.next_call()).hear(0.3)
            await dialog.bye()
        assert loop.time() - begin < 2.0


async def test_a_name_that_is_not_there_is_told_and_tried_again(
    launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    async with DnsServer({}) as dns:
        gateway = await launch_gateway(
            sip=f'nameservers = ["127.0.0.1:{dns.port}"]',
            trunks=extension(tmp_path, "pbx.example"),
        )
        failure = await gateway.wait_for_log("registration_failed")
        assert "no such name" in failure["reason"]
        seen = len(dns.asked)
        async with asyncio.timeout(6):
            while len(dns.asked) <= seen:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_trunk_that_no_longer_answers_options_is_told(
    launch_gateway: LaunchGateway,
) -> None:
    async with SipPeer() as peer:
        gateway = await launch_gateway(
            trunks=f'{LAB}server = "127.0.0.1:{peer.port}"\nqualify_s = 1\n'
        )
        await gateway.wait_for_log("trunk_reachable")
        await gateway.wait_for_metric("landline_sip_trunk_reachable", 1, trunk="lab")
        options = peer.received("OPTIONS")[0]
        assert not options.all("Route")  # the way to it is ours to know
        peer.keeps_quiet_on.add("OPTIONS")
        await gateway.wait_for_log("trunk_unreachable")
        await gateway.wait_for_metric("landline_sip_trunk_reachable", 0, trunk="lab")
        peer.keeps_quiet_on.clear()
        await gateway.wait_for_metric("landline_sip_trunk_reachable", 1, trunk="lab")


async def test_sighup_registers_again_at_once(
    registrar: Kamailio, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    gateway = await launch_gateway(trunks=extension(tmp_path, f"127.0.0.1:{registrar.port}"))
    await gateway.wait_for_log("registered")

    def registrations() -> int:
        return sum("REGISTER saved" in line for line in registrar.lines)

    before = registrations()
    gateway.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(4):
        while registrations() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await gateway.wait_for_metric("landline_sip_registered", 1, trunk="pbx")


async def test_a_session_timer_is_agreed_and_422_is_the_answer_to_a_short_one(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    gateway = await launch_gateway(trunks=LAB)
    for seconds in (90, 1800):
        dialog = peer.dialog(gateway.uri())
        timer = (f"Session-Expires: {seconds};refresher=uas", "Supported: timer")
        answer = await dialog.invite(peer.sdp(), headers=timer)
        assert answer.header("Session-Expires").replace(" ", "") == f"{seconds};refresher=uas"
        assert "timer" in answer.header("Require") + answer.header("Supported")
        await dialog.bye()
    short = ("Session-Expires: 30", "Supported: timer")
    answer = await peer.dialog(gateway.uri()).invite(peer.sdp(), headers=short)
    assert (answer.status, answer.header("Min-SE")) == (422, "90")
