"""Who a call belongs to: trunks by address, numbers, headers, and the edge's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.sip_peer import SipPeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

PEER = '[[sip.trunks]]\nname = "carrier"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
DIDS = (
    '[[sip.trunks.dids]]\nnumber = "+4930901820"\nagent = "clinic"\nregion = "berlin"\n'
    '[[sip.trunks.dids]]\nnumber = "+4940*"\nagent = "shop"\n'
)


@pytest.mark.parametrize(
    ("source", "user", "headers"),
    [
        ("r-uri", "030901820", ()),
        ("to", "030901820", ()),
        ("p-called-party-id", "x", ("P-Called-Party-ID: <sip:+4930901820@carrier.example>",)),
        ("diversion", "x", ("Diversion: <tel:+4930901820>;reason=unconditional",)),
    ],
)
async def test_a_dialled_number_chooses_agent_and_region(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    peer: SipPeer,
    source: str,
    user: str,
    headers: tuple[str, ...],
) -> None:
    gateway = await launch_gateway(
        sip='country = "DE"', trunks=f'{PEER}did_from = "{source}"\n{DIDS}'
    )
    dialog = peer.dialog(gateway.uri(user), user="0301234567")
    await dialog.invite(peer.sdp(), headers=headers)
    started = (await agent.next_call()).started
    assert (started.callee, started.agent, started.region) == ("+4930901820", "clinic", "berlin")
    assert started.caller == "+49301234567"
    await dialog.bye()


async def test_a_number_that_nobody_answers_gets_404(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    gateway = await launch_gateway(trunks=PEER + DIDS)
    answer = await peer.dialog(gateway.uri("+4989123456")).invite(peer.sdp())
    assert answer.status == 404
    assert (await gateway.wait_for_log("call_refused"))["reason"] == "unknown_number"
    assert agent.taken == 0


async def test_the_agent_sees_the_headers_that_carriers_add(
    agent: FakeAgent, gateway: GatewayProcess, peer: SipPeer
) -> None:
    sent = {
        "X-Account": "42",
        "Diversion": "<sip:+4930901820@carrier.example>;reason=user-busy",
        "P-Asserted-Identity": '"Ann" <sip:+49301234567@carrier.example>',
    }
    dialog = peer.dialog(gateway.uri())
    headers = (*(f"{name}: {value}" for name, value in sent.items()), "Authorization: Digest x")
    await dialog.invite(peer.sdp(), headers=headers)
    assert dict((await agent.next_call()).started.headers) == sent
    await dialog.bye()


async def test_the_edge_is_believed_about_the_trunk_and_nobody_else_is(
    agent: FakeAgent, launch_gateway: LaunchGateway, peer: SipPeer
) -> None:
    told = ("X-Landline-Trunk: carrier", "X-Landline-Source: 198.51.100.7:5060")
    gateway = await launch_gateway(
        sip=f'edge_proxy = "127.0.0.1:{peer.port}"',
        trunks=PEER.replace("127.0.0.1/32", "198.51.100.0/24"),
    )
    async with SipPeer() as stranger:
        answer = await stranger.dialog(gateway.uri()).invite(stranger.sdp(), headers=told)
        assert answer.status == 403
    dialog = peer.dialog(gateway.uri())
    await dialog.invite(peer.sdp(), headers=told)
    started = (await agent.next_call()).started
    assert started.trunk == "carrier"
    assert not started.headers
    assert gateway.logged("call_offered")[0]["source"] == "198.51.100.7"
    await dialog.bye()
