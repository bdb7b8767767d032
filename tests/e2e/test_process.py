"""The gateway as a process: wrong configuration, a port taken, a clean stop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.fakes.gateway_process import spawn_gateway, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess


async def rejected(folder: Path, sip: str, trunks: str | None = None) -> str:
    """Why the gateway would not start; its exit status must be 78."""
    gateway = await spawn_gateway(write_config(folder, agent="127.0.0.1:9", sip=sip, trunks=trunks))
    assert await asyncio.wait_for(gateway.process.wait(), 10) == 78
    reason = str((await gateway.wait_for_log("configuration_rejected"))["reason"])
    await gateway.kill()
    return reason


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
async def test_port_taken(tmp_path: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            other.listen()
        port = other.getsockname()[1]
        reason = await rejected(tmp_path, f'listen = "127.0.0.1:{port}"')
    assert f"127.0.0.1:{port}" in reason
    assert "in use" in reason


async def test_wrong_key_is_named_with_a_suggestion(tmp_path: Path) -> None:
    assert "did you mean 'recording'" in await rejected(tmp_path, "recordings = true")


async def test_metrics_port_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = write_config(tmp_path, agent="127.0.0.1:9")
        text = config.read_text(encoding="utf-8")
        port = other.getsockname()[1]
        config.write_text(text.replace('"127.0.0.1:0"\n\n[[', f'"127.0.0.1:{port}"\n\n[['))
        gateway = await spawn_gateway(config)
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 78
        await gateway.kill()
    assert "metrics" in gateway.logged("configuration_rejected")[0]["reason"]


async def test_idle_stop_is_quick_and_clean(agent: FakeAgent, gateway: GatewayProcess) -> None:
    begin = asyncio.get_running_loop().time()
    assert await gateway.stop() == 0
    assert asyncio.get_running_loop().time() - begin < 2
