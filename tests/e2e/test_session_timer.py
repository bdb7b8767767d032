"""Session timers (RFC 4028) over their whole time: refreshed by us, by them, and by nobody."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fakes.sip_peer import SipPeer
from tests.fakes.talk import Talk, call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

QUIET = "[sip.media]\nrtp_timeout_s = 0\n"  # these callers say nothing for minutes
NINETY = "Session-Expires: 90;refresher={}"


async def timed_call(
    peer: SipPeer, gateway: GatewayProcess, agent: FakeAgent, refresher: str
) -> Talk:
    dialog = peer.dialog(gateway.uri())
    timer = (NINETY.format(refresher), "Supported: timer")
    answer = await dialog.invite(peer.sdp(), headers=timer)
    assert f"refresher={refresher}" in answer.header("Session-Expires").replace(" ", "")
    return Talk(dialog, answer, await agent.next_call())


async def answered_refresh(talk: Talk, within_s: float) -> float:
    """When our refresh came, in seconds from now; it is answered."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    invite = await talk.peer.request("INVITE", timeout_s=within_s)
    came = loop.time() - begin
    expires = f"Session-Expires: {invite.header('Session-Expires')}"
    talk.peer.respond(invite, 200, "OK", talk.peer.sdp(), headers=(expires, "Require: timer"))
    await talk.peer.request("ACK")
    return came


async def refreshed_by_us(talk: Talk) -> None:
    for _ in range(2):
        assert 40 <= await answered_refresh(talk, 60) <= 50
    await talk.still_talks()
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def refreshed_by_them(talk: Talk) -> None:
    for _ in range(2):
        await asyncio.sleep(45)
        timer = (NINETY.format("uac"), "Supported: timer")
        answer = await talk.dialog.ask("UPDATE", headers=timer)
        assert answer.status == 200
    await asyncio.sleep(5)
    await talk.still_talks()
    await talk.dialog.bye()
    assert (await talk.agent.ended()).reason == "caller_hung_up"


async def refreshed_by_nobody(talk: Talk) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await talk.peer.request("BYE", timeout_s=100)
    assert 55 <= loop.time() - begin <= 95  # a third of the interval early, at most 32 s (10)
    await talk.agent.ended()


@pytest.mark.slow
async def test_two_refreshes_at_ninety_seconds_and_the_end_of_who_has_vanished(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    """Three calls at once, for they last as long as they last."""
    gateway = await launch_gateway(sip=QUIET)
    async with SipPeer() as one, SipPeer() as two, SipPeer() as three:
        ours = await timed_call(one, gateway, agent, "uas")
        theirs = await timed_call(two, gateway, agent, "uac")
        vanished = await timed_call(three, gateway, agent, "uac")
        async with asyncio.TaskGroup() as group:
            group.create_task(refreshed_by_us(ours))
            group.create_task(refreshed_by_them(theirs))
            group.create_task(refreshed_by_nobody(vanished))
    await gateway.wait_for_metric("landline_sip_active_calls", 0)


@pytest.mark.long
async def test_thirty_one_minutes_of_one_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    """Half an hour is where forgotten session timers and NAT bindings end calls."""
    dialog = peer.dialog(gateway.uri())
    timer = ("Session-Expires: 1800;refresher=uas", "Supported: timer")
    answer = await dialog.invite(peer.sdp(), headers=timer)
    talk = Talk(dialog, answer, await agent.next_call())
    loop = asyncio.get_running_loop()
    begin = loop.time()
    refreshes = asyncio.create_task(_answer_refreshes(talk))
    while loop.time() - begin < 31 * 60:
        await talk.still_talks()
        await asyncio.sleep(10)
    refreshes.cancel()
    assert len(peer.received("INVITE")) >= 2
    await dialog.bye()
    ended = await talk.agent.ended()
    assert ended.reason == "caller_hung_up"
    assert ended.duration_ms >= 31 * 60 * 1000


async def _answer_refreshes(talk: Talk) -> None:
    while True:
        await answered_refresh(talk, 2000)


async def test_a_call_without_session_timer_has_none(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    talk = await call(peer, gateway, agent)
    assert not talk.answer.header("Session-Expires")
    await talk.dialog.bye()
