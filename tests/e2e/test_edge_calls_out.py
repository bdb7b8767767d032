"""Several workers behind an edge: one service that places calls, and registering again."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_registration import PASSWORD
from tests.e2e.test_registration import trunk as extension
from tests.fakes.callee import NUMBER, called, trunk
from tests.fakes.dialler import Dialler
from tests.fakes.g711 import PCMU
from tests.fakes.kamailio import Kamailio
from tests.fakes.sip_peer import SipPeer, audio_of
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

FLEET = """\
listen = "127.0.0.1:0"
calls = 6
rtp_ports = "24300-24399"
country = "DE"
codecs = ["PCMU"]
[sip.dialling]
allow = ["+4930*"]
[sip.outbound]
listen = "127.0.0.1:0"
"""


@pytest.fixture
async def registrar(tmp_path: Path) -> AsyncIterator[Kamailio]:
    folder = tmp_path / "registrar"
    folder.mkdir()
    server = Kamailio(folder, password=PASSWORD)
    await server.start()
    yield server
    await server.stop()


async def test_workers_place_calls_by_way_of_the_edge(
    agent: FakeAgent, peer: SipPeer, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(sip=FLEET, trunks=trunk("carrier", peer))
    async with Dialler(gateway) as service:
        calls = []
        for number in range(4):  # more than one worker holds
            calls.append(service.dial(NUMBER))
            invite, dialog = await called(peer)
            assert invite.uri.startswith(f"sip:{NUMBER}@127.0.0.1:{peer.port}")
            dialog.routes = invite.all("Record-Route")
            peer.respond(invite, 180, "Ringing", tag=dialog.local_tag)
            await calls[-1].until("ringing")
            peer.respond(invite, 200, "OK", peer.sdp(), tag=dialog.local_tag)
            await calls[-1].until("answered")
            talk = await agent.next_call()
            assert talk.started.direction == "outbound"
            if number == 0:
                sending = asyncio.create_task(
                    peer.rtp.send(audio_of(invite.body), tone(440, 1.0), PCMU)
                )
                assert peak_hz((await talk.hear(0.8))[-9600:]) == pytest.approx(440, abs=8)
                await sending
                await dialog.bye()
                end = await calls[0].end()
                assert (end.trunk, end.reason) == ("carrier", "caller_hung_up")
        await service.hang_up(calls[1].events[0].call_id)
        await calls[1].end()


async def test_sighup_has_the_edge_register_again(
    registrar: Kamailio, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    sip = FLEET.partition("[sip.dialling]")[0]
    gateway = await launch_gateway(sip=sip, trunks=extension(tmp_path, registrar.port))
    await gateway.wait_for_log("registered")

    def registrations() -> int:
        return sum("REGISTER saved" in line for line in registrar.lines)

    before = registrations()
    gateway.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(12):
        while registrations() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
