"""A call that cannot be taken: refused, queued with music, or handed to a person, and why."""

from __future__ import annotations

import asyncio
import socket
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from services.common.clock import SystemClock
from sip_gateway.admission.ledger import Ledger
from sip_gateway.admission.ledger_socket import LedgerServer
from sip_gateway.softphone import CallRefusedError, Softphone, SoftphoneCall
from sip_gateway.trunks.limits import Direction
from tests.e2e.test_sipp import invite_text
from tests.fakes.agent import FakeAgent
from tests.fakes.gateway_process import GatewayProcess
from tests.fakes.sip_peer import SipMessage, SipPeer
from tests.fakes.tones import peak_hz, tone

LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "speech recognition: all 1 places are in use")
AWAY = (grpc.StatusCode.UNAVAILABLE, "speech: cannot be reached: connection refused")
HUMAN = "sip:reception@127.0.0.1:9"


@pytest.fixture
async def peer() -> AsyncIterator[SipPeer]:
    async with SipPeer() as made:
        yield made


async def invite(peer: SipPeer, gateway: GatewayProcess, user: str = "agent") -> SipMessage:
    return await peer.dialog(gateway.uri(user)).invite(peer.sdp())


async def refused(gateway: GatewayProcess) -> dict[str, object]:
    return await gateway.wait_for_log("call_refused")


# -- no place at the agent --------------------------------------------------------------------


async def test_no_place_is_503_with_retry_after_and_says_what_is_missing(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    reasons = {"agent_full": FULL, "agent_unavailable": AWAY}
    for reason, refusal in reasons.items():
        agent.refusal = refusal
        answer = await invite(peer, gateway)
        assert (answer.status, answer.header("Retry-After")) == (503, "10")
        await gateway.wait_for_metric("landline_sip_refused_total", 1, reason=reason)
    lines = gateway.logged("call_refused")
    assert [line["reason"] for line in lines] == list(reasons)
    for line, refusal in zip(lines, reasons.values(), strict=True):
        assert refusal[1] in line["missing"]
        assert line["what_to_do"]


async def test_a_human_by_refer(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(
        sip=f'[sip.admission]\nwhen_full = "human"\nhuman = "{HUMAN}"\nhuman_by = "refer"\n'
    )
    agent.refusal = AWAY
    call = await phone.dial(gateway.uri())
    assert HUMAN in await asyncio.wait_for(call.transferred(), 5)
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="transferred", reason="agent_unavailable"
    )


# -- no line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "status", "contact"),
    [
        ('when_full = "busy"', 486, ""),
        (f'when_full = "human"\nhuman = "{HUMAN}"', 302, f"<{HUMAN}>"),
    ],
)
async def test_no_place_and_no_line_get_what_was_chosen(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    phone: Softphone,
    peer: SipPeer,
    settings: str,
    status: int,
    contact: str,
) -> None:
    gateway = await launch_gateway(sip=f"[sip.admission]\n{settings}\n")
    agent.refusal = FULL
    answer = await invite(peer, gateway)
    assert (answer.status, answer.all("Contact")) == (status, [contact] if contact else [])
    assert answer.header("Retry-After") == ""
    agent.refusal = None
    calls = [await phone.dial(gateway.uri()) for _ in range(3)]
    answer = await invite(peer, gateway)
    assert (answer.status, answer.header("Contact")) == (status, contact)
    await gateway.wait_for_metric("landline_sip_refused_total", 1, reason="full")
    assert [line["missing"] for line in gateway.logged("call_refused")][1:] == [
        "every line of this process is in use"
    ]
    for call in calls:
        await call.hang_up()


