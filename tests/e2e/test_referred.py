"""Transfers whose target really answers, or does not: blind and attended, with ringing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from landline.agent.v1 import agent_pb2 as pb

from sip_gateway.softphone import PhoneState
from tests.e2e import shared
from tests.fakes.g711 import PCMU
from tests.fakes.sip_peer import SipPeer
from tests.fakes.talk import Talk, call
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from sip_gateway.softphone import Softphone
    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess
    from tests.fakes.sip_peer import SipMessage

ALLOWED = 'transfer_allow = ["sip:desk@127.0.0.1:*"]'
pytestmark = shared.ONE_LOOP
globals().update(shared.fixtures(sip=ALLOWED))
TRYING, ACCEPTED, FAILED = (
    pb.TransferUpdated.STATE_TRYING,
    pb.TransferUpdated.STATE_ACCEPTED,
    pb.TransferUpdated.STATE_FAILED,
)


def uri_of(desk: SipPeer) -> str:
    return f"sip:desk@127.0.0.1:{desk.port}"


async def notify(talk: Talk, status: str, *, state: str = "active;expires=60") -> None:
    """Report what became of a REFER (RFC 3515, 2.4.5)."""
    headers = ("Event: refer", f"Subscription-State: {state}")
    body, kind = f"SIP/2.0 {status}\r\n", "message/sipfrag;version=2.0"
    answer = await talk.dialog.ask("NOTIFY", body, headers=headers, content_type=kind)
    assert answer.status == 200, answer.start


async def referred(talk: Talk, target: str) -> SipMessage:
    """The gateway's REFER, accepted."""
    refer = await talk.peer.request("REFER")
    assert target in refer.header("Refer-To")
    talk.peer.respond(refer, 202, "Accepted")
    return refer


# -- blind ----------------------------------------------------------------------------------------


