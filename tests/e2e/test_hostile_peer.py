"""What a peer that may call us writes into its messages, and what an agent says, harms no call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fakes.sip_peer import SipPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

LONG_NAME = "a" * 300


class RewritingPeer(SipPeer):
    """Sends each header line as `rewrite` makes it."""

    rewrite: Callable[[str], str] = staticmethod(str)

    def transmit(
        self, lines: list[str], body: str, content_type: str, *, to: tuple[str, int]
    ) -> None:
        super().transmit([self.rewrite(line) for line in lines], body, content_type, to=to)


@pytest.fixture
async def peer() -> AsyncIterator[RewritingPeer]:
    async with RewritingPeer() as made:
        yield made


async def test_a_name_that_is_too_long_to_be_resolved_ends_no_call(
    agent: FakeAgent, gateway: GatewayProcess, peer: RewritingPeer
) -> None:
    """PJSIP's resolver ends the process over names of 254 characters and more."""
    innocent = peer.dialog(gateway.uri())
    inviting = asyncio.create_task(innocent.invite(peer.sdp()))
    talk = await agent.next_call()
    assert (await inviting).status == 200

    peer.rewrite = lambda line: line.replace(";rport", f";maddr={LONG_NAME}")
    peer.dialog(gateway.uri()).send("OPTIONS")
    await gateway.wait_for_log("name_not_resolved")
    gateway.log.clear()
    peer.rewrite = lambda line: (
        f"Contact: <sip:x@{LONG_NAME}>" if line.startswith("Contact:") else line
    )
    inviting = asyncio.create_task(peer.dialog(gateway.uri()).invite(peer.sdp()))
    other = await agent.next_call()
    assert (await inviting).status == 200
    other.hang_up()  # a BYE to that Contact
    assert (await other.ended()).reason == "goodbye"
    await gateway.wait_for_log("name_not_resolved")

    peer.rewrite = str
    assert gateway.process.returncode is None
    await innocent.bye()
    assert (await talk.ended()).reason == "caller_hung_up"


async def test_an_agents_reason_stays_within_its_header(
    agent: FakeAgent, gateway: GatewayProcess, peer: RewritingPeer
) -> None:
    dialog = peer.dialog(gateway.uri())
    inviting = asyncio.create_task(dialog.invite(peer.sdp()))
    talk = await agent.next_call()
    await inviting
    talk.hang_up(reason='said "bye"\r\nX-Evil: 1')
    bye = await peer.request("BYE")
    assert bye.header("Reason") == 'SIP;cause=200;text="said \\"bye\\"  X-Evil: 1"'
    assert not bye.header("X-Evil")


async def test_our_own_wake_ups_pass_the_filter(launch_gateway: LaunchGateway) -> None:
    """Else each command would wait for the end of PJSIP's sleep, and count as a stranger's."""
    gateway = await launch_gateway(
        trunks='[[sip.trunks]]\nname = "far"\nkind = "peer"\nallow = ["192.0.2.1/32"]\n'
    )
    assert await gateway.stop() == 0
    assert not gateway.logged("strangers_dropped")


async def test_a_call_that_ends_before_its_ack_is_hung_up_when_that_comes(
    agent: FakeAgent, gateway: GatewayProcess, peer: RewritingPeer
) -> None:
    """A lost ACK delays it: the caller must not be left in a call that nobody serves."""
    dialog = peer.dialog(gateway.uri())
    inviting = asyncio.create_task(dialog.ask("INVITE", peer.sdp()))
    talk = await agent.next_call()
    answer = await inviting
    talk.hang_up()
    await gateway.wait_for_metric("landline_sip_active_calls", 0)
    dialog.ack(answer)
    await peer.request("BYE")