async def test_no_ports_for_audio(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    gateway = await launch_gateway(sip='rtp_ports = "25600-25615"')
    taken = []
    for port in range(25600, 25616, 2):
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        held.bind(("127.0.0.1", port))
        taken.append(held)
    answer = await invite(peer, gateway)
    assert (answer.status, answer.header("Retry-After")) == (503, "10")
    assert (await refused(gateway))["reason"] == "no_rtp_ports"
    taken.pop().close()
    dialog = peer.dialog(gateway.uri())
    assert (await dialog.invite(peer.sdp())).status == 200
    await dialog.bye()
    for held in taken:
        held.close()


# -- the queue --------------------------------------------------------------------------------

QUEUE = '[sip.admission]\nwhen_full = "queue"\nqueue_length = 2\nqueue_max_wait_s = {wait}\n'


async def listen(call: SoftphoneCall, seconds: float) -> bytes:
    heard = bytearray()
    async for frame in call.frames():
        heard += frame.pcm
        if len(heard) >= seconds * 32_000:
            return bytes(heard)
    raise AssertionError("the call ended")


async def queued(gateway: GatewayProcess, count: int) -> None:
    await gateway.wait_for_metric("landline_sip_queued_calls", count)


async def test_a_queued_caller_hears_music_and_then_the_agent(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip=QUEUE.format(wait=60))
    agent.refusal = FULL
    call = await phone.dial(gateway.uri())
    await queued(gateway, 1)
    music = np.frombuffer(await listen(call, 1.5), "<i2").astype(float)
    assert 100 < np.sqrt(np.mean(music[16_000:] ** 2)) < 4_000  # there, and quiet
    agent.refusal = None
    talk = await agent.next_call()
    talk.play("hello", tone(500, 1.5))
    call.play(tone(440, 2.0))
    assert peak_hz((await listen(call, 1.4))[-16_000:]) == pytest.approx(500, abs=5)
    assert peak_hz((await talk.hear(1.0))[-16_000:]) == pytest.approx(440, abs=5)
    assert talk.gaps == 0
    await queued(gateway, 0)
    assert await gateway.metric("landline_sip_queue_left_total", outcome="taken") == 1
    await call.hang_up()
    assert (await talk.ended()).duration_ms > 1_500


async def test_the_queue_is_first_come_first_served_and_has_an_end(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip=QUEUE.format(wait=60))
    agent.refusal = FULL
    first = await phone.dial(gateway.uri("first"))
    await queued(gateway, 1)
    second = await phone.dial(gateway.uri("second"))
    await queued(gateway, 2)
    with pytest.raises(CallRefusedError) as third:
        await phone.dial(gateway.uri("third"))
    assert third.value.sip_status == 503
    assert "the queue is full" in str((await refused(gateway))["missing"])
    await first.hang_up()  # and makes room
    await gateway.wait_for_metric("landline_sip_queue_left_total", 1, outcome="left")
    first = await phone.dial(gateway.uri("fourth"))
    await queued(gateway, 2)
    agent.refusal = None
    assert (await agent.next_call()).started.callee == "second"
    assert (await agent.next_call()).started.callee == "fourth"
    for call in (first, second):
        await call.hang_up()


@pytest.mark.parametrize("human", [False, True])
async def test_who_waited_in_vain_gets_a_person_or_a_clear_end(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, human: bool
) -> None:
    more = f'human = "{HUMAN}"\n' if human else ""
    gateway = await launch_gateway(sip=QUEUE.format(wait=1.0) + more)
    agent.refusal = FULL
    call = await phone.dial(gateway.uri())
    if human:
        assert HUMAN in await asyncio.wait_for(call.transferred(), 6)
    result = "transferred" if human else "failed"
    await asyncio.wait_for(call.ended(), 6)
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result=result, reason="queue_timeout"
    )