async def test_a_blind_transfer_is_told_step_by_step_and_ends_with_the_answer(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(uri_of(desk))
    await referred(talk, uri_of(desk))
    for status in ("100 Trying", "180 Ringing"):
        await notify(talk, status)
    await talk.agent.wait_for("transfer", lambda update: update.sip_status == 180)
    assert not talk.agent.all("ended")
    await notify(talk, "200 OK", state="terminated;reason=noresource")
    assert (await talk.agent.ended()).result == "transferred"
    await peer.request("BYE")
    states = [update.state for update in talk.agent.all("transfer")]
    assert states[-1] == ACCEPTED
    assert set(states[:-1]) == {TRYING}


async def test_a_blind_transfer_that_fails_gives_the_caller_back(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    for status, code in (("486 Busy Here", 486), ("603 Decline", 603), ("408 Timeout", 408)):
        talk.agent.transfer(uri_of(desk))
        await referred(talk, uri_of(desk))
        await talk.reinvite(direction="sendonly")  # as telephones do while they call the target
        await notify(talk, "180 Ringing")
        await notify(talk, status, state="terminated;reason=noresource")
        failed = await talk.agent.wait_for(
            "transfer", lambda update, c=code: update.sip_status == c
        )
        assert failed.state == FAILED
        await talk.reinvite()
        await talk.still_talks()
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def test_a_carrier_that_knows_no_refer_leaves_the_call_as_it_is(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(uri_of(desk))
    peer.respond(await peer.request("REFER"), 405, "Method Not Allowed")
    failed = await talk.agent.wait_for("transfer")
    assert (failed.state, failed.sip_status) == (FAILED, 405)
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_telephone_that_follows_a_blind_transfer_talks_to_the_target(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone, desk: SipPeer
) -> None:
    caller = await phone.dial(gateway.uri())
    caller.follows_transfers = True
    talk = await agent.next_call()
    talk.transfer(uri_of(desk))
    invite = await desk.request("INVITE")
    desk.respond(invite, 180, "Ringing", tag="desk")
    await talk.wait_for("transfer", lambda update: update.sip_status == 180)
    desk.respond(invite, 200, "OK", desk.sdp(), tag="desk")
    assert (await talk.ended()).result == "transferred"
    await asyncio.wait_for(caller.ended(), 5)
    assert caller.followed is not None
    await asyncio.wait_for(caller.followed.answered(), 5)
    caller.followed.play(tone(440, 1.0))
    await asyncio.sleep(0.6)
    assert peak_hz(desk.rtp.heard(PCMU, 0.3)) == pytest.approx(440, abs=8)
    await caller.followed.hang_up()


# -- attended -------------------------------------------------------------------------------------


async def test_an_attended_transfer_hands_over_when_the_target_has_answered(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone, desk: SipPeer
) -> None:
    caller = await phone.dial(gateway.uri())
    caller.follows_transfers = True
    talk = await agent.next_call()
    talk.transfer(uri_of(desk), attended=True)

    consulting = await desk.request("INVITE")
    consulted = desk.accept(consulting)
    desk.respond(consulting, 180, "Ringing", tag=consulted.local_tag)
    ringing = await talk.wait_for("transfer", lambda update: update.sip_status == 180)
    assert ringing.state == TRYING
    assert caller.state is PhoneState.TALKING
    desk.respond(consulting, 200, "OK", desk.sdp(), tag=consulted.local_tag)
    await desk.request("ACK")

    invite = await desk.request("INVITE")
    replaces = invite.header("Replaces")
    assert replaces.startswith(consulted.call_id)
    assert f"to-tag={consulted.local_tag}" in replaces
    desk.respond(invite, 200, "OK", desk.sdp(), tag="second")
    consulted.cseq = 100
    await consulted.bye()

    ended = await talk.ended()
    assert (ended.result, ended.reason) == ("transferred", "transferred")
    await asyncio.wait_for(caller.ended(), 5)
    assert caller.followed is not None
    caller.followed.play(tone(440, 1.0))
    await asyncio.sleep(0.6)
    assert peak_hz(desk.rtp.heard(PCMU, 0.3)) == pytest.approx(440, abs=8)
    await caller.followed.hang_up()
    assert await gateway.metric("landline_sip_transfers_total", outcome="accepted") >= 1


async def test_while_the_target_rings_the_caller_hears_ringing_and_comes_back_if_it_is_busy(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(uri_of(desk), attended=True)
    consulting = await desk.request("INVITE")
    desk.respond(consulting, 180, "Ringing", tag="desk")
    await asyncio.sleep(0.6)
    assert peak_hz(peer.rtp.heard(PCMU, 0.3)) == pytest.approx(425, abs=8)
    desk.respond(consulting, 486, "Busy Here", tag="desk")
    failed = await talk.agent.wait_for("transfer", lambda update: update.state == FAILED)
    assert (failed.sip_status, failed.reason) == (486, "Busy Here")
    await talk.still_talks()
    assert not peer.received("REFER")
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def test_a_caller_who_hangs_up_while_the_target_rings_leaves_nobody_ringing(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(uri_of(desk), attended=True)
    consulting = await desk.request("INVITE")
    desk.respond(consulting, 180, "Ringing", tag="desk")
    await talk.agent.wait_for("transfer")
    await talk.dialog.bye()
    cancel = await desk.request("CANCEL")
    desk.respond(cancel, 200, "OK", tag="desk")
    desk.respond(consulting, 487, "Request Terminated", tag="desk")
    assert (await talk.agent.ended()).reason == "caller_hung_up"
    await gateway.wait_for_metric("landline_sip_active_calls", 0)


async def test_a_caller_whose_carrier_refuses_the_refer_comes_back_and_the_target_is_released(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(uri_of(desk), attended=True)
    consulting = await desk.request("INVITE")
    desk.respond(consulting, 200, "OK", desk.sdp(), tag="desk")
    peer.respond(await peer.request("REFER"), 603, "Decline")
    failed = await talk.agent.wait_for("transfer", lambda update: update.state == FAILED)
    assert failed.sip_status == 603
    await desk.request("BYE")
    await talk.still_talks()
    await talk.dialog.bye()


async def test_a_second_transfer_at_the_same_time_is_refused(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    talk.agent.transfer(uri_of(desk), attended=True)
    consulting = await desk.request("INVITE")
    talk.agent.transfer(uri_of(desk))
    busy = await talk.agent.wait_for("transfer", lambda update: update.state == FAILED)
    assert busy.sip_status == 491
    desk.respond(consulting, 480, "Temporarily Unavailable", tag="desk")
    await talk.agent.wait_for("transfer", lambda update: update.sip_status == 480)
    await talk.still_talks()
    await talk.dialog.bye()


async def test_an_attended_transfer_fits_beside_three_conversations(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer, desk: SipPeer
) -> None:
    talks = [await call(peer, gateway, agent) for _ in range(3)]
    talks[0].agent.transfer(uri_of(desk), attended=True)
    consulting = await desk.request("INVITE")
    talks[1].agent.transfer(uri_of(desk), attended=True)  # the fifth leg that there is no room for
    full = await talks[1].agent.wait_for("transfer", lambda update: update.state == FAILED)
    assert full.sip_status == 500
    desk.respond(consulting, 486, "Busy Here", tag="desk")
    await talks[0].agent.wait_for("transfer", lambda update: update.sip_status == 486)
    await talks[0].still_talks()
    for talk in talks:
        await talk.dialog.bye()
