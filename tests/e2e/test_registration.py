"""Registration at a real Kamailio with digest, and what happens when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sip_gateway.softphone import Softphone
from tests.fakes.kamailio import Kamailio, free_port
from tests.fakes.tones import tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

PASSWORD = "correct horse"


@pytest.fixture
async def registrar(tmp_path: Path) -> AsyncIterator[Kamailio]:
    server = Kamailio(tmp_path, password=PASSWORD)
    await server.start()
    yield server
    await server.stop()


def trunk(folder: Path, port: int, *, password: str = PASSWORD, transport: str = "udp") -> str:
    """A trunk that registers extension 600."""
    secret = folder / "secret"
    secret.write_text(password + "\n", encoding="utf-8")
    return (
        '[[sip.trunks]]\nname = "pbx"\nkind = "registration"\nusername = "600"\n'
        f'registrar = "127.0.0.1:{port}"\ntransport = "{transport}"\nagent = "clinic"\n'
        f'password = {{ file = "{secret}" }}\n'
    )


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_call_by_way_of_the_registrar(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    registrar: Kamailio,
    phone: Softphone,
    tmp_path: Path,
    transport: str,
) -> None:
    gateway = await launch_gateway(trunks=trunk(tmp_path, registrar.port, transport=transport))
    await gateway.wait_for_log("registered")
    assert await gateway.metric("landline_sip_registered", trunk="pbx") == 1
    call = await phone.dial(registrar.uri("600"))
    talk = await agent.next_call()
    assert (talk.started.trunk, talk.started.agent) == ("pbx", "clinic")
    assert talk.started.callee == "600"
    call.play(tone(440, 1.0))
    assert len(await talk.hear(0.5)) == 16_000
    await call.hang_up()
    assert (await talk.ended()).reason == "caller_hung_up"
    assert await gateway.stop() == 0
    await registrar.wait_for_line("expires 0")


async def test_wrong_password_is_told_and_retried(
    agent: FakeAgent, launch_gateway: LaunchGateway, registrar: Kamailio, tmp_path: Path
) -> None:
    gateway = await launch_gateway(
        trunks=trunk(tmp_path, registrar.port, password="wrong")
        + '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.0/8"]\n'
    )
    failure = await gateway.wait_for_log("registration_failed")
    assert "username or password" in failure["reason"]
    assert failure["trunk"] == "pbx"
    assert "wrong" not in str(gateway.log)
    assert await gateway.metric("landline_sip_registered", trunk="pbx") == 0
    await gateway.wait_for_metric(
        "landline_sip_registration_failures_total", 2, trunk="pbx", sip_status="401"
    )
    async with Softphone() as phone:
        await phone.dial(gateway.uri())
        await agent.next_call()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_unreachable_registrar_does_not_stop_the_gateway(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    phone: Softphone,
    tmp_path: Path,
    transport: str,
) -> None:
    gateway = await launch_gateway(trunks=trunk(tmp_path, free_port(), transport=transport))
    failure = await gateway.wait_for_log("registration_failed")
    assert failure["registrar"].startswith("127.0.0.1:")
    assert "registrar" in failure["reason"]
    await phone.dial(gateway.uri("600"))
    await agent.next_call()
