"""A real gateway process, an agent that the test drives, and a softphone to call with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sip_gateway.softphone import Softphone
from tests.fakes.agent import FakeAgent
from tests.fakes.gateway_process import GatewayProcess, start_gateway, write_config
from tests.fakes.sip_peer import SipPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    """An agent that takes every call and does what the test says."""
    server = FakeAgent()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def launch_gateway(
    tmp_path: Path, agent: FakeAgent
) -> AsyncIterator[Callable[..., Awaitable[GatewayProcess]]]:
    """Start gateways: `await launch_gateway(sip='...', trunks='...')`."""
    started: list[GatewayProcess] = []

    async def launch(
        *, sip: str = "", trunks: str | None = None, log_level: str = "info"
    ) -> GatewayProcess:
        config = write_config(
            tmp_path,
            agent=f"127.0.0.1:{agent.port}",
            sip=sip,
            trunks=trunks,
            log_level=log_level,
        )
        gateway = await start_gateway(config)
        started.append(gateway)
        return gateway

    yield launch
    for gateway in started:
        if gateway.process.returncode is None:
            assert await gateway.stop() == 0, gateway.stray
        assert not gateway.stray


@pytest.fixture
async def gateway(launch_gateway: Callable[..., Awaitable[GatewayProcess]]) -> GatewayProcess:
    """One gateway that takes calls from 127.0.0.1."""
    return await launch_gateway()


@pytest.fixture
async def phone() -> AsyncIterator[Softphone]:
    """A softphone in this process: UDP, PCMU."""
    async with Softphone() as softphone:
        yield softphone


@pytest.fixture
async def peer() -> AsyncIterator[SipPeer]:
    """A user agent on bare sockets, which sends what the test says."""
    async with SipPeer() as user_agent:
        yield user_agent
