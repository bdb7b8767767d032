"""Calls by our own softphone through a real gateway process to an agent on gRPC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sip_gateway.config import Codec, Transport
from sip_gateway.softphone import Softphone, SoftphoneCall
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess


async def listen(call: SoftphoneCall, seconds: float) -> bytes:
    """What the caller hears in the next seconds."""
    heard = bytearray()
    async for frame in call.frames():
        heard += frame.pcm
        if len(heard) >= seconds * 32_000:
            break
    return bytes(heard)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("transport", list(Transport))
async def test_both_sides_hear_each_other(
    agent: FakeAgent, gateway: GatewayProcess, codec: Codec, transport: Transport
) -> None:
    async with Softphone(codecs=(codec,), transport=transport) as phone:
        call = await phone.dial(gateway.uri("4711"))
        talk = await agent.next_call()
        call.play(tone(440, 3.0))
        talk.play("hello", tone(1000, 3.0))
        caller_heard, agent_heard = await asyncio.gather(listen(call, 1.5), talk.hear(1.5))
        await call.hang_up()
        ended = await talk.ended()

    assert peak_hz(agent_heard[-16_000:]) == pytest.approx(440, abs=5)
    assert peak_hz(caller_heard[-16_000:]) == pytest.approx(1000, abs=5)
    assert call.codec == f"{codec}/8000"
    assert talk.started.codec == f"{codec}/8000"
    assert (talk.started.callee, talk.started.caller) == ("4711", "caller")
    assert talk.started.trunk == "lab"
    assert talk.first_samples == list(range(0, len(talk.first_samples) * 320, 320))
    assert ended.reason == "caller_hung_up"
