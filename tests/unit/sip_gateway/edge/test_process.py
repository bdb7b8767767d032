"""The real Kamailio, started, killed and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.addresses import HostPort
from services.common.errors import LandlineError
from sip_gateway.edge.config import EdgeConfig
from sip_gateway.edge.keeper import EdgeKeeper
from sip_gateway.edge.plan import EdgePlan, EdgeTrunk
from sip_gateway.edge.process import EdgeProcess
from sip_gateway.edge.render import RPC_SOCKET
from sip_gateway.edge.rpc import EdgeRpc, EdgeRpcError
from sip_gateway.trunks.resolving import Resolver
from sip_gateway.trunks.trunk import Server, Transport, TrunkKind


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def edge_plan(folder: Path) -> EdgePlan:
    outside = HostPort("127.0.0.1", free_port())
    return EdgePlan(
        config=EdgeConfig(),
        outside=outside,
        advertised=outside,
        inside=HostPort("127.0.0.1", free_port()),
        transports=(Transport.UDP,),
        trunks=(),
        workers=1,
        slots=3,
        folder=folder,
    )


async def test_a_killed_edge_is_stopped_with_all_its_processes(tmp_path: Path) -> None:
    plan = edge_plan(tmp_path)
    edge = EdgeProcess(plan)
    await edge.start((), {}, draining=False)
    os.kill(edge.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await edge.stop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(plan.outside)  # nobody holds it any more


async def test_an_edge_that_ends_after_a_steady_time_is_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sip_gateway.edge.keeper._STEADY_AFTER_S", 0.0)
    keeper = EdgeKeeper(edge_plan(tmp_path), list, Resolver([]))
    await keeper.start()
    try:
        first = keeper.pid
        os.killpg(first, signal.SIGKILL)
        async with asyncio.timeout(3):
            while keeper.pid in (0, first):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await keeper.stop()


class DeafRpc(EdgeRpc):
    """Gets no answer to the last question of a start."""

    async def call(self, method: str, *parameters: str | int) -> Any:
        if method == "corex.debug":
            raise EdgeRpcError("late")
        return await super().call(method, *parameters)


async def test_an_edge_that_falls_silent_in_its_start_is_not_left_running(tmp_path: Path) -> None:
    plan = edge_plan(tmp_path)
    edge = EdgeProcess(plan)
    edge.rpc = DeafRpc(tmp_path / RPC_SOCKET)
    with pytest.raises(LandlineError, match="did not come up"):
        await edge.start((), {}, draining=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(plan.outside)


async def test_an_edge_that_starts_while_draining_has_nothing_to_register(tmp_path: Path) -> None:
    trunk = EdgeTrunk(
        key="trunk1",
        name="pbx",
        kind=TrunkKind.REGISTRATION,
        username="600",
        password="secret",
        registrar=Server("127.0.0.1", free_port()),
    )
    edge = EdgeProcess(replace(edge_plan(tmp_path), trunks=(trunk,)))
    await edge.start((), {}, draining=True)
    try:
        await asyncio.sleep(2.5)  # the module reads its table after the start
        assert await edge.rpc.call("uac.reg_dump") == []
    finally:
        await edge.stop()
