"""Fixtures for a module whose tests share one gateway, so that it is started once.

    globals().update(shared.fixtures(sip="..."))
    pytestmark = shared.ONE_LOOP

Each test finds an agent without calls, and leaves a gateway without calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from sip_gateway.softphone import Softphone
from tests.fakes.agent import FakeAgent
from tests.fakes.gateway_process import GatewayProcess, start_gateway, write_config
from tests.fakes.sip_peer import SipPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ONE_LOOP = pytest.mark.asyncio(loop_scope="module")


def fixtures(*, sip: str = "", trunks: str | None = None) -> dict[str, object]:
    """`agent`, `gateway`, `peer`, `desk` (another peer) and `phone`, by these names.

    `{desk}` in `trunks` stands for the port of `desk`.
    """

    @pytest_asyncio.fixture(scope="module", loop_scope="module", name="agent")
    async def agent() -> AsyncIterator[FakeAgent]:
        server = FakeAgent()
        await server.start()
        yield server
        await server.stop()

    @pytest_asyncio.fixture(scope="module", loop_scope="module", name="desk")
    async def desk() -> AsyncIterator[SipPeer]:
        async with SipPeer() as user_agent:
            yield user_agent

    @pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
    async def gateway(
        tmp_path_factory: pytest.TempPathFactory, agent: FakeAgent, desk: SipPeer
    ) -> AsyncIterator[GatewayProcess]:
        config = write_config(
            tmp_path_factory.mktemp("gateway"),
            agent=f"127.0.0.1:{agent.port}",
            sip=sip,
            trunks=None if trunks is None else trunks.replace("{desk}", str(desk.port)),
        )
        process = await start_gateway(config)
        yield process
        assert await process.stop() == 0, process.stray
        assert not process.stray

    @pytest_asyncio.fixture(loop_scope="module", name="peer")
    async def peer() -> AsyncIterator[SipPeer]:
        async with SipPeer() as user_agent:
            yield user_agent

    @pytest_asyncio.fixture(loop_scope="module", name="phone")
    async def phone() -> AsyncIterator[Softphone]:
        async with Softphone() as softphone:
            yield softphone

    @pytest_asyncio.fixture(loop_scope="module", name="_clean", autouse=True)
    async def clean(
        agent: FakeAgent, desk: SipPeer, gateway: GatewayProcess
    ) -> AsyncIterator[None]:
        agent.forget()
        desk.forget()
        yield
        await gateway.wait_for_metric("landline_sip_active_calls", 0)

    made = (agent, desk, gateway, peer, phone, clean)
    return {f"shared_{number}": fixture for number, fixture in enumerate(made)}
