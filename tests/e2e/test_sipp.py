"""SIPp against a real gateway: good calls, and everything that a stranger may send."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sip_gateway.softphone import PhoneState
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sip_gateway.softphone import Softphone
    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "sipp"
GARBAGE = (
    b"\x00\xff\x16\x03\x01 not SIP at all \r\n\r\n" * 8,
    b"INVITE sip:x SIP/2.0\r\nVia: nonsense\r\n\r\n",
)


async def sipp(
    scenario: str,
    gateway: GatewayProcess,
    folder: Path,
    *,
    source: str = "127.0.0.1",
    tcp: bool = False,
) -> None:
    """Run a scenario once; AssertionError with SIPp's own account when it did not go as written."""
    process = await asyncio.create_subprocess_exec(
        *("sipp", gateway.address, "-sf", str(SCENARIOS / f"{scenario}.xml")),
        *("-i", source, "-mi", source, "-m", "1", "-nostdin", "-timeout", "15s"),
        *("-timeout_error", "-trace_err", "-error_file", str(folder / f"{scenario}.err")),
        *("-t", "t1" if tcp else "u1", "-s", "agent"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    _out, errors = await asyncio.wait_for(process.communicate(), 20)
    report = folder / f"{scenario}.err"
    told = report.read_text(errors="replace") if report.exists() else ""
    assert process.returncode == 0, f"{scenario}: {errors.decode()}\n{told}"


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_plain_call(
    agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path, tcp: bool
) -> None:
    await sipp("call", gateway, tmp_path, tcp=tcp)
    talk = await agent.next_call()
    ended = await talk.ended()
    assert ended.reason == "caller_hung_up"
    assert talk.started.caller == "sipp"
    assert 900 <= ended.duration_ms <= 1300


async def test_call_that_the_agent_ends(
    agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path
) -> None:
    calling = asyncio.create_task(sipp("answered", gateway, tmp_path))
    talk = await agent.next_call()
    talk.play("bye", tone(500, 0.4))
    talk.hang_up(after_playout=True)
    await calling
    assert (await talk.ended()).reason == "goodbye"


async def test_delayed_offer(agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path) -> None:
    await sipp("delayed_offer", gateway, tmp_path)
    talk = await agent.next_call()
    assert talk.started.codec == ""
    ended = await talk.ended()
    assert ended.reason == "caller_hung_up"
    assert len(talk.audio) >= 16_000


async def test_caller_leaves_in_the_greeting(
    agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path
) -> None:
    agent.auto_play = tone(500, 5)
    await sipp("greeting", gateway, tmp_path)
    ended = await (await agent.next_call()).ended()
    assert (ended.result, ended.reason) == ("abandoned", "caller_hung_up")


async def test_caller_cancels(agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path) -> None:
    agent.accepts = False
    await sipp("cancel", gateway, tmp_path)
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="abandoned", reason="caller_cancelled"
    )
    assert gateway.recordings == []


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("no_common_codec", "no_common_codec"),
        ("no_media", "bad_sdp"),
        ("not_sdp", "bad_sdp"),
        ("other_body", "not_sdp"),
    ],
)
async def test_offer_that_cannot_be_answered(
    agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path, scenario: str, reason: str
) -> None:
    await sipp(scenario, gateway, tmp_path)
    await gateway.wait_for_metric("landline_sip_refused_total", 1, reason=reason)
    await sipp("call", gateway, tmp_path)
    assert agent.taken == 1


async def test_unknown_source(
    agent: FakeAgent, launch_gateway: Callable[..., Awaitable[GatewayProcess]], tmp_path: Path
) -> None:
    gateway = await launch_gateway(sip='[sip.admission]\nunknown_sources = "refuse"\n')
    await sipp("unknown_source", gateway, tmp_path, source="127.0.0.2")
    await gateway.wait_for_metric("landline_sip_refused_total", 1, reason="unknown_source")
    assert agent.taken == 0
    assert gateway.logged("call_offered") == []


async def test_one_call_too_many(agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path) -> None:
    calling = [asyncio.create_task(sipp("answered", gateway, tmp_path)) for _ in range(3)]
    talks = [await agent.next_call() for _ in calling]
    await asyncio.sleep(0.2)
    await sipp("too_many", gateway, tmp_path)
    for talk in talks:
        talk.hang_up()
    await asyncio.gather(*calling)
    assert await gateway.metric("landline_sip_refused_total", reason="full") == 1
    await gateway.wait_for_metric("landline_sip_active_calls", 0)


async def test_garbage_is_counted_and_harms_nobody(
    agent: FakeAgent, gateway: GatewayProcess, tmp_path: Path
) -> None:
    calling = asyncio.create_task(sipp("call", gateway, tmp_path))
    talk = await agent.next_call()
    host, _, port = gateway.address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for datagram in GARBAGE * 20:
            stranger.sendto(datagram, (host, int(port)))
    await calling
    assert (await talk.ended()).reason == "caller_hung_up"
    await gateway.wait_for_metric("landline_sip_malformed_total", 40)


@pytest.mark.parametrize("source", ["127.0.0.2", "127.0.0.1"], ids=["stranger", "own_trunk"])
async def test_flood_of_invites_harms_no_call(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone, source: str
) -> None:
    """Each INVITE that PJSIP made media for would hold two of its 64 sockets for a while."""
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    host, _, port = gateway.address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
        flooder.bind((source, 0))
        flooder.connect((host, int(port)))
        for number in range(200):
            flooder.send(invite_text(gateway.address, source, flooder.getsockname()[1], number))
            await asyncio.sleep(0.002)
    call.play(tone(440, 2.0))
    assert peak_hz((await talk.hear(1.0))[-16_000:]) == pytest.approx(440, abs=5)
    assert call.state is PhoneState.TALKING
    await call.hang_up()
    assert (await talk.ended()).reason == "caller_hung_up"
    assert gateway.process.returncode is None


def invite_text(address: str, host: str, port: int, number: int) -> bytes:
    """An INVITE whose caller will never say anything again."""
    body = f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
    body += "m=audio 6000 RTP/AVP 0\r\n"
    return (
        f"INVITE sip:agent@{address} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {host}:{port};rport;branch=z9hG4bKflood{number}\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:flood@{host}:{port}>;tag={number}\r\n"
        f"To: <sip:agent@{address}>\r\nCall-ID: flood{number}\r\nCSeq: 1 INVITE\r\n"
        f"Contact: <sip:flood@{host}:{port}>\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
