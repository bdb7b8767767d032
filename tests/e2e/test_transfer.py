"""Blind transfer by REFER: allowed, refused, and asked for by the wrong side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from landline.agent.v1 import agent_pb2 as pb

from tests.fakes.tones import tone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sip_gateway.softphone import Softphone
    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

DESK = "sip:desk@127.0.0.1:9"


async def test_allowed_transfer_hands_the_caller_over(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip='transfer_allow = ["sip:desk@127.0.0.1:*"]')
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.play("announce", tone(500, 0.5))
    talk.transfer(DESK, after_playout=True)
    assert DESK in await asyncio.wait_for(call.transferred(), 5)
    ended = await talk.ended()
    assert (ended.result, ended.reason) == ("transferred", "transferred")
    assert talk.all("played")[-1].finished
    assert talk.all("transfer")[0].state == pb.TransferUpdated.STATE_TRYING
    assert await gateway.metric("landline_sip_transfers_total", outcome="accepted") == 1


@pytest.mark.parametrize(
    "target",
    ["sip:other@127.0.0.1:9", "sip:desk@192.0.2.1", "sip:desk@127.0.0.1:9?Replaces=x", "nonsense"],
)
async def test_transfer_that_is_not_allowed(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone, target: str
) -> None:
    gateway = await launch_gateway(sip='transfer_allow = ["sip:desk@127.0.0.1:*"]')
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.transfer(target)
    update = await talk.wait_for("transfer")
    assert (update.state, update.sip_status) == (pb.TransferUpdated.STATE_FAILED, 403)
    assert call.transfer_target is None
    await talk.hear(0.2)
    await call.hang_up()
    assert (await talk.ended()).result != "transferred"


async def test_an_emergency_number_goes_to_the_people_named_for_it(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(
        sip=f'country = "DE"\n[sip.dialling]\nemergency_route = "{DESK}"\n'
    )
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.transfer("tel:+49112")
    assert DESK in await asyncio.wait_for(call.transferred(), 5)
    assert (await talk.ended()).result == "transferred"
    assert gateway.logged("emergency_transfer")[0]["route"] == DESK


async def test_without_such_people_the_agent_is_told_that_it_was_an_emergency_number(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip='transfer_allow = ["tel:*", "sip:*"]')
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.transfer("sip:911@127.0.0.1:9")
    refused = await talk.wait_for("transfer")
    assert refused.emergency
    assert "no emergency_route is configured" in refused.reason
    talk.transfer("tel:+881612345678")
    denied = await talk.wait_for("transfer", lambda update: not update.emergency)
    assert "denied" in denied.reason
    assert call.transfer_target is None
    outcome = await gateway.metric("landline_sip_transfers_total", outcome="emergency_refused")
    assert outcome == 1
    await call.hang_up()
