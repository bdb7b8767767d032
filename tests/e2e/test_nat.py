"""Address translation between caller and gateway, both ways round: real NAT, real sound.

Each test builds its own internet of network namespaces (tests/fakes/network.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.addresses import HostPort
from services.common.config import Secret
from sip_gateway.nat.config import Nat, Turn
from sip_gateway.softphone import Softphone, SoftphoneCall
from tests.fakes.agent import FakeAgent, FakeCall
from tests.fakes.coturn import PASSWORD, PORT, USER, Coturn
from tests.fakes.gateway_process import ROOT, GatewayProcess, start_gateway, write_config
from tests.fakes.kamailio import Kamailio
from tests.fakes.network import Namespace, Network, missing
from tests.fakes.raw_caller import RawCaller, RtpSocket
from tests.fakes.tones import peak_hz, tone

INSIDE_A_USER_NAMESPACE = "LANDLINE_TEST_USER_NAMESPACE"
REASON = missing()
PRIVATE = "10.7.0.0/24"
PBX_PASSWORD = "extension"
CALLER_HZ, AGENT_HZ = 440, 1000

needs_namespaces = pytest.mark.skipif(bool(REASON), reason=REASON)


if REASON:

    def test_all_of_this_in_a_user_namespace() -> None:
        """Without root: the same tests once more, as root of a user namespace."""
        if shutil.which("unshare") is None:
            pytest.skip("unshare is missing: apt install util-linux")
        unshare = ("unshare", "--user", "--net", "--map-root-user")
        trial = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
        if trial.returncode:
            pytest.skip(f"{REASON}; and no user namespaces: {trial.stderr.strip()}")
        assert INSIDE_A_USER_NAMESPACE not in os.environ, REASON
        done = subprocess.run(
            [*unshare, sys.executable, "-m", "pytest", "-q", "-m", "not slow", str(Path(__file__))],
            env={**os.environ, INSIDE_A_USER_NAMESPACE: "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]


class World:
    """The network of one test and what runs in it; `stop` ends it all."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.agent = FakeAgent()
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()

    async def gateway(self, host: Namespace, *, sip: str = "", trunks: str) -> GatewayProcess:
        """A gateway and its agent on `host`."""
        with host.entered():
            await self.agent.start()
            listen = f'listen = "{host.ip}:5060"\nrtp_ports = "20000-20063"\n'
            config = write_config(
                self._folder,
                agent=f"127.0.0.1:{self.agent.port}",
                sip=listen + sip,
                trunks=trunks,
            )
            gateway = await start_gateway(config)
        self._stack.push_async_callback(self.agent.stop)
        # A supervisor has to end what it started; one process may just go.
        self._stack.push_async_callback(gateway.stop if "calls =" in sip else gateway.kill)
        return gateway

    async def phone(self, host: Namespace, **settings: Any) -> Softphone:
        phone = Softphone(listen=HostPort(host.ip, 0), **settings)
        with host.entered():  # its thread, and with it every socket, lives there
            return await self._stack.enter_async_context(phone)

    async def coturn(self, host: Namespace) -> Coturn:
        server = Coturn(self._folder, host)
        self._stack.push_async_callback(server.stop)
        await server.start()
        return server

    async def pbx(self, host: Namespace) -> Kamailio:
        server = Kamailio(self._folder, password=PBX_PASSWORD, host=host)
        self._stack.push_async_callback(server.stop)
        await server.start()
        return server

    def extension(self, registrar: Namespace) -> str:
        """A trunk that registers 600 there."""
        secret = self._folder / "secret"
        secret.write_text(PBX_PASSWORD)
        return (
            '[[sip.trunks]]\nname = "pbx"\nkind = "registration"\nusername = "600"\n'
            f'registrar = "{registrar.ip}:5060"\npassword = {{ file = "{secret}" }}\n'
            "internet = true\n"
        )

    def turn(self, server: Namespace) -> Nat:
        secret = self._folder / "turn-password"
        secret.write_text(PASSWORD)
        return Nat(
            ice=True,
            stun=[HostPort(server.ip, PORT)],
            turn=Turn(
                server=HostPort(server.ip, PORT), username=USER, password=Secret(file=secret)
            ),
        )

    def turn_toml(self, server: Namespace) -> str:
        secret = self._folder / "turn-password"
        secret.write_text(PASSWORD)
        return (
            f'[sip.nat]\nice = true\nstun = ["{server.ip}:{PORT}"]\n'
            f'[sip.nat.turn]\nserver = "{server.ip}:{PORT}"\nusername = "{USER}"\n'
            f'password = {{ file = "{secret}" }}\n'
        )

    async def stop(self) -> None:
        await self._stack.aclose()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as net:
        yield net


