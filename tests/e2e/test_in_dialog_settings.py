"""Inside a dialog, with settings of its own: early media, an edge, the end of the gateway."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.fakes.g711 import PCMU
from tests.fakes.sip_peer import SipPeer, audio_of
from tests.fakes.talk import Talk, call, replaces, sent_as_tones
from tests.fakes.tones import peak_hz

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

PEER = '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'


async def test_a_stranger_cannot_take_the_callers_place(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    """The dialog's names are no secret: they travel in the clear."""
    gateway = await launch_gateway(
        sip=f'edge_proxy = "127.0.0.1:{peer.port}"', trunks=PEER.replace("127.0.0.1", "192.0.2.1")
    )
    dialog = peer.dialog(gateway.uri())
    by_edge = ("X-Landline-Trunk: lab", "X-Landline-Source: 192.0.2.1:5060")
    answer = await dialog.invite(peer.sdp(), headers=by_edge)
    talk = Talk(dialog, answer, await agent.next_call())
    async with SipPeer() as stranger:
        attempt = stranger.dialog(gateway.uri())
        refused = await attempt.invite(stranger.sdp(), headers=(replaces(dialog),))
        assert refused.status == 403
    await talk.still_talks()
    await dialog.bye()


async def test_a_gateway_stops_cleanly_though_nobody_answers_its_bye(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    peer.keeps_quiet_on.add("BYE")
    talk = await call(peer, gateway, agent)
    await talk.still_talks()
    gateway.process.send_signal(signal.SIGTERM)
    await gateway.wait_for_log("draining")
    assert await gateway.stop() == 0
    assert peer.received("BYE")


@pytest.mark.parametrize("offer", ["in_invite", "delayed"])
async def test_early_media_rings_until_the_agent_answers(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer, offer: str
) -> None:
    gateway = await launch_gateway(trunks=PEER + 'ring_with = "183"\n')
    agent.accepts = False
    dialog = peer.dialog(gateway.uri())
    dialog.send("INVITE", peer.sdp() if offer == "in_invite" else "")
    progress = await peer.response(lambda m: m.status > 100)
    assert progress.status == 183
    assert "m=audio" in progress.body
    if offer == "in_invite":
        await asyncio.sleep(0.5)
        assert peak_hz(peer.rtp.heard(PCMU, 0.3)) == pytest.approx(425, abs=8)
    agent.accept_now()
    answer = await dialog.final("INVITE")
    assert answer.status == 200
    dialog.ack(answer, "" if offer == "in_invite" else peer.sdp())
    talk = Talk(dialog, answer, await agent.next_call())
    talk.audio = audio_of(answer.body or progress.body)
    await talk.still_talks()
    await dialog.bye()


async def test_our_keys_go_out_as_the_trunk_wants_them(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    gateway = await launch_gateway(trunks=PEER + 'dtmf = "info"\n')
    talk = await call(peer, gateway, agent)
    peer.keeps_quiet_on.add("INFO")
    talk.agent.send_dtmf("1*A")
    for key in "1*A":
        info = await peer.request("INFO")
        assert info.header("Content-Type") == "application/dtmf-relay"
        assert f"Signal={key}" in info.body.replace(" ", "")
        peer.respond(info, 200, "OK")
    assert not peer.rtp.events
    await talk.dialog.bye()


async def test_our_keys_go_out_as_tones_where_the_trunk_wants_them(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    gateway = await launch_gateway(trunks=PEER + 'dtmf = "inband"\n')
    await sent_as_tones(await call(peer, gateway, agent))