async def test_hold_music_of_ones_own(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, tmp_path: Path
) -> None:
    with wave.open(str(tmp_path / "hold.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        mono = np.frombuffer(tone(700, 1.0), "<i2")[::2]
        file.writeframes(np.repeat(mono, 2).tobytes())
    gateway = await launch_gateway(sip=QUEUE.format(wait=60) + 'hold_music = "hold.wav"\n')
    agent.refusal = FULL
    call = await phone.dial(gateway.uri())
    await queued(gateway, 1)
    assert peak_hz((await listen(call, 2.5))[-32_000:]) == pytest.approx(700, abs=8)
    await call.hang_up()


# -- limits of a trunk ------------------------------------------------------------------------

LIMITED = (
    '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
    "[sip.trunks.limits]\n{limits}\n"
)


async def test_channels_of_a_trunk(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, peer: SipPeer
) -> None:
    gateway = await launch_gateway(trunks=LIMITED.format(limits="channels = 1"))
    call = await phone.dial(gateway.uri())
    answer = await invite(peer, gateway)
    assert (answer.status, answer.header("Retry-After")) == (503, "10")
    line = await refused(gateway)
    assert line["missing"] == "trunk 'lab' has reached its limit of 1 calls at a time"
    await call.hang_up()
    await gateway.wait_for_metric("landline_sip_active_calls", 0)
    again = await phone.dial(gateway.uri())
    await again.hang_up()


async def test_a_day_s_calls_are_counted_over_a_restart(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, peer: SipPeer
) -> None:
    trunks = LIMITED.format(limits="inbound = { per_day = 1 }")
    gateway = await launch_gateway(trunks=trunks)
    call = await phone.dial(gateway.uri())
    await call.hang_up()
    await gateway.kill()
    again = await launch_gateway(trunks=trunks)
    answer = await invite(peer, again)
    assert answer.status == 503
    assert 0 < int(answer.header("Retry-After")) <= 3600


@pytest.mark.parametrize(("choice", "status"), [("accept", 200), ("refuse", 503)])
async def test_a_dead_ledger(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    peer: SipPeer,
    tmp_path: Path,
    choice: str,
    status: int,
) -> None:
    gateway = await launch_gateway(
        sip=f'ledger = "{tmp_path / "ledger.sock"}"\n'
        f'[sip.admission]\nledger_lost_inbound = "{choice}"\n'
    )
    dialog = peer.dialog(gateway.uri())
    assert (await dialog.invite(peer.sdp())).status == status
    assert await gateway.metric("landline_sip_ledger_lost_total", direction="inbound") == 1
    if status == 200:
        await dialog.bye()


async def test_two_workers_share_a_ledger(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, tmp_path: Path
) -> None:
    ledger = Ledger(clock=SystemClock())
    server = LedgerServer(tmp_path / "ledger.sock", ledger)
    await server.start()
    settings = {
        "sip": f'ledger = "{tmp_path / "ledger.sock"}"',
        "trunks": LIMITED.format(limits="inbound = { channels = 1 }"),
    }
    one, other = [await launch_gateway(**settings) for _ in range(2)]
    call = await phone.dial(one.uri())
    assert ledger.channels("lab", Direction.INBOUND) == 1
    with pytest.raises(CallRefusedError) as refusal:
        await phone.dial(other.uri())
    assert refusal.value.sip_status == 503
    await one.kill()  # its channel comes back
    again = await phone.dial(other.uri())
    await again.hang_up()
    await call.hang_up()
    await server.stop()


# -- emergency numbers dialled to us ----------------------------------------------------------


async def test_an_emergency_call_goes_to_the_people_named_for_it(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    gateway = await launch_gateway(sip=f'[sip.dialling]\nemergency_route = "{HUMAN}"\n')
    agent.refusal = AWAY
    answer = await invite(peer, gateway, "112")
    assert (answer.status, answer.header("Contact")) == (302, f"<{HUMAN}>")
    assert await gateway.metric("landline_sip_emergency_calls_total", outcome="emergency") == 1


async def test_also_when_no_line_is_free(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, peer: SipPeer
) -> None:
    gateway = await launch_gateway(sip=f'[sip.dialling]\nemergency_route = "{HUMAN}"\n')
    calls = [await phone.dial(gateway.uri()) for _ in range(3)]
    answer = await invite(peer, gateway, "911")
    assert (answer.status, answer.header("Contact")) == (302, f"<{HUMAN}>")
    for call in calls:
        await call.hang_up()


async def test_without_such_people_the_agent_says_so_whatever_the_limits(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    number = "+1911"
    trunk = LIMITED.format(limits="channels = 0") + (
        '[[sip.trunks.dids]]\nnumber = "+4930123456"\nagent = "clinic"\n'
    )
    gateway = await launch_gateway(trunks=trunk)
    call = await phone.dial(gateway.uri(number))
    talk = await agent.next_call()
    assert talk.started.emergency
    assert gateway.logged("emergency_call")[0]["number"].endswith(number[-3:])
    talk.hang_up()
    await asyncio.wait_for(call.ended(), 5)


# -- the log ----------------------------------------------------------------------------------


async def test_who_floods_us_is_summed_up(launch_gateway: LaunchGateway) -> None:
    gateway = await launch_gateway(sip='[sip.admission]\nunknown_sources = "refuse"\n')
    host, _, port = gateway.address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.3", 0))
        for number in range(30):
            text = invite_text(gateway.address, "127.0.0.3", stranger.getsockname()[1], number)
            stranger.sendto(text, (host, int(port)))
            await asyncio.sleep(0.005)
    await gateway.wait_for_metric("landline_sip_refused_total", 30, reason="unknown_source")
    assert await gateway.stop() == 0
    assert len(gateway.logged("call_refused")) == 3
    assert "allow" in gateway.logged("call_refused")[0]["what_to_do"]
    summed = gateway.logged("calls_refused_in_series")
    assert [(line["source"], line["calls"]) for line in summed] == [("127.0.0.3", 30)]
