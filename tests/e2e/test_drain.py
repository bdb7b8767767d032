"""A gateway that is told to stop: no new calls, time for the live ones, a goodbye, an end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from sip_gateway.softphone import CallRefusedError, PhoneState, Softphone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]


async def test_live_calls_finish_and_new_ones_are_told_to_come_back(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    gateway.drain()
    await gateway.wait_for_log("draining")
    with pytest.raises(CallRefusedError) as refused:
        await phone.dial(gateway.uri())
    assert refused.value.sip_status == 503
    await talk.hear(0.5)
    assert call.state is PhoneState.TALKING
    await call.hang_up()
    assert (await talk.ended()).reason == "caller_hung_up"
    assert await asyncio.wait_for(gateway.process.wait(), 5) == 0
    assert talk.all("closing") == []


async def test_past_the_limit_the_agent_says_goodbye_and_hangs_up(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip="drain_limit_s = 0.5")
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    gateway.drain()
    assert (await talk.wait_for("closing")).deadline_ms == 8000
    talk.play("goodbye", bytes(16_000))
    talk.hang_up("line_closing", after_playout=True)
    await asyncio.wait_for(call.ended(), 3)
    ended = await talk.ended()
    assert (ended.result, ended.reason) == ("completed", "line_closing")
    assert any(heard.finished for heard in talk.all("played"))
    assert await asyncio.wait_for(gateway.process.wait(), 5) == 0


async def test_an_agent_that_says_no_goodbye_is_not_waited_for(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip="drain_limit_s = 0")
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    gateway.drain()
    await asyncio.wait_for(call.ended(), 10)
    assert (await talk.ended()).reason == "gateway_stopped"
    assert await asyncio.wait_for(gateway.process.wait(), 5) == 0


async def test_a_second_signal_ends_it_now(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    gateway.drain()
    await gateway.wait_for_log("draining")
    gateway.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(call.ended(), 2)
    assert (await talk.ended()).reason == "gateway_stopped"
    assert await asyncio.wait_for(gateway.process.wait(), 5) == 0
