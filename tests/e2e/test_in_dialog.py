"""Everything that happens inside a dialog, with a user agent that says what a test wants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e import shared
from tests.fakes.g711 import PCMA, PCMU
from tests.fakes.sip_peer import SipPeer, direction_of
from tests.fakes.talk import Talk, call, replaces
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

pytestmark = shared.ONE_LOOP
globals().update(shared.fixtures())

T38 = "m=image 5000 udptl t38\r\na=T38FaxVersion:0\r\na=T38FaxUdpEC:t38UDPRedundancy\r\n"


HOLDS = {
    "sendonly": {"direction": "sendonly"},
    "inactive": {"direction": "inactive"},
    "address_0": {"address": "0.0.0.0"},  # RFC 2543
    "address_0_and_sendonly": {"address": "0.0.0.0", "direction": "sendonly"},
}


@pytest.mark.parametrize("by", ["reinvite", "update"])
async def test_a_caller_holds_and_resumes_in_every_dialect(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, by: str
) -> None:
    talk = await call(peer, gateway, agent)
    ask = talk.reinvite if by == "reinvite" else talk.update
    for times, (kind, sdp) in enumerate(HOLDS.items(), start=1):
        held = await ask(**sdp)
        assert held.status == 200
        assert direction_of(held.body) in ("recvonly", "inactive") or "0.0.0.0" in held.body, kind
        await talk.agent.wait_for_count("held", times)
        resumed = await ask()
        assert (resumed.status, direction_of(resumed.body)) == (200, "sendrecv"), kind
        await talk.agent.wait_for_count("resumed", times)
        await talk.still_talks()
    await talk.dialog.bye()


async def test_a_reinvite_changes_the_codec_in_mid_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent, codecs="0 101")
    await talk.still_talks(PCMU)
    answer = await talk.reinvite(codecs="8 101")
    assert "RTP/AVP 8 101" in answer.body
    await talk.still_talks(PCMA)
    assert peer.rtp.payload_types[-1] == PCMA.payload_type
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def test_a_delayed_offer_in_a_reinvite_is_answered(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    offer = await talk.dialog.ask("INVITE")
    assert "m=audio" in offer.body
    talk.dialog.ack(offer, peer.sdp(version=9))
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_reinvite_that_changes_nothing_is_answered(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    for _ in range(3):
        answer = await talk.dialog.invite(peer.sdp())
        assert answer.status == 200
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_t38_reinvite_is_refused_and_the_call_goes_on(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    head = "\r\n".join(peer.sdp(version=2).split("\r\n")[:5]) + "\r\n"
    for fax in (head + T38, peer.sdp(version=3, port=0, extra=T38)):
        assert (await talk.reinvite(fax)).status == 488
        await talk.still_talks()
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def test_fax_beside_audio_is_declined_and_the_audio_kept(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    answer = await talk.reinvite(extra=T38)
    assert answer.status == 200
    assert "m=image 0 " in answer.body
    await talk.still_talks()
    await talk.dialog.bye()


# -- glare and races ------------------------------------------------------------------------------


async def test_glare_their_reinvite_gets_491_while_ours_is_under_way(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.hold(True)
    ours = await peer.request("INVITE")
    assert direction_of(ours.body) == "sendonly"
    assert (await talk.reinvite()).status == 491
    peer.respond(ours, 200, "OK", peer.sdp(version=5, direction="recvonly"))
    await peer.request("ACK")
    talk.agent.hold(False)
    ours = await peer.request("INVITE")
    assert direction_of(ours.body) == "sendrecv"
    peer.respond(ours, 200, "OK", peer.sdp(version=6))
    await peer.request("ACK")
    await talk.still_talks()
    await talk.dialog.bye()


async def test_glare_our_reinvite_is_sent_again_after_491(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    loop = asyncio.get_running_loop()
    talk.agent.hold(True)
    first = await peer.request("INVITE")
    peer.respond(first, 491, "Request Pending")
    await peer.request("ACK")
    begin = loop.time()
    again = await peer.request("INVITE")
    assert loop.time() - begin <= 2.1  # it was called, so it waits the shorter time
    assert direction_of(again.body) == "sendonly"
    peer.respond(again, 200, "OK", peer.sdp(version=5, direction="recvonly"))
    await peer.request("ACK")
    assert not talk.agent.all("ended")
    await talk.dialog.bye()


async def test_a_hold_that_is_refused_leaves_the_call_as_it_was(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.hold(True)
    peer.respond(await peer.request("INVITE"), 488, "Not Acceptable Here")
    await peer.request("ACK")
    assert (await gateway.wait_for_log("hold_failed"))["sip_status"] == 488
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_cancel_that_crosses_the_answer_leaves_the_call_up(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    dialog = peer.dialog(gateway.uri())
    branch = dialog.send("INVITE", peer.sdp())
    answer = await dialog.final("INVITE")
    tag, dialog.remote_tag = dialog.remote_tag, ""
    dialog.send("CANCEL", cseq=1, branch=branch)
    assert (await dialog.final("CANCEL")).status == 200
    dialog.remote_tag = tag
    dialog.ack(answer)
    talk = Talk(dialog, answer, await agent.next_call())
    await talk.still_talks()
    await dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def test_a_cancel_before_the_answer_ends_the_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    agent.accepts = False
    dialog = peer.dialog(gateway.uri())
    branch = dialog.send("INVITE", peer.sdp())
    await peer.response(lambda m: m.status == 180)
    dialog.send("CANCEL", cseq=1, branch=branch)
    answer = await dialog.final("INVITE")
    assert answer.status == 487
    dialog.ack(answer)
    await gateway.wait_for_metric("landline_sip_active_calls", 0)
    cancelled = {"result": "abandoned", "reason": "caller_cancelled"}
    assert await gateway.metric("landline_sip_calls_total", **cancelled) >= 1


async def test_a_bye_before_the_ack_ends_the_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    dialog = peer.dialog(gateway.uri())
    answer = await dialog.ask("INVITE", peer.sdp())
    dialog.target = answer.header("Contact").strip("<>")
    await dialog.bye()
    await gateway.wait_for_metric("landline_sip_active_calls", 0)
    await (await agent.next_call()).ended()


# -- what carriers ask in passing -----------------------------------------------------------------


async def test_an_options_in_the_dialog_says_that_it_lives(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    assert (await talk.dialog.ask("OPTIONS")).status == 200
    assert (await talk.dialog.ask("INFO")).status == 200
    answer = await talk.dialog.ask("INFO", "<x/>", content_type="application/media_control+xml")
    assert answer.status == 415
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_provisional_answer_is_reliable_when_100rel_is_required(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    agent.accepts = False
    dialog = peer.dialog(gateway.uri())
    dialog.send("INVITE", peer.sdp(), headers=("Require: 100rel", "Supported: 100rel"))
    ringing = await peer.response(lambda m: m.status == 180)
    assert "100rel" in ringing.header("Require")
    dialog.remote_tag = ringing.tag("To")
    rack = f"RAck: {ringing.header('RSeq')} {dialog.cseq} INVITE"
    assert (await dialog.ask("PRACK", headers=(rack,))).status == 200
    await asyncio.sleep(0.7)  # it would be sent again after T1, 0.5 s
    assert len([m for m in peer.messages if m.status == 180]) == 1


async def test_a_refer_from_the_caller_is_refused_and_the_call_goes_on(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    refer = ("Refer-To: <sip:elsewhere@127.0.0.1:9>",)
    assert (await talk.dialog.ask("REFER", headers=refer)).status == 403
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_muted_caller_who_sends_nothing_keeps_the_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    await talk.still_talks()
    await asyncio.sleep(1.5)  # no packet at all
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_muted_agent_is_silent_while_its_speech_goes_by(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.mute(True)
    talk.agent.play("unheard", tone(900, 0.6))
    await talk.agent.wait_for("played", lambda played: played.finished)
    assert peak_hz(peer.rtp.heard(PCMU, 0.4)) == 0.0
    talk.agent.mute(False)
    await talk.still_talks()
    await talk.dialog.bye()


# -- Replaces -------------------------------------------------------------------------------------


async def test_another_telephone_takes_the_callers_place(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    await talk.still_talks()
    async with SipPeer() as other:
        dialog = other.dialog(gateway.uri(), user="colleague")
        answer = await dialog.invite(other.sdp(), headers=(replaces(talk.dialog),))
        assert answer.status == 200
        await peer.request("BYE")
        changed = await talk.agent.wait_for("caller_changed")
        assert changed.caller == "colleague"
        taken_over = Talk(dialog, answer, talk.agent)
        await taken_over.still_talks()
        assert agent.taken == 1
        await dialog.bye()
        ended = await talk.agent.ended()
    assert ended.reason == "caller_hung_up"
    assert talk.agent.gaps == 0
    await gateway.wait_for_metric("landline_sip_active_calls", 0)


async def test_replaces_of_no_dialog_gets_481(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    async with SipPeer() as other:
        wrong = ("Replaces: nobody;to-tag=1;from-tag=2",)
        answer = await other.dialog(gateway.uri()).invite(other.sdp(), headers=wrong)
        assert answer.status == 481
    await talk.still_talks()
    await talk.dialog.bye()


async def test_replaces_that_cannot_be_answered_leaves_the_first_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    async with SipPeer() as other:
        offer = other.sdp(codecs="96", extra="a=rtpmap:96 opus/48000/2\r\n")
        answer = await other.dialog(gateway.uri()).invite(offer, headers=(replaces(talk.dialog),))
        assert answer.status == 488
    await talk.still_talks()
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"
