"""Keys both ways, in each of the ways in which trunks send them, and never one key twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sip_gateway.media import tones
from tests.e2e import shared
from tests.fakes.g711 import PCMU
from tests.fakes.talk import call, sent_as_tones

if TYPE_CHECKING:
    from tests.fakes.agent import FakeAgent, FakeCall
    from tests.fakes.gateway_process import GatewayProcess
    from tests.fakes.sip_peer import SipPeer

RELAY = "application/dtmf-relay"
pytestmark = shared.ONE_LOOP
globals().update(shared.fixtures())


def keys_of(talk: FakeCall) -> str:
    return "".join(dtmf.digit for dtmf in talk.all("dtmf"))


async def test_keys_by_info_in_each_spelling(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    for body, content_type in (
        ("Signal=5\r\nDuration=160\r\n", RELAY),
        ("Signal= #\r\nDuration= 100\r\n", RELAY),
        ("Signal=10\r\nDuration=100\r\n", RELAY),  # the event code of *
        ("7", "application/dtmf"),
        ("7", "application/dtmf"),
    ):
        answer = await talk.dialog.ask("INFO", body, content_type=content_type)
        assert answer.status in (200, 400), body  # PJSIP does not read `10`, and says so
    await talk.agent.wait_for_count("dtmf", 5)
    assert keys_of(talk.agent) == "5#*77"
    assert talk.agent.all("dtmf")[0].duration_ms == 160
    await talk.dialog.bye()


async def test_keys_by_tones_where_events_were_not_agreed(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent, codecs="0")
    await peer.rtp.send(talk.audio, b"".join(tones.keys("159D")), PCMU)
    await talk.agent.wait_for_count("dtmf", 4)
    assert keys_of(talk.agent) == "159D"
    await talk.dialog.bye()


async def test_a_key_that_comes_as_event_and_tone_and_info_counts_once(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    for key in "42":
        await asyncio.gather(
            peer.rtp.press(talk.audio, key),
            talk.dialog.ask("INFO", f"Signal={key}\r\nDuration=100\r\n", content_type=RELAY),
        )
        await peer.rtp.send(talk.audio, b"".join(tones.keys(key)), PCMU)
    await peer.rtp.press(talk.audio, "#")
    await talk.agent.wait_for("dtmf", lambda dtmf: dtmf.digit == "#")
    assert keys_of(talk.agent) == "42#"
    await talk.dialog.bye()


async def test_a_key_that_comes_as_tone_and_info_counts_once(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent, codecs="0")
    for key in "42":
        await peer.rtp.send(talk.audio, b"".join(tones.keys(key)), PCMU)
        info = f"Signal={key}\r\nDuration=100\r\n"
        assert (await talk.dialog.ask("INFO", info, content_type=RELAY)).status == 200
    await asyncio.sleep(0.4)
    assert keys_of(talk.agent) == "42"
    await talk.dialog.bye()


async def test_our_keys_go_out_as_tones_where_events_were_not_agreed(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent, codecs="0")
    await sent_as_tones(talk)


async def test_our_keys_go_out_as_events_where_these_were_agreed(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.send_dtmf("12")
    await asyncio.sleep(0.8)
    pressed = [event[0] for event in peer.rtp.events if event[1] & 0x80]
    assert sorted(set(pressed)) == [1, 2]
    assert len(pressed) == 6  # the end of each is sent three times (RFC 4733, 2.5.1.4)
    await talk.dialog.bye()
