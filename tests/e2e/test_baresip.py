"""A call by baresip, whose SIP and RTP are not ours."""

from __future__ import annotations

import asyncio
import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.fakes.baresip import Baresip
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess
    from tests.fakes.sip_peer import SipPeer

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]


def at_8_khz(pcm: bytes) -> bytes:
    """Every second sample, which is enough for a low tone."""
    return np.frombuffer(pcm, "<i2")[::2].tobytes()


@pytest.fixture
async def baresip(tmp_path: Path) -> AsyncIterator[Baresip]:
    caller = Baresip(tmp_path, at_8_khz(tone(440, 8)))
    yield caller
    await caller.stop()


async def test_baresip_talks_listens_and_presses_keys(
    agent: FakeAgent, gateway: GatewayProcess, baresip: Baresip
) -> None:
    await baresip.dial(gateway.uri("4711"))
    talk = await agent.next_call()
    assert talk.started.codec == "PCMA/8000"
    assert talk.started.caller == "bare"
    talk.play("hello", tone(1000, 2.0))
    heard = await talk.hear(1.5)
    assert peak_hz(heard[-16_000:]) == pytest.approx(440, abs=5)
    for key in "5#":
        baresip.press(key)
        await asyncio.sleep(0.4)
    await talk.wait_for("dtmf", lambda dtmf: dtmf.digit == "#")
    assert [dtmf.digit for dtmf in talk.all("dtmf")] == ["5", "#"]
    talk.hang_up(after_playout=True)
    assert (await talk.ended()).reason == "goodbye"
    await baresip.stop()
    await gateway.wait_for_log("call_ended")
    with wave.open(str(baresip.heard), "rb") as file:
        rate_hz, samples = file.getframerate(), file.readframes(file.getnframes())
    second = np.frombuffer(samples, "<i2")[rate_hz // 2 : rate_hz * 3 // 2]
    assert peak_hz(second.tobytes()) * rate_hz / 16_000 == pytest.approx(1000, abs=10)


async def test_baresip_holds_resumes_and_follows_a_transfer(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer, baresip: Baresip
) -> None:
    gateway = await launch_gateway(sip='transfer_allow = ["sip:desk@127.0.0.1:*"]')
    await baresip.dial(gateway.uri("4711"))
    talk = await agent.next_call()
    await talk.hear(0.5)
    baresip.press("x")
    await talk.wait_for("held")
    baresip.press("X")
    await talk.wait_for("resumed")
    assert peak_hz((await talk.hear(1.0))[-16_000:]) == pytest.approx(440, abs=5)
    talk.transfer(f"sip:desk@127.0.0.1:{peer.port}")
    invite = await peer.request("INVITE")
    peer.respond(invite, 200, "OK", peer.sdp(codecs="8 101"), tag="desk")
    assert (await talk.ended()).result == "transferred"
