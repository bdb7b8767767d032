"""Encrypted audio (SRTP with keys in SDP): off, optional and required, and no key in any log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sip_gateway.softphone import CallRefusedError, Softphone
from sip_gateway.trunks.trunk import Srtp
from tests.fakes.agent import FakeAgent
from tests.fakes.baresip import Baresip
from tests.fakes.gateway_process import GatewayProcess
from tests.fakes.tones import peak_hz, tone

LaunchGateway = Callable[..., Awaitable[GatewayProcess]]


def trunk(srtp: str) -> str:
    return (
        f'[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\nsrtp = "{srtp}"\n'
    )


class Messages:
    """Every SIP message of a softphone."""

    def __init__(self) -> None:
        self.received = ""
        self.sent = ""

    def __call__(self, sent: bool, _peer: str, text: str) -> None:
        if sent:
            self.sent += text
        else:
            self.received += text

    @property
    def keys(self) -> set[str]:
        return set(re.findall(r"inline:([^\s|]+)", self.sent + self.received))


@pytest.mark.parametrize(
    ("gateway_srtp", "phone_srtp", "profile"),
    [
        ("required", Srtp.REQUIRED, "RTP/SAVP"),
        ("optional", Srtp.REQUIRED, "RTP/SAVP"),
        ("optional", Srtp.OFF, "RTP/AVP"),
        ("off", Srtp.OPTIONAL, "RTP/AVP"),
    ],
)
async def test_both_sides_hear_each_other(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    gateway_srtp: str,
    phone_srtp: Srtp,
    profile: str,
) -> None:
    gateway = await launch_gateway(trunks=trunk(gateway_srtp))
    messages = Messages()
    async with Softphone(srtp=phone_srtp, on_message=messages) as phone:
        call = await phone.dial(gateway.uri())
        talk = await agent.next_call()
        call.play(tone(440, 3.0))
        talk.play("hello", tone(1000, 3.0))
        heard = bytearray()
        spoken = await talk.hear(1.2)
        async for frame in call.frames():
            heard += frame.pcm
            if len(heard) >= 32_000:
                break
        await call.hang_up()
        await talk.ended()
    assert peak_hz(spoken[-16_000:]) == pytest.approx(440, abs=5)
    assert peak_hz(bytes(heard)[-16_000:]) == pytest.approx(1000, abs=5)
    assert f"{profile} " in messages.received
    encrypted = profile == "RTP/SAVP"
    assert ("a=crypto" in messages.received) is encrypted
    assert bool(messages.keys) is (encrypted or phone_srtp is Srtp.OPTIONAL)
    assert not any(key in str(gateway.log) for key in messages.keys)


@pytest.mark.parametrize(
    ("gateway_srtp", "phone_srtp", "reason", "says"),
    [
        ("required", Srtp.OFF, "srtp_required", "encrypted audio only"),
        ("off", Srtp.REQUIRED, "srtp_not_enabled", "plain audio only"),
    ],
)
async def test_an_offer_that_does_not_fit_is_refused_with_the_reason(
    launch_gateway: LaunchGateway, gateway_srtp: str, phone_srtp: Srtp, reason: str, says: str
) -> None:
    gateway = await launch_gateway(trunks=trunk(gateway_srtp))
    messages = Messages()
    async with Softphone(srtp=phone_srtp, on_message=messages) as phone:
        with pytest.raises(CallRefusedError) as refused:
            await phone.dial(gateway.uri())
    assert refused.value.sip_status == 488
    assert f'Warning: 399 landline "this trunk takes {says}' in messages.received
    assert await gateway.metric("landline_sip_refused_total", reason=reason) == 1
    assert reason in str(gateway.log)


async def test_no_key_in_the_debug_log(agent: FakeAgent, launch_gateway: LaunchGateway) -> None:
    gateway = await launch_gateway(sip="", trunks=trunk("required"), log_level="debug")
    messages = Messages()
    async with Softphone(srtp=Srtp.REQUIRED, on_message=messages) as phone:
        call = await phone.dial(gateway.uri())
        talk = await agent.next_call()
        await call.hang_up()
        await talk.ended()
    assert len(messages.keys) >= 2
    logged = str(gateway.log) + str(gateway.stray)
    assert not any(key in logged for key in messages.keys)


async def test_baresip_with_srtp(
    agent: FakeAgent, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    gateway = await launch_gateway(trunks=trunk("required"))
    speech = tone(440, 6.0)[::1]
    narrow = b"".join(speech[at : at + 2] for at in range(0, len(speech), 4))
    caller = Baresip(tmp_path, narrow, mediaenc="srtp-mand")
    try:
        await caller.dial(gateway.uri("4711"))
        talk = await agent.next_call()
        talk.play("hello", tone(1000, 2.0))
        heard = await talk.hear(1.5)
        assert peak_hz(heard[-16_000:]) == pytest.approx(440, abs=5)
        talk.hang_up(after_playout=True)
        assert (await talk.ended()).reason == "goodbye"
        await asyncio.sleep(0.2)
    finally:
        await caller.stop()
