"""Calls over bad networks: real RTP through a relay that jitters, loses, reorders and stalls."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.fakes.impaired_network import Impairment, RtpRelay
from tests.fakes.load_caller import CLICK, COMFORT_NOISE, LoadCaller, murmur, rtp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.agent import FakeAgent, FakeCall
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

CLICK_EVERY = 50  # packets: one each second
CLICK_LEVEL = 12_000


class Clicker:
    """Says a murmur and, each second, a click, and knows when."""

    def __init__(self) -> None:
        self.clicks_s: list[float] = []

    def __call__(self, number: int) -> bytes:
        click = number % CLICK_EVERY == CLICK_EVERY - 1
        if click:
            self.clicks_s.append(time.monotonic())
        return rtp(number, CLICK if click else murmur(number))


@dataclass
class Heard:
    """What one call's agent got."""

    caller: Clicker
    talk: FakeCall
    relay: RtpRelay
    heard_ms: float  # audio that came while `passed_ms` went by
    passed_ms: float
    hung_up: bool

    def delays_ms(self, *, after_s: float = 0.0) -> list[float]:
        """From each click's packet to the agent, of clicks that were sent later than that."""
        samples = np.frombuffer(bytes(self.talk.audio), "<i2")
        loud = np.flatnonzero(np.abs(samples.astype(int)) > CLICK_LEVEL)
        begins = loud[np.diff(loud, prepend=-100_000) > 4000]
        heard_s = [next(at for at, until in self.talk.arrivals if until > n) for n in begins]
        first_s = self.caller.clicks_s[0]
        return [
            (heard - sent) * 1000
            for sent in self.caller.clicks_s
            for heard in [next((at for at in heard_s if 0 < at - sent < 0.9), None)]
            if heard is not None and sent - first_s >= after_s
        ]


async def call_through(
    gateway: GatewayProcess, agent: FakeAgent, impairment: Impairment, seconds: float
) -> Heard:
    """A call of so long over such a network, hung up by the caller."""
    port = int(gateway.address.rpartition(":")[2])
    clicker = Clicker()
    async with RtpRelay(impairment) as relay:
        caller = await LoadCaller(port, rtp_port=relay.inner_port).open()
        await caller.dial()
        talk = await agent.next_call()
        relay.gateway = caller.media
        caller.talk(clicker, to=("127.0.0.1", relay.outer_port))
        await talk.hear(0.5)
        begin, samples = time.monotonic(), len(talk.audio)
        await asyncio.sleep(seconds)
        passed_ms = (time.monotonic() - begin) * 1000
        heard_ms = (len(talk.audio) - samples) / 32
        hung_up = caller.ended.is_set()
        await caller.hang_up()
    await talk.ended()
    return Heard(clicker, talk, relay, heard_ms, passed_ms, hung_up)


BAD = {
    "clean": Impairment(),
    "jitter 20 ms": Impairment(jitter_ms=20, seed=2),
    "jitter 60 ms": Impairment(jitter_ms=60, seed=2),
    "loss 1 %": Impairment(loss=0.01, seed=2),
    "loss 5 %": Impairment(loss=0.05, seed=2),
    "reordering 2 %": Impairment(reorder=0.02, seed=2),
}


@pytest.fixture
async def calls(agent: FakeAgent, gateway: GatewayProcess) -> dict[str, Heard]:
    """One call over each network, three at a time."""
    found: dict[str, Heard] = {}
    names = list(BAD)
    for three in (names[:3], names[3:]):
        began = []
        for name in three:  # one after the other, so that each finds its own agent
            began.append(asyncio.create_task(call_through(gateway, agent, BAD[name], 5.0)))
            await asyncio.sleep(0.4)
        found.update(zip(three, await asyncio.gather(*began), strict=True))
        await gateway.wait_for_metric("landline_sip_active_calls", 0)
    return found


async def test_calls_survive_bad_networks_with_bounded_delay(calls: dict[str, Heard]) -> None:
    for name, call in calls.items():
        assert not call.hung_up, name
        assert call.talk.gaps == 0, name
        assert call.heard_ms == pytest.approx(call.passed_ms, abs=120), name
        assert call.talk.ended_with.reason == "caller_hung_up", name
        assert call.delays_ms(), name
        # The network's own delay, the buffer's maximum, and a loaded machine.
        assert statistics.median(call.delays_ms()) < 200 + 150, name
    media = {name: call.talk.all("media")[-1] for name, call in calls.items()}
    for name in ("clean", "jitter 20 ms", "reordering 2 %"):
        assert media[name].packets_lost <= 2, name
    for name in ("loss 1 %", "loss 5 %"):
        assert media[name].packets_lost == pytest.approx(calls[name].relay.dropped, abs=2), name
    assert media["jitter 60 ms"].jitter_ms > media["clean"].jitter_ms
    assert media["clean"].call_mos > 4.0
    assert media["loss 5 %"].call_mos < media["clean"].call_mos - 0.2


