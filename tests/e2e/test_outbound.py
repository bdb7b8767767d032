"""Calls that the gateway places: what becomes of them, and who talks then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.e2e import shared
from tests.fakes.callee import NUMBER, SIP, TRUNK, called
from tests.fakes.dialler import Dialler
from tests.fakes.g711 import PCMU
from tests.fakes.sip_peer import SipPeer, audio_of
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

pytestmark = shared.ONE_LOOP
globals().update(shared.fixtures(sip=SIP, trunks=TRUNK))


@pytest_asyncio.fixture(loop_scope="module")
async def dialler(gateway: GatewayProcess) -> AsyncIterator[Dialler]:
    """The service that places calls."""
    async with Dialler(gateway) as service:
        yield service


async def test_who_answers_talks_to_an_agent(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    call = dialler.dial("030 901820", headers={"X-Campaign": "7"})
    invite, dialog = await called(desk)
    assert invite.uri == f"sip:{NUMBER}@127.0.0.1:{desk.port}"
    assert "sip:+4930123456@" in invite.header("From")
    assert invite.header("X-Campaign") == "7"
    assert not invite.all("Route")
    desk.respond(invite, 180, "Ringing", tag=dialog.local_tag)
    assert (await call.until("ringing")).sip_status == 180
    desk.respond(invite, 200, "OK", desk.sdp(), tag=dialog.local_tag)
    await desk.request("ACK")
    answered = await call.until("answered")
    talk = await agent.next_call()
    started = talk.started
    assert (started.direction, started.agent) == ("outbound", "clinic")
    assert (started.caller, started.callee) == ("+4930123456", NUMBER)
    assert (started.trunk, started.codec) == ("carrier", "PCMU/8000")
    assert started.call_id == answered.call_id
    talk.play("hello", tone(900, 1.0))
    sending = asyncio.create_task(desk.rtp.send(audio_of(invite.body), tone(440, 1.0), PCMU))
    assert peak_hz((await talk.hear(0.8))[-9600:]) == pytest.approx(440, abs=8)
    assert peak_hz(desk.rtp.heard(PCMU, 0.3)) == pytest.approx(900, abs=8)
    await sending
    talk.hang_up()
    await desk.request("BYE")
    end = await call.end()
    assert (end.result, end.reason) == ("completed", "goodbye")
    assert call.states == ["trying", "ringing", "answered", "ended"]


REFUSALS = (
    (486, "Busy Here", "busy"),
    (600, "Busy Everywhere", "busy"),
    (603, "Decline", "declined"),
    (480, "Temporarily Unavailable", "no_answer"),
    (404, "Not Found", "failed"),
)


async def test_a_call_that_is_not_answered_says_why(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    for status, reason, state in REFUSALS:
        call = dialler.dial(NUMBER)
        invite, _dialog = await called(desk)
        desk.respond(invite, status, reason, tag="x")
        end = await call.end()
        assert call.states == ["trying", state]
        assert (end.sip_status, end.reason) == (status, reason)
    assert agent.taken == 0


async def test_nobody_answers_in_time(agent: FakeAgent, dialler: Dialler, desk: SipPeer) -> None:
    call = dialler.dial(NUMBER, ring_s=1)
    invite, _dialog = await called(desk)
    desk.respond(invite, 180, "Ringing", tag="x")
    cancel = await desk.request("CANCEL")
    desk.respond(cancel, 200, "OK", tag="x")
    desk.respond(invite, 487, "Request Terminated", tag="x")
    await call.end()
    assert call.states == ["trying", "ringing", "no_answer"]


async def test_early_media_counts_as_ringing_and_the_call_goes_on(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, dialog = await called(desk)
    desk.respond(invite, 183, "Session Progress", desk.sdp(), tag=dialog.local_tag)
    assert (await call.until("ringing")).sip_status == 183
    await desk.rtp.send(audio_of(invite.body), tone(425, 0.5), PCMU)
    desk.respond(invite, 200, "OK", desk.sdp(), tag=dialog.local_tag)
    await call.until("answered")
    talk = await agent.next_call()
    sending = asyncio.create_task(desk.rtp.send(audio_of(invite.body), tone(440, 1.0), PCMU))
    assert peak_hz((await talk.hear(0.8))[-9600:]) == pytest.approx(440, abs=8)
    await sending
    await dialog.bye()
    assert (await call.end()).reason == "caller_hung_up"


async def test_a_reliable_provisional_answer_is_acknowledged(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, dialog = await called(desk)
    assert "100rel" in invite.header("Supported")
    reliable = ("Require: 100rel", "RSeq: 9021")
    desk.respond(invite, 180, "Ringing", tag=dialog.local_tag, headers=reliable)
    prack = await desk.request("PRACK")
    assert prack.header("RAck") == f"9021 {invite.cseq} INVITE"
    desk.respond(prack, 200, "OK")
    desk.respond(invite, 486, "Busy Here", tag=dialog.local_tag)
    assert call.states[-1:] == ["ringing"] or (await call.end())
    await call.end()
    assert call.states[-1] == "busy"


async def test_giving_up_before_the_answer_cancels(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, _dialog = await called(desk)
    desk.respond(invite, 180, "Ringing", tag="x")
    await call.until("ringing")
    call.give_up()
    cancel = await desk.request("CANCEL")
    desk.respond(cancel, 200, "OK", tag="x")
    desk.respond(invite, 487, "Request Terminated", tag="x")
    await desk.request("ACK")
    assert agent.taken == 0


async def test_an_answer_that_crosses_the_cancel_is_taken_back(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    call = dialler.dial(NUMBER)
    invite, _dialog = await called(desk)
    desk.respond(invite, 180, "Ringing", tag="x")
    await call.until("ringing")
    call.give_up()
    cancel = await desk.request("CANCEL")
    desk.respond(invite, 200, "OK", desk.sdp(), tag="x")
    desk.respond(cancel, 200, "OK", tag="x")
    await desk.request("ACK")
    await desk.request("BYE")
    assert agent.taken == 0


async def test_hanging_up_by_order(agent: FakeAgent, dialler: Dialler, desk: SipPeer) -> None:
    call = dialler.dial(NUMBER)
    invite, dialog = await called(desk)
    desk.respond(invite, 200, "OK", desk.sdp(), tag=dialog.local_tag)
    answered = await call.until("answered")
    await agent.next_call()
    await dialler.hang_up(answered.call_id)
    await desk.request("BYE")
    assert (await call.end()).state
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await dialler.hang_up(answered.call_id)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


DENIALS = (
    ("+4940123456", {}, "allow"),
    ("+881612345678", {}, "denied"),
    ("112", {}, "emergency"),
    (NUMBER, {"caller_id": "+4940123456"}, "caller id"),
    (NUMBER, {"trunks": ["unknown"]}, "no trunk"),
)
FORBIDDEN_HEADERS = ({"Subject": "x"}, {"X-A": "1\r\nFrom: <sip:x@y>"}, {"X-A:": "1"})


async def test_what_is_not_allowed_is_not_dialled(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    for number, request, why in DENIALS:
        call = dialler.dial(number, **request)
        end = await call.end()
        assert call.states == ["denied"]
        assert why in end.reason
    assert not desk.messages


async def test_an_order_cannot_write_other_headers(dialler: Dialler, desk: SipPeer) -> None:
    for headers in FORBIDDEN_HEADERS:
        call = dialler.dial(NUMBER, headers=headers)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.end()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not desk.messages


async def test_no_more_calls_are_placed_than_conversations_fit(
    agent: FakeAgent, dialler: Dialler, desk: SipPeer
) -> None:
    calls = []
    for _ in range(3):
        calls.append(dialler.dial(NUMBER))
        invite, dialog = await called(desk)
        desk.respond(invite, 200, "OK", desk.sdp(), tag=dialog.local_tag)
        await calls[-1].until("answered")
    one_more = dialler.dial(NUMBER)
    end = await one_more.end()
    assert (one_more.states, end.reason) == (["failed"], "every line is busy")
    for call in calls:
        await dialler.hang_up(call.events[0].call_id)