@pytest.fixture
async def world(network: Network, tmp_path: Path) -> AsyncIterator[World]:
    one = World(network, tmp_path)
    yield one
    await one.stop()


def peer(*networks: str) -> str:
    listed = ", ".join(f'"{network}"' for network in networks)
    return f'[[sip.trunks]]\nname = "callers"\nkind = "peer"\nallow = [{listed}]\n'


async def both_hear_each_other(call: SoftphoneCall, talk: FakeCall) -> None:
    """A second of sound each way, after the first moments."""
    call.play(tone(CALLER_HZ, 4.0))
    talk.play("speech", tone(AGENT_HZ, 4.0))
    await talk.hear(0.6)
    heard, spoken = await asyncio.gather(listen(call, 1.0), talk.hear(1.0))
    assert peak_hz(spoken) == pytest.approx(CALLER_HZ, abs=5)
    assert peak_hz(heard) == pytest.approx(AGENT_HZ, abs=5)


async def listen(call: SoftphoneCall, seconds: float) -> bytes:
    heard = bytearray()
    async with asyncio.timeout(seconds + 3):
        async for frame in call.frames():
            heard += frame.pcm
            if len(heard) >= seconds * 32_000:
                break
    return bytes(heard)


@needs_namespaces
@pytest.mark.parametrize("symmetric", [False, True])
async def test_a_caller_behind_nat_calls_a_public_gateway(world: World, symmetric: bool) -> None:
    """The caller knows nothing of its NAT: it signals private addresses everywhere."""
    router = world.network.router("home", 1, PRIVATE, random_ports=symmetric)
    gateway = await world.gateway(world.network.public("gateway", 10), trunks=peer("203.0.113.1"))
    phone = await world.phone(router.host("phone", 2))
    call = await phone.dial(gateway.uri("agent"))
    talk = await world.agent.next_call()
    await both_hear_each_other(call, talk)
    assert gateway.logged("rtp_source")[-1]["source"].startswith("203.0.113.1:")

    talk.hold(True)  # a re-INVITE, its answer and its ACK find their way back
    await until(lambda: str(call.state) == "held")
    talk.hold(False)
    await until(lambda: str(call.state) == "talking")
    talk.hang_up("goodbye")
    await asyncio.wait_for(call.ended(), 5)


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@needs_namespaces
async def test_a_gateway_behind_nat_with_a_public_address(world: World) -> None:
    """The router forwards the ports, as a telecom admin would have it."""
    router = world.network.router("office", 1, PRIVATE)
    host = router.host("gateway", 10)
    router.forward("5060", host)
    router.forward("20000-20063", host)
    server, outside = world.network.public("pbx", 20), world.network.public("phone", 30)
    pbx = await world.pbx(server)
    gateway = await world.gateway(
        host,
        sip='nat = { public_address = "203.0.113.1" }',
        trunks=world.extension(server) + peer("203.0.113.30"),
    )
    await gateway.wait_for_log("registered")
    phone = await world.phone(outside)
    for uri in (pbx.uri("600"), "sip:600@203.0.113.1:5060"):
        call = await phone.dial(uri)
        talk = await world.agent.next_call()
        await both_hear_each_other(call, talk)
        talk.hang_up("goodbye")
        await asyncio.wait_for(call.ended(), 5)


