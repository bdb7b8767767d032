"""A stranger's RTP neither takes a call's sound away nor gets into it (RFC 4961, source lock)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.fakes.agent import FakeAgent, FakeCall
from tests.fakes.gateway_process import GatewayProcess
from tests.fakes.raw_caller import RawCaller, RtpSocket, offer
from tests.fakes.tones import peak_hz, rms, share_of, tone

LaunchGateway = Callable[..., Awaitable[GatewayProcess]]
OpenRtp = Callable[..., Awaitable[RtpSocket]]
CALLER_HZ, STRANGER_HZ, AGENT_HZ = 440, 1500, 1000
FLOOD = 500


@pytest.fixture
async def rtp() -> AsyncIterator[OpenRtp]:
    """Open RTP sockets: `await rtp("127.0.0.2")`."""
    opened: list[RtpSocket] = []

    async def open_socket(ip: str = "127.0.0.1") -> RtpSocket:
        opened.append(await RtpSocket.open(ip))
        return opened[-1]

    yield open_socket
    for one in opened:
        one.close()


@pytest.fixture
async def caller(rtp: OpenRtp) -> AsyncIterator[RawCaller]:
    raw = RawCaller(await rtp())
    yield raw
    raw.close()


async def talks(talk: FakeCall, ear: RtpSocket, *, seconds: float = 0.6) -> None:
    """The agent hears the caller and nobody else, and `ear` hears the agent."""
    ear.forget()
    heard = await talk.hear(seconds)
    assert peak_hz(heard) == pytest.approx(CALLER_HZ, abs=5)
    assert share_of(heard, STRANGER_HZ) < 0.01
    assert len(ear.received) >= seconds * 50 * 0.8
    assert peak_hz(ear.heard(int(seconds * 40))) == pytest.approx(AGENT_HZ, abs=15)


@pytest.mark.parametrize("stranger_ip", ["127.0.0.1", "127.0.0.2"])
async def test_a_flood_after_the_source_has_settled(
    agent: FakeAgent, gateway: GatewayProcess, caller: RawCaller, rtp: OpenRtp, stranger_ip: str
) -> None:
    there = await caller.dial(gateway.address)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 8.0))
    caller.rtp.play(CALLER_HZ, there)
    await talk.hear(0.3)
    stranger = await rtp(stranger_ip)
    stranger.play(STRANGER_HZ, there, per_s=FLOOD)
    await talk.hear(0.3)
    await talks(talk, caller.rtp, seconds=1.0)
    assert stranger.received == []
    assert await gateway.metric("landline_sip_rtp_stranger_packets_total") > FLOOD / 2
    assert gateway.logged("rtp_from_stranger")[0]["state"] == "locked"


@pytest.mark.parametrize("stranger_ip", ["127.0.0.1", "127.0.0.2"])
async def test_a_flood_before_the_caller_speaks(
    agent: FakeAgent, gateway: GatewayProcess, caller: RawCaller, rtp: OpenRtp, stranger_ip: str
) -> None:
    stranger = await rtp(stranger_ip)
    there = await caller.dial(gateway.address)
    stranger.play(STRANGER_HZ, there, per_s=FLOOD)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 8.0))
    await asyncio.sleep(0.1)
    caller.rtp.play(CALLER_HZ, there)
    await talk.hear(0.4)
    await talks(talk, caller.rtp)
    assert stranger.received == []


async def test_a_flood_from_elsewhere_while_the_caller_is_silent(
    agent: FakeAgent, gateway: GatewayProcess, caller: RawCaller, rtp: OpenRtp
) -> None:
    there = await caller.dial(gateway.address)
    stranger = await rtp("127.0.0.2")
    stranger.play(STRANGER_HZ, there, per_s=FLOOD)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 8.0))
    silence = await talk.hear(1.0)
    assert rms(silence) < 50
    caller.rtp.play(CALLER_HZ, there)
    await talk.hear(0.4)
    await talks(talk, caller.rtp)
    assert stranger.received == []


async def test_a_caller_behind_nat_who_signals_a_private_address(
    agent: FakeAgent, gateway: GatewayProcess, caller: RawCaller, rtp: OpenRtp
) -> None:
    """SIP and RTP come from 127.0.0.1, the SDP names an address that nobody has here."""
    there = await caller.dial(gateway.address, sdp=offer(("127.9.9.9", 4000)))
    stranger = await rtp("127.0.0.2")
    stranger.play(STRANGER_HZ, there, per_s=FLOOD)
    caller.rtp.play(CALLER_HZ, there)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 8.0))
    await talk.hear(0.5)
    await talks(talk, caller.rtp)
    assert stranger.received == []
    host, port = caller.rtp.address
    assert {"state": "locked", "source": f"{host}:{port}"}.items() <= gateway.logged("rtp_source")[
        -1
    ].items()


@pytest.mark.parametrize("new_ip", ["127.0.0.1", "127.0.0.3"])
async def test_a_reinvite_moves_the_call(
    agent: FakeAgent, gateway: GatewayProcess, caller: RawCaller, rtp: OpenRtp, new_ip: str
) -> None:
    there = await caller.dial(gateway.address)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 10.0))
    caller.rtp.play(CALLER_HZ, there)
    await talks(talk, caller.rtp)
    caller.rtp.stop()
    elsewhere = await rtp(new_ip)
    there = await caller.invite(rtp=elsewhere.address)
    elsewhere.play(CALLER_HZ, there)
    await talk.hear(0.3)
    await talks(talk, elsewhere)
    caller.rtp.play(STRANGER_HZ, there, per_s=FLOOD)  # the old address is a stranger's now
    await talks(talk, elsewhere)


async def test_a_session_refresh_keeps_the_lock(
    agent: FakeAgent, gateway: GatewayProcess, caller: RawCaller, rtp: OpenRtp
) -> None:
    there = await caller.dial(gateway.address)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 8.0))
    caller.rtp.play(CALLER_HZ, there)
    stranger = await rtp()
    stranger.play(STRANGER_HZ, there, per_s=FLOOD)
    await talk.hear(0.3)
    await caller.invite()
    await talks(talk, caller.rtp)
    assert stranger.received == []


async def test_a_nat_that_gives_the_caller_a_new_port(
    agent: FakeAgent, launch_gateway: LaunchGateway, caller: RawCaller, rtp: OpenRtp
) -> None:
    gateway = await launch_gateway(sip="nat = { rebind_after_ms = 600 }")
    there = await caller.dial(gateway.address)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 12.0))
    caller.rtp.play(CALLER_HZ, there)
    await talks(talk, caller.rtp)
    caller.rtp.stop()
    stranger, rebound = await rtp("127.0.0.2"), await rtp()
    stranger.play(STRANGER_HZ, there, per_s=FLOOD)
    rebound.play(CALLER_HZ, there)
    line = gateway.logged
    async with asyncio.timeout(5):
        while not any(  # noqa: ASYNC110
            str(rebound.address[1]) in entry["source"] for entry in line("rtp_source")
        ):
            await asyncio.sleep(0.05)
    await talk.hear(0.4)
    await talks(talk, rebound)
    assert stranger.received == []


async def test_media_from_a_network_that_the_trunk_allows(
    agent: FakeAgent, launch_gateway: LaunchGateway, caller: RawCaller, rtp: OpenRtp
) -> None:
    gateway = await launch_gateway(
        trunks='[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
        'media_allow = ["127.0.4.0/24"]\n'
    )
    there = await caller.dial(gateway.address, sdp=offer(("127.9.9.9", 4000)))
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 8.0))
    media_server = await rtp("127.0.4.9")
    media_server.play(CALLER_HZ, there)
    await talk.hear(0.3)
    await talks(talk, media_server)


async def test_the_lock_can_be_switched_off(
    agent: FakeAgent, launch_gateway: LaunchGateway, caller: RawCaller, rtp: OpenRtp
) -> None:
    gateway = await launch_gateway(sip='nat = { source_lock = "off" }')
    there = await caller.dial(gateway.address)
    talk = await agent.next_call()
    talk.play("long", tone(AGENT_HZ, 5.0))
    anybody = await rtp("127.0.0.2")
    anybody.play(CALLER_HZ, there)
    await talk.hear(0.3)
    await talks(talk, anybody)


@pytest.mark.parametrize(
    ("own", "told"), [("", "203.0.113.7"), ('nat = { public_address = "" }\n', "127.0.0.1")]
)
async def test_a_trunk_in_the_building_is_told_our_own_address(
    agent: FakeAgent, launch_gateway: LaunchGateway, caller: RawCaller, own: str, told: str
) -> None:
    gateway = await launch_gateway(
        sip='nat = { public_address = "203.0.113.7" }',
        trunks='[[sip.trunks]]\nname = "pbx"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n' + own,
    )
    where, _port = await caller.dial(gateway.address)
    await agent.next_call()
    assert where == told
    assert f"@{told}:" in re.search(r"\r\nContact: (.*)\r\n", caller.answer)[1]  # type: ignore[index]
    await caller.bye()