async def test_a_stall_leaves_no_delay_behind(agent: FakeAgent, gateway: GatewayProcess) -> None:
    stall = Impairment(stall_at_ms=2000, stall_ms=200)
    call = await call_through(gateway, agent, stall, 9.0)
    before = statistics.median(call.delays_ms()[:2])
    after = statistics.median(call.delays_ms(after_s=6.2))
    # 60 ms of packets, one of which is being played, and a loaded machine.
    assert after - before <= 60 + 40


async def test_suppressed_silence_makes_no_gap_and_no_timeout(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    """A telephone that sends comfort noise (RFC 3389) in its pauses, and then nothing at all."""
    gateway = await launch_gateway(sip="media = { rtp_timeout_s = 6 }")

    def packet(number: int) -> bytes | None:
        if number < 60 or number >= 260:
            return rtp(number, CLICK if number == 300 else murmur(number))
        if number < 160:  # two seconds of comfort noise, five times a second
            return rtp(number, b"\x40", payload_type=COMFORT_NOISE) if number % 10 == 0 else None
        return None

    port = int(gateway.address.rpartition(":")[2])
    async with LoadCaller(port) as caller:
        talk = await agent.next_call()
        begin = time.monotonic()
        caller.talk(packet)
        await asyncio.sleep(7.0)
        heard_ms, passed_ms = len(talk.audio) / 32, (time.monotonic() - begin) * 1000
        assert not caller.ended.is_set()
    ended = await talk.ended()
    assert ended.reason == "caller_hung_up"
    assert heard_ms == pytest.approx(passed_ms, abs=150)
    assert talk.gaps == 0
    samples = np.frombuffer(bytes(talk.audio), "<i2")
    click_ms = np.flatnonzero(np.abs(samples.astype(int)) > CLICK_LEVEL)[0] / 16
    assert click_ms == pytest.approx(300 * 20, abs=250)
    assert np.abs(samples[2 * 16_000 : 5 * 16_000].astype(int)).mean() < 100
    (recording,) = gateway.recordings
    assert recording.stat().st_size / 64 == pytest.approx(ended.duration_ms, abs=250)


async def test_a_call_without_audio_is_given_up(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(sip="media = { rtp_timeout_s = 1.5 }")
    port = int(gateway.address.rpartition(":")[2])
    caller = await LoadCaller(port).open()
    await caller.dial()
    talk = await agent.next_call()
    caller.talk(lambda number: rtp(number, murmur(number)))
    await talk.hear(1.0)
    await caller.stop_talking()
    stopped = time.monotonic()
    await asyncio.wait_for(caller.ended.wait(), 6)
    assert 1.4 <= time.monotonic() - stopped <= 4.5
    ended = await talk.ended()
    assert (ended.result, ended.reason) == ("failed", "rtp_timeout")
    assert "rtp_timeout" in caller.bye
    assert gateway.logged("rtp_timeout")
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="failed", reason="rtp_timeout"
    )
    caller.close()


@pytest.mark.parametrize("who", ["caller", "agent"])
async def test_a_call_on_hold_is_not_given_up(
    agent: FakeAgent, launch_gateway: LaunchGateway, who: str
) -> None:
    gateway = await launch_gateway(sip="media = { rtp_timeout_s = 1 }")
    port = int(gateway.address.rpartition(":")[2])
    async with LoadCaller(port) as caller:
        talk = await agent.next_call()
        caller.talk(lambda number: rtp(number, murmur(number)))
        await talk.hear(0.5)
        if who == "caller":
            await caller.hold(True)
            await talk.wait_for("held")
        else:
            talk.hold(True)
            await asyncio.sleep(0.3)
        await caller.stop_talking()
        await asyncio.sleep(2.5)
        assert not caller.ended.is_set()
        if who == "caller":
            await caller.hold(False)
            await talk.wait_for("resumed")
        else:
            talk.hold(False)
        await asyncio.wait_for(caller.ended.wait(), 6)
    assert (await talk.ended()).reason == "rtp_timeout"


async def test_one_way_audio_is_told_in_plain_words(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(sip="media = { one_way_after_s = 1 }")
    port = int(gateway.address.rpartition(":")[2])
    async with LoadCaller(port):
        await agent.next_call()
        told = await gateway.wait_for_log("one_way_audio")
        assert "none came back in 1 s" in told["reason"]
        assert "public_address" in told["reason"]
        assert await gateway.metric("landline_sip_one_way_audio_total", trunk="lab") == 1


async def test_a_trunk_has_a_buffer_policy_of_its_own(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(
        sip="media = { jitter_buffer_max_ms = 400 }",
        trunks='[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
        "[sip.trunks.media]\njitter_buffer_max_ms = 60\n",
    )
    call = await call_through(gateway, agent, Impairment(jitter_ms=60, seed=4), 3.0)
    media = call.talk.all("media")[-1]
    assert media.jitter_buffer_average_ms <= 60
    assert media.jitter_buffer_discards > 0