@needs_namespaces
async def test_an_edge_between_callers_behind_nat_and_workers_behind_nat(world: World) -> None:
    """Two workers and the edge behind a forwarding router; the caller behind one of its own."""
    office = world.network.router("office", 1, PRIVATE)
    home = world.network.router("home", 2, "10.8.0.0/24", random_ports=True)
    host = office.host("gateway", 10)
    office.forward("5060", host)
    office.forward("20000-20063", host)
    gateway = await world.gateway(
        host,
        sip='calls = 6\nnat = { public_address = "203.0.113.1" }\n',
        trunks=peer("203.0.113.2"),
    )
    phone = await world.phone(home.host("phone", 2))
    call = await phone.dial("sip:agent@203.0.113.1:5060")
    talk = await world.agent.next_call()
    assert talk.started.trunk == "callers"
    await both_hear_each_other(call, talk)
    talk.hold(True)
    await until(lambda: str(call.state) == "held")
    talk.hold(False)
    await until(lambda: str(call.state) == "talking")
    await both_hear_each_other(call, talk)
    talk.hang_up("goodbye")
    await asyncio.wait_for(call.ended(), 5)
    assert gateway.logged("rtp_source")[0]["source"].startswith("203.0.113.2:")
    assert gateway.logged("sip_alg_damage") == []


@needs_namespaces
async def test_a_gateway_behind_nat_with_stun(world: World) -> None:
    """Nothing is forwarded: what goes out opens the way in."""
    router = world.network.router("office", 1, PRIVATE)
    server, outside = world.network.public("server", 20), world.network.public("phone", 30)
    pbx = await world.pbx(server)
    coturn = await world.coturn(server)
    gateway = await world.gateway(
        router.host("gateway", 10),
        sip=f'nat = {{ stun = ["{server.ip}:{PORT}"] }}',
        trunks=world.extension(server),
    )
    await gateway.wait_for_log("registered")
    phone = await world.phone(outside)
    call = await phone.dial(pbx.uri("600"))
    talk = await world.agent.next_call()
    await both_hear_each_other(call, talk)
    talk.hang_up("goodbye")
    await asyncio.wait_for(call.ended(), 5)
    await gateway.wait_for_log("stun_answers")
    assert "BINDING" in coturn.log.upper()


@needs_namespaces
async def test_ice_finds_the_way_between_two_private_networks(world: World) -> None:
    """Neither side has a public address of its own; both ask STUN."""
    home = world.network.router("home", 1, PRIVATE)
    office = world.network.router("office", 2, "10.8.0.0/24")
    server = world.network.public("server", 20)
    pbx = await world.pbx(server)
    await world.coturn(server)
    ice = f'ice = true\nstun = ["{server.ip}:{PORT}"]\n'
    gateway = await world.gateway(
        office.host("gateway", 10),
        sip=f"[sip.nat]\n{ice}",
        trunks=world.extension(server),
    )
    await gateway.wait_for_log("registered")
    messages = Messages()
    phone = await world.phone(
        home.host("phone", 2),
        nat=Nat(ice=True, stun=[HostPort(server.ip, PORT)]),
        on_message=messages,
    )
    call = await phone.dial(pbx.uri("600"))
    talk = await world.agent.next_call()
    await both_hear_each_other(call, talk)
    assert "typ srflx raddr 10.8.0.10" in messages.received
    assert "typ relay" not in messages.received


