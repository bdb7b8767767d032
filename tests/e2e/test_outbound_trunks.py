"""Calls out by several trunks, with a password, with TLS, and by the command."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from tests.fakes.callee import LANDLINE, NUMBER, SIP, called, trunk
from tests.fakes.certificates import tls_section
from tests.fakes.dialler import Dialler
from tests.fakes.sip_peer import SipPeer
from tests.fakes.talk import call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]


@pytest.fixture
async def carrier() -> AsyncIterator[SipPeer]:
    async with SipPeer() as user_agent:
        yield user_agent


async def test_the_next_trunk_is_tried_when_one_cannot(
    agent: FakeAgent, carrier: SipPeer, peer: SipPeer, launch_gateway: LaunchGateway
) -> None:
    trunks = trunk("carrier", carrier) + trunk("backup", peer, 'dial_as = "e164"')
    gateway = await launch_gateway(sip=SIP, trunks=trunks)
    async with Dialler(gateway) as service:
        for status in (503, 500, 408):
            call = service.dial(NUMBER)
            invite, _dialog = await called(carrier)
            carrier.respond(invite, status, "Out of order", tag="x")
            invite, dialog = await called(peer)
            assert invite.uri.startswith(f"sip:{NUMBER[1:]}@")
            peer.respond(invite, 200, "OK", peer.sdp(), tag=dialog.local_tag)
            assert (await call.until("answered")).trunk == "backup"
            assert (await agent.next_call()).started.trunk == "backup"
            await dialog.bye()
            await call.end()
            assert call.states == ["trying", "trying", "answered", "ended"]


async def test_a_trunk_that_says_nothing_is_left_after_four_seconds(
    agent: FakeAgent, carrier: SipPeer, peer: SipPeer, launch_gateway: LaunchGateway
) -> None:
    trunks = trunk("carrier", carrier) + trunk("backup", peer)
    gateway = await launch_gateway(sip=SIP, trunks=trunks)
    async with Dialler(gateway) as service:
        call = service.dial(NUMBER)
        await carrier.request("INVITE")
        invite, _dialog = await called(peer)
        peer.respond(invite, 486, "Busy Here", tag="x")
        end = await call.end()
    assert (call.states, end.trunk) == (["trying", "trying", "busy"], "backup")


async def test_a_busy_callee_is_not_called_by_another_trunk(
    agent: FakeAgent, carrier: SipPeer, peer: SipPeer, launch_gateway: LaunchGateway
) -> None:
    trunks = trunk("carrier", carrier) + trunk("backup", peer)
    gateway = await launch_gateway(sip=SIP, trunks=trunks)
    async with Dialler(gateway) as service:
        for status, state in ((486, "busy"), (603, "declined")):
            call = service.dial(NUMBER)
            invite, _dialog = await called(carrier)
            carrier.respond(invite, status, "No", tag="x")
            await call.end()
            assert call.states == ["trying", state]
    assert not peer.messages


async def test_a_trunk_that_asks_for_a_password_gets_a_digest(
    agent: FakeAgent, carrier: SipPeer, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame", encoding="utf-8")
    credentials = f'username = "acme"\npassword = {{ file = "{secret}" }}'
    gateway = await launch_gateway(sip=SIP, trunks=trunk("carrier", carrier, credentials))
    async with Dialler(gateway) as service:
        call = service.dial(NUMBER)
        invite, _dialog = await called(carrier)
        challenge = ('Proxy-Authenticate: Digest realm="carrier", nonce="n1", algorithm=MD5',)
        carrier.respond(invite, 407, "Proxy Authentication Required", tag="c", headers=challenge)
        again, _dialog = await called(carrier)
        digest = dict(re.findall(r'(\w+)="([^"]*)"', again.header("Proxy-Authorization")))
        who = md5(f"acme:carrier:{'open sesame'}")
        what = md5(f"INVITE:{digest['uri']}")
        assert digest["response"] == md5(f"{who}:n1:{what}")
        carrier.respond(again, 486, "Busy Here", tag="x")
        await call.end()
    assert call.states == ["trying", "busy"]
    assert "open sesame" not in str(gateway.log)


def md5(text: str) -> str:
    """As RFC 2617 wants it."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def test_the_command_calls_and_tells_each_step(
    agent: FakeAgent, carrier: SipPeer, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    gateway = await launch_gateway(sip=SIP, trunks=trunk("carrier", carrier))
    port = (await gateway.wait_for_log("dialler"))["port"]
    command = [*LANDLINE, "dial", NUMBER, "--config", str(tmp_path / "landline.toml")]
    command += ["--set", f"sip.outbound.listen=127.0.0.1:{port}", "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    invite, dialog = await called(carrier)
    carrier.respond(invite, 200, "OK", carrier.sdp(), tag=dialog.local_tag)
    await (await agent.next_call()).hear(0.2)
    await dialog.bye()
    output, _ = await asyncio.wait_for(process.communicate(), 15)
    states = [json.loads(line)["state"] for line in output.decode().splitlines()]
    assert (process.returncode, states) == (0, ["trying", "answered", "ended"])

    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    invite, dialog = await called(carrier)
    carrier.respond(invite, 180, "Ringing", tag=dialog.local_tag)
    process.send_signal(signal.SIGINT)
    cancel = await carrier.request("CANCEL")
    carrier.respond(cancel, 200, "OK", tag=dialog.local_tag)
    carrier.respond(invite, 487, "Request Terminated", tag=dialog.local_tag)
    await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode


async def test_the_command_says_that_calls_are_not_placed(
    launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    await launch_gateway()
    process = await asyncio.create_subprocess_exec(
        *(*LANDLINE, "dial", NUMBER, "--config", str(tmp_path / "landline.toml")),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 78
    assert b"sip.outbound" in errors


async def test_orders_need_a_certificate_where_there_is_tls(
    carrier: SipPeer, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    _, tls = tls_section(tmp_path)
    gateway = await launch_gateway(sip=SIP, trunks=trunk("carrier", carrier) + tls)
    async with Dialler(gateway) as stranger:
        call = stranger.dial(NUMBER)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.end()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    port = (await gateway.wait_for_log("dialler"))["port"]
    process = await asyncio.create_subprocess_exec(
        *(*LANDLINE, "dial", "+4940123456", "--config", str(tmp_path / "landline.toml")),
        *("--set", f"sip.outbound.listen=127.0.0.1:{port}", "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, json.loads(output)["state"]) == (1, "denied")
    assert not carrier.messages


async def test_a_host_that_is_allowed_allows_no_number_through_a_trunk(
    agent: FakeAgent, carrier: SipPeer, launch_gateway: LaunchGateway
) -> None:
    sip = SIP.replace('["+4930*"]', '["+4930*", "sip:*@pbx.example"]')
    gateway = await launch_gateway(sip=sip, trunks=trunk("carrier", carrier))
    async with Dialler(gateway) as service:
        end = await service.dial("sip:+33123456789@pbx.example").end()
    assert "write a number" in end.reason
    assert not carrier.received("INVITE")


async def test_an_attended_transfer_to_a_number_goes_by_the_trunks_server(
    agent: FakeAgent, carrier: SipPeer, peer: SipPeer, launch_gateway: LaunchGateway
) -> None:
    sip = SIP.replace("country", 'transfer_allow = ["tel:+4930*"]\ncountry')
    here = trunk("carrier", carrier).replace("192.0.2.7/32", "127.0.0.1/32")
    gateway = await launch_gateway(sip=sip, trunks=here)
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(f"tel:{NUMBER}", attended=True)
    invite, _dialog = await called(carrier)
    assert invite.uri == f"sip:{NUMBER}@127.0.0.1:{carrier.port}"
    carrier.respond(invite, 486, "Busy Here", tag="x")
    await talk.agent.wait_for("transfer", lambda update: update.sip_status == 486)
    await talk.still_talks()
    await talk.dialog.bye()
