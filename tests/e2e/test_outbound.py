"""Calls that the gateway places: what becomes of them, by which trunk, and who talks then."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import sys
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from tests.fakes.certificates import tls_section
from tests.fakes.dialler import Dialler
from tests.fakes.g711 import PCMU
from tests.fakes.sip_peer import SipPeer, audio_of
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess
    from tests.fakes.sip_peer import Dialog, SipMessage

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

SIP = """\
listen = "127.0.0.1:0"
country = "DE"
codecs = ["PCMU"]
[sip.dialling]
allow = ["+4930*"]
[sip.outbound]
listen = "127.0.0.1:0"
ring_s = 20
"""
NUMBER = "+4930901820"
LANDLINE = (sys.executable, "-m", "services.cli")


def trunk(name: str, peer: SipPeer, more: str = "") -> str:
    return (
        f'[[sip.trunks]]\nname = "{name}"\nkind = "peer"\n'
        f'allow = ["192.0.2.{len(name)}/32"]\nserver = "127.0.0.1:{peer.port}"\n'
        f'caller_id = "+4930123456"\nqualify_s = 0\nagent = "clinic"\n{more}\n'
    )


@pytest.fixture
async def carrier() -> AsyncIterator[SipPeer]:
    async with SipPeer() as user_agent:
        yield user_agent


@pytest.fixture
async def dialler(carrier: SipPeer, launch_gateway: LaunchGateway) -> AsyncIterator[Dialler]:
    """A gateway with one trunk, and its service that places calls."""
    gateway = await launch_gateway(sip=SIP, trunks=trunk("carrier", carrier))
    async with Dialler(gateway) as service:
        yield service


async def called(peer: SipPeer) -> tuple[SipMessage, Dialog]:
    """The INVITE that came, with 100 sent."""
    invite = await peer.request("INVITE")
    peer.respond(invite, 100, "Trying")
    return invite, peer.accept(invite)


async def test_who_answers_talks_to_an_agent(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer
) -> None:
    call = dialler.dial("030 901820", headers={"X-Campaign": "7"})
    invite, dialog = await called(carrier)
    assert invite.uri == f"sip:{NUMBER}@127.0.0.1:{carrier.port}"
    assert "sip:+4930123456@" in invite.header("From")
    assert invite.header("X-Campaign") == "7"
    assert not invite.all("Route")
    carrier.respond(invite, 180, "Ringing", tag=dialog.local_tag)
    assert (await call.until("ringing")).sip_status == 180
    carrier.respond(invite, 200, "OK", carrier.sdp(), tag=dialog.local_tag)
    await carrier.request("ACK")
    answered = await call.until("answered")
    talk = await agent.next_call()
    started = talk.started
    assert (started.direction, started.agent) == ("outbound", "clinic")
    assert (started.caller, started.callee) == ("+4930123456", NUMBER)
    assert (started.trunk, started.codec) == ("carrier", "PCMU/8000")
    assert started.call_id == answered.call_id
    talk.play("hello", tone(900, 1.0))
    sending = asyncio.create_task(carrier.rtp.send(audio_of(invite.body), tone(440, 1.0), PCMU))
    assert peak_hz((await talk.hear(0.8))[-9600:]) == pytest.approx(440, abs=8)
    assert peak_hz(carrier.rtp.heard(PCMU, 0.3)) == pytest.approx(900, abs=8)
    await sending
    talk.hang_up()
    await carrier.request("BYE")
    end = await call.end()
    assert (end.result, end.reason) == ("completed", "goodbye")
    assert call.states == ["trying", "ringing", "answered", "ended"]


@pytest.mark.parametrize(
    ("status", "reason", "state"),
    [
        (486, "Busy Here", "busy"),
        (600, "Busy Everywhere", "busy"),
        (603, "Decline", "declined"),
        (480, "Temporarily Unavailable", "no_answer"),
        (404, "Not Found", "failed"),
    ],
)
async def test_a_call_that_is_not_answered_says_why(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer, status: int, reason: str, state: str
) -> None:
    call = dialler.dial(NUMBER)
    invite, _dialog = await called(carrier)
    carrier.respond(invite, status, reason, tag="x")
    end = await call.end()
    assert call.states == ["trying", state]
    assert (end.sip_status, end.reason) == (status, reason)
    assert agent.taken == 0


async def test_nobody_answers_in_time(agent: FakeAgent, dialler: Dialler, carrier: SipPeer) -> None:
    call = dialler.dial(NUMBER, ring_s=1)
    invite, _dialog = await called(carrier)
    carrier.respond(invite, 180, "Ringing", tag="x")
    cancel = await carrier.request("CANCEL")
    carrier.respond(cancel, 200, "OK", tag="x")
    carrier.respond(invite, 487, "Request Terminated", tag="x")
    await call.end()
    assert call.states == ["trying", "ringing", "no_answer"]


async def test_early_media_counts_as_ringing_and_the_call_goes_on(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, dialog = await called(carrier)
    carrier.respond(invite, 183, "Session Progress", carrier.sdp(), tag=dialog.local_tag)
    assert (await call.until("ringing")).sip_status == 183
    await carrier.rtp.send(audio_of(invite.body), tone(425, 0.5), PCMU)
    carrier.respond(invite, 200, "OK", carrier.sdp(), tag=dialog.local_tag)
    await call.until("answered")
    talk = await agent.next_call()
    sending = asyncio.create_task(carrier.rtp.send(audio_of(invite.body), tone(440, 1.0), PCMU))
    assert peak_hz((await talk.hear(0.8))[-9600:]) == pytest.approx(440, abs=8)
    await sending
    await dialog.bye()
    assert (await call.end()).reason == "caller_hung_up"


async def test_a_reliable_provisional_answer_is_acknowledged(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, dialog = await called(carrier)
    assert "100rel" in invite.header("Supported")
    reliable = ("Require: 100rel", "RSeq: 9021")
    carrier.respond(invite, 180, "Ringing", tag=dialog.local_tag, headers=reliable)
    prack = await carrier.request("PRACK")
    assert prack.header("RAck") == f"9021 {invite.cseq} INVITE"
    carrier.respond(prack, 200, "OK")
    carrier.respond(invite, 486, "Busy Here", tag=dialog.local_tag)
    assert call.states[-1:] == ["ringing"] or (await call.end())
    await call.end()
    assert call.states[-1] == "busy"


async def test_giving_up_before_the_answer_cancels(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, _dialog = await called(carrier)
    carrier.respond(invite, 180, "Ringing", tag="x")
    await call.until("ringing")
    call.give_up()
    cancel = await carrier.request("CANCEL")
    carrier.respond(cancel, 200, "OK", tag="x")
    carrier.respond(invite, 487, "Request Terminated", tag="x")
    await carrier.request("ACK")
    assert agent.taken == 0


async def test_an_answer_that_crosses_the_cancel_is_taken_back(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, _dialog = await called(carrier)
    carrier.respond(invite, 180, "Ringing", tag="x")
    await call.until("ringing")
    call.give_up()
    cancel = await carrier.request("CANCEL")
    carrier.respond(invite, 200, "OK", carrier.sdp(), tag="x")
    carrier.respond(cancel, 200, "OK", tag="x")
    await carrier.request("ACK")
    await carrier.request("BYE")
    assert agent.taken == 0


async def test_hanging_up_by_order(agent: FakeAgent, dialler: Dialler, carrier: SipPeer) -> None:
    call = dialler.dial(NUMBER)
    invite, dialog = await called(carrier)
    carrier.respond(invite, 200, "OK", carrier.sdp(), tag=dialog.local_tag)
    answered = await call.until("answered")
    await agent.next_call()
    await dialler.hang_up(answered.call_id)
    await carrier.request("BYE")
    assert (await call.end()).state
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await dialler.hang_up(answered.call_id)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("number", "request_", "why"),
    [
        ("+4940123456", {}, "allow"),
        ("+881612345678", {}, "denied"),
        ("112", {}, "emergency"),
        (NUMBER, {"caller_id": "+4940123456"}, "caller id"),
        (NUMBER, {"trunks": ["unknown"]}, "no trunk"),
    ],
)
async def test_what_is_not_allowed_is_not_dialled(
    agent: FakeAgent,
    dialler: Dialler,
    carrier: SipPeer,
    number: str,
    request_: dict[str, object],
    why: str,
) -> None:
    call = dialler.dial(number, **request_)
    end = await call.end()
    assert call.states == ["denied"]
    assert why in end.reason
    assert not carrier.messages


@pytest.mark.parametrize(
    "headers", [{"Subject": "x"}, {"X-A": "1\r\nFrom: <sip:x@y>"}, {"X-A:": "1"}]
)
async def test_an_order_cannot_write_other_headers(
    dialler: Dialler, carrier: SipPeer, headers: dict[str, str]
) -> None:
    call = dialler.dial(NUMBER, headers=headers)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.end()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not carrier.messages


# -- trunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 500, 408])
async def test_the_next_trunk_is_tried_when_one_cannot(
    agent: FakeAgent, carrier: SipPeer, peer: SipPeer, launch_gateway: LaunchGateway, status: int
) -> None:
    trunks = trunk("carrier", carrier) + trunk("backup", peer, 'dial_as = "e164"')
    gateway = await launch_gateway(sip=SIP, trunks=trunks)
    async with Dialler(gateway) as service:
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
        call = service.dial(NUMBER)
        invite, _dialog = await called(carrier)
        carrier.respond(invite, 486, "Busy Here", tag="x")
        await call.end()
    assert call.states == ["trying", "busy"]
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


async def test_no_more_calls_are_placed_than_conversations_fit(
    agent: FakeAgent, dialler: Dialler, carrier: SipPeer
) -> None:
    calls = []
    for _ in range(3):
        calls.append(dialler.dial(NUMBER))
        invite, dialog = await called(carrier)
        carrier.respond(invite, 200, "OK", carrier.sdp(), tag=dialog.local_tag)
        await calls[-1].until("answered")
    one_more = dialler.dial(NUMBER)
    end = await one_more.end()
    assert (one_more.states, end.reason) == (["failed"], "every line is busy")
    for call in calls:
        await dialler.hang_up(call.events[0].call_id)


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