@needs_namespaces
async def test_a_relay_carries_what_cannot_go_directly(world: World) -> None:
    """Both firewalls let UDP through to the server alone: only TURN is left."""
    home = world.network.router("home", 1, PRIVATE, random_ports=True)
    office = world.network.router("office", 2, "10.8.0.0/24", random_ports=True)
    server = world.network.public("server", 20)
    pbx = await world.pbx(server)
    coturn = await world.coturn(server)
    gateway = await world.gateway(
        office.host("gateway", 10),
        sip=world.turn_toml(server),
        trunks=world.extension(server),
    )
    await gateway.wait_for_log("registered")
    for router in (home, office):
        router.only_through(server)
    messages = Messages()
    phone = await world.phone(home.host("phone", 2), nat=world.turn(server), on_message=messages)
    call = await phone.dial(pbx.uri("600"))
    talk = await world.agent.next_call()
    await both_hear_each_other(call, talk)
    assert f"{server.ip} 40" in messages.received  # a relayed candidate of the gateway
    assert "typ relay" in messages.received
    assert "ALLOCATE processed, success" in coturn.log
    assert PASSWORD not in str(gateway.log)


@needs_namespaces
@pytest.mark.parametrize("keepalive_s", [1, 0])
async def test_keepalives_hold_the_way_in_open(world: World, keepalive_s: int) -> None:
    """The NAT forgets after two silent seconds; without keepalives the call does not arrive."""
    router = world.network.router("office", 1, PRIVATE)
    router.forget_silent_after(2)
    server, outside = world.network.public("pbx", 20), world.network.public("phone", 30)
    pbx = await world.pbx(server)
    gateway = await world.gateway(
        router.host("gateway", 10),
        sip=f"nat = {{ keepalive_s = {keepalive_s} }}",
        trunks=world.extension(server),
    )
    await gateway.wait_for_log("registered")
    phone = await world.phone(outside)
    await asyncio.sleep(3.5)
    if keepalive_s:
        call = await phone.dial(pbx.uri("600"))
        await both_hear_each_other(call, await world.agent.next_call())
        return
    call = await phone.place(pbx.uri("600"))
    await asyncio.sleep(1.5)
    assert gateway.logged("call_offered") == []
    await call.hang_up()


class Messages:
    """What a softphone received."""

    def __init__(self) -> None:
        self.received = ""

    def __call__(self, sent: bool, _peer: str, text: str) -> None:
        self.received += "" if sent else text


@needs_namespaces
async def test_half_rewritten_signalling_is_named_once(world: World) -> None:
    """A router's SIP helper has put its own address into Via and SDP, but not into Contact."""
    gateway = await world.gateway(world.network.public("gateway", 10), trunks=peer("203.0.113.1"))
    outside = world.network.public("router", 1)
    for _call in range(2):
        with outside.entered():
            rtp = await RtpSocket.open(outside.ip)
            caller = RawCaller(rtp, ip=outside.ip)
        caller.contact = "192.168.1.20:5060"
        await caller.dial(gateway.address)
        await world.agent.next_call()
        await caller.bye()
        caller.close()
    (told,) = gateway.logged("sip_alg_damage")
    assert told["damage"] == "signalling_half_rewritten"
    assert told["evidence"] == "Via 203.0.113.1 and SDP 203.0.113.1, but Contact 192.168.1.20"
    assert (told["trunk"], told["source"]) == ("callers", "203.0.113.1")


@pytest.mark.slow
@needs_namespaces
async def test_a_stun_server_that_is_silent_is_told(world: World) -> None:
    """The gateway starts and takes calls; the log says what is wrong."""
    host, outside = world.network.public("gateway", 10), world.network.public("phone", 30)
    nobody = world.network.public("nobody", 20)
    gateway = await world.gateway(
        host, sip=f'nat = {{ stun = ["{nobody.ip}:{PORT}"] }}', trunks=peer("203.0.113.30")
    )
    told = await gateway.wait_for_log("stun_silent", timeout_s=15)
    assert "sip.nat.stun" in told["remedy"]
    phone = await world.phone(outside)
    call = await phone.dial(gateway.uri())
    await both_hear_each_other(call, await world.agent.next_call())
