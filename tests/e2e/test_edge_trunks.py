"""The edge towards trunks: registration, challenges, TLS; its drain; what stops its start."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from sip_gateway.softphone import Softphone
from tests.e2e.test_process import rejected
from tests.e2e.test_registration import PASSWORD, trunk
from tests.fakes.callee import NUMBER
from tests.fakes.callee import SIP as OUTBOUND
from tests.fakes.callee import trunk as outbound_trunk
from tests.fakes.certificates import tls_section
from tests.fakes.dialler import Dialler
from tests.fakes.fleet import edge, worker_of, workers
from tests.fakes.kamailio import Kamailio, free_port
from tests.fakes.sip_peer import SipMessage, SipPeer
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

FLEET = 'calls = 6\nrtp_ports = "21300-21399"\ntransfer_allow = ["sip:*@127.0.0.1*"]\n'
SMALL = 'rtp_ports = "21300-21399"\n'


@pytest.fixture
async def registrar(tmp_path: Path) -> AsyncIterator[Kamailio]:
    folder = tmp_path / "registrar"
    folder.mkdir()
    server = Kamailio(folder, password=PASSWORD)
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_the_edge_registers_once_and_the_call_reaches_a_worker(
    agent: FakeAgent,
    launch_gateway: LaunchGateway,
    registrar: Kamailio,
    phone: Softphone,
    tmp_path: Path,
    transport: str,
) -> None:
    trunks = trunk(tmp_path, registrar.port, transport=transport)
    gateway = await launch_gateway(sip=FLEET, trunks=trunks)
    await gateway.wait_for_log("registered")
    assert await gateway.metric("landline_sip_registered", trunk="pbx") == 1
    call = await phone.dial(registrar.uri("600"))
    talk = await agent.next_call()
    assert (talk.started.trunk, talk.started.agent) == ("pbx", "clinic")
    assert talk.started.callee == "600"
    call.play(tone(440, 1.0))
    assert peak_hz((await talk.hear(0.8))[-16_000:]) == pytest.approx(440, abs=5)
    talk.hang_up()
    await asyncio.wait_for(call.ended(), 4)
    for path in (gateway.data_dir / "run").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert await gateway.stop() == 0
    await registrar.wait_for_line("REGISTER saved 600 expires 0")
    assert len([line for line in registrar.lines if "saved 600 expires 300" in line]) == 1
    assert PASSWORD not in str(gateway.log) + str(gateway.stray)
    assert not list((gateway.data_dir / "run").rglob("uacreg"))


async def test_a_wrong_password_is_told_and_counted(
    launch_gateway: LaunchGateway, registrar: Kamailio, tmp_path: Path
) -> None:
    trunks = trunk(tmp_path, registrar.port, password="wrong")
    gateway = await launch_gateway(sip=FLEET, trunks=trunks)
    failure = await gateway.wait_for_log("registration_failed")
    assert (failure["trunk"], failure["sip_status"]) == ("pbx", 401)
    assert "password" in failure["reason"]
    assert await gateway.metric("landline_sip_registered", trunk="pbx") == 0
    await gateway.wait_for_metric(
        "landline_sip_registration_failures_total", 1, trunk="pbx", sip_status="401"
    )


async def test_a_worker_answers_the_challenge_to_its_call_through_the_edge(
    agent: FakeAgent, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    async with SipPeer() as pbx:
        gateway = await launch_gateway(sip=FLEET, trunks=trunk(tmp_path, pbx.port))
        register = await pbx.request("REGISTER")
        contact = register.header("Contact")
        pbx.respond(register, 200, "OK", headers=(f"Contact: {contact}", "Expires: 300"))
        await gateway.wait_for_log("registered")
        caller = pbx.dialog(gateway.uri())
        caller.target = contact.partition("<")[2].partition(">")[0]
        answer = await caller.invite(pbx.sdp())
        talk = await agent.next_call()
        talk.transfer(f"sip:desk@127.0.0.1:{pbx.port}", attended=True)
        first = await pbx.request("INVITE")
        assert first.source[1] == int(gateway.address.rpartition(":")[2])
        pbx.respond(
            first,
            407,
            "Proxy Authentication Required",
            tag="challenge",
            headers=('Proxy-Authenticate: Digest realm="pbx", nonce="n", algorithm=MD5',),
        )
        second = await pbx.request("INVITE")
        assert second.cseq == first.cseq + 1
        assert digest_is_right(second, PASSWORD)
        pbx.respond(second, 486, "Busy Here", tag="busy")
        assert (await talk.wait_for("transfer", lambda event: event.sip_status == 486)).reason
        caller.routes = answer.all("Record-Route")[::-1]
        await caller.bye()


def digest_is_right(request: SipMessage, password: str) -> bool:
    """Whether the credentials answer the challenge (RFC 2617, 3.2.2)."""
    told = dict(re.findall(r'(\w+)="?([^",]+)"?', request.header("Proxy-Authorization")))
    one = hashlib.md5(f"{told['username']}:{told['realm']}:{password}".encode()).hexdigest()
    two = hashlib.md5(f"{request.method}:{told['uri']}".encode()).hexdigest()
    return told["response"] == hashlib.md5(f"{one}:{told['nonce']}:{two}".encode()).hexdigest()


async def test_a_call_out_goes_through_the_edge_and_a_full_worker_hangs_it_up_when_told(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    async with SipPeer() as carrier, SipPeer() as caller:
        out = outbound_trunk("carrier", carrier)
        lab = '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
        gateway = await launch_gateway(sip=FLEET + OUTBOUND, trunks=out + lab)
        async with Dialler(gateway) as dialler:
            call = dialler.dial(NUMBER)
            invite = await carrier.request("INVITE")
            dialog = carrier.accept(invite)
            assert invite.source[1] == int(gateway.address.rpartition(":")[2])
            carrier.respond(invite, 200, "OK", carrier.sdp(), tag=dialog.local_tag)
            await carrier.request("ACK")
            answered = await call.until("answered")
            assert (await agent.next_call()).started.direction == "outbound"
            for _ in range(5):  # every line is taken now
                assert (await caller.dialog(gateway.uri()).invite(caller.sdp())).status == 200
            await dialler.hang_up(answered.call_id)
            await carrier.request("BYE")
            assert (await call.end()).reason


async def test_what_holds_for_all_workers_is_asked_of_one_only(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    """The trunk's channels are counted over all workers, in one ledger."""
    limited = (
        '[[sip.trunks]]\nname = "lab"\nkind = "peer"\nallow = ["127.0.0.1/32"]\n'
        "limits = { channels = 2 }\n"
    )
    gateway = await launch_gateway(sip=FLEET, trunks=limited)
    async with SipPeer() as peer:
        first = await peer.dialog(gateway.uri()).invite(peer.sdp())
        second = await peer.dialog(gateway.uri()).invite(peer.sdp())
        assert (first.status, second.status) == (200, 200)
        assert worker_of(first) != worker_of(second)
        third = await peer.dialog(gateway.uri()).invite(peer.sdp())
        assert third.status == 503
        assert int(third.header("Retry-After")) > 0
        assert not third.header("X-Landline-Final")
    assert await gateway.metric("landline_sip_refused_total", reason="trunk_limit") == 1
    assert agent.taken == 2


async def test_drain_refuses_at_the_edge_and_lets_the_live_calls_end(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(sip=FLEET + "drain_limit_s = 30\n")
    async with SipPeer() as peer:
        dialog = peer.dialog(gateway.uri())
        answer = await dialog.invite(peer.sdp())
        talk = await agent.next_call()
        assert (await peer.dialog(gateway.uri()).ask("OPTIONS")).status == 200
        gateway.drain()
        await gateway.wait_for_log("draining")
        await asyncio.sleep(0.3)
        for method in ("INVITE", "OPTIONS"):
            refused = await peer.dialog(gateway.uri()).ask(method, peer.sdp())
            assert (refused.status, refused.header("Retry-After")) == (503, "10"), method
        held = await dialog.invite(peer.sdp(version=2, direction="sendonly"))
        assert held.status == 200
        dialog.routes = answer.all("Record-Route")[::-1]
        await dialog.bye()
        assert (await talk.ended()).reason == "caller_hung_up"
    assert await asyncio.wait_for(gateway.process.wait(), 8) == 0


async def test_a_second_signal_ends_the_calls_of_all_workers(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(sip=FLEET)
    running = workers(gateway.pid)
    async with SipPeer() as peer, SipPeer() as other:
        for phone in (peer, other):
            await phone.dialog(gateway.uri()).invite(phone.sdp())
        gateway.drain()
        await gateway.wait_for_log("draining")
        await asyncio.sleep(0.5)
        gateway.drain()
        for phone in (peer, other):
            await phone.request("BYE")
    assert await asyncio.wait_for(gateway.process.wait(), 8) == 0
    assert len(running) == 2


async def test_when_the_supervisor_is_killed_nothing_of_it_stays(
    launch_gateway: LaunchGateway,
) -> None:
    gateway = await launch_gateway(sip=FLEET)
    processes = [*workers(gateway.pid).values(), edge(gateway.pid)]
    await gateway.kill()
    host, _, port = gateway.address.rpartition(":")
    async with asyncio.timeout(8):
        while not free(host, int(port)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert len(processes) == 3


def free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


class TlsPhone:
    """One TLS connection to the edge, and the little SIP that a call needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, text: str) -> SipMessage:
        """Send a request; its final answer."""
        self._writer.write(text.replace("\n", "\r\n").encode())
        async with asyncio.timeout(6):
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"Content-Length: *(\d+)", head)
                body = await self._reader.readexactly(int(size[1]) if size else 0)
                message = SipMessage.parse(head + body, ("", 0))
                if message.status >= 200:
                    return message

    def send(self, text: str) -> None:
        self._writer.write(text.replace("\n", "\r\n").encode())

    def close(self) -> None:
        self._writer.close()


async def test_sip_over_tls_ends_at_the_edge(
    agent: FakeAgent, launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    files, _ = tls_section(tmp_path)
    port = free_port()
    gateway = await launch_gateway(
        sip=f'{SMALL}[sip.edge.tls]\nlisten = "127.0.0.1:{port}"\n'
        f'cert_file = "{files.cert_file.name}"\nkey_file = "{files.key_file.name}"\n'
    )
    await break_handshakes(port)
    context = ssl.create_default_context(cafile=files.ca_file)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    connection = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    phone = TlsPhone(*connection)
    async with SipPeer() as media:
        answer = await phone.ask(tls_request(port, "INVITE", 1, media.sdp()))
        assert answer.status == 200, answer.start
        talk = await agent.next_call()
        assert talk.started.trunk == "lab"
        to = f"<sip:agent@127.0.0.1:{port}>;tag={answer.tag('To')}"
        target = answer.header("Contact").partition("<")[2].partition(">")[0]
        routes = answer.all("Record-Route")[::-1]
        assert "transport=tls" in routes[0]
        phone.send(tls_request(port, "ACK", 1, to=to, target=target, routes=routes))
        sdp = media.sdp(version=2, direction="sendonly")
        held = await phone.ask(
            tls_request(port, "INVITE", 2, sdp, to=to, target=target, routes=routes)
        )
        assert held.status == 200
        phone.send(tls_request(port, "ACK", 2, to=to, target=target, routes=routes))
        await talk.wait_for("held")
        talk.hang_up()
        head = await asyncio.wait_for(connection[0].readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"BYE ")
        await talk.ended()
    phone.close()
    assert edge(gateway.pid)
    assert not gateway.logged("edge_ended")


async def test_callers_over_tls_must_show_a_certificate_where_that_is_asked_for(
    launch_gateway: LaunchGateway, tmp_path: Path
) -> None:
    files, _ = tls_section(tmp_path)
    port = free_port()
    await launch_gateway(
        sip=f'{SMALL}[sip.edge.tls]\nlisten = "127.0.0.1:{port}"\nca_file = "{files.ca_file}"\n'
        f'cert_file = "{files.cert_file}"\nkey_file = "{files.key_file}"\n'
    )
    context = ssl.create_default_context(cafile=files.ca_file)

    async def options() -> int:
        phone = TlsPhone(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
        try:
            return (await phone.ask(tls_request(port, "OPTIONS", 1))).status
        finally:
            phone.close()

    with pytest.raises((OSError, asyncio.IncompleteReadError)):  # an SSLError is an OSError
        await options()
    context.load_cert_chain(files.cert_file, files.key_file)
    assert await options() == 200


def tls_request(
    port: int,
    method: str,
    cseq: int,
    body: str = "",
    *,
    to: str = "",
    target: str = "",
    routes: list[str] | None = None,
) -> str:
    lines = [
        f"{method} {target or f'sip:agent@127.0.0.1:{port};transport=tls'} SIP/2.0",
        f"Via: SIP/2.0/TLS 127.0.0.1:9;rport;branch=z9hG4bK{method}{cseq}",
        *(f"Route: {route}" for route in routes or ()),
        "Max-Forwards: 70",
        "From: <sip:tls@127.0.0.1>;tag=tls",
        f"To: {to or f'<sip:agent@127.0.0.1:{port}>'}",
        "Call-ID: over-tls",
        f"CSeq: {cseq} {method}",
        "Contact: <sip:tls@127.0.0.1:9;transport=tls>",
        *(["Content-Type: application/sdp"] if body else []),
        f"Content-Length: {len(body)}",
    ]
    return "\n".join(lines) + "\n\n" + body.replace("\r\n", "\n")


async def break_handshakes(port: int) -> None:
    """Connections that begin TLS badly, in the middle, or not at all."""
    beginnings = (
        b"",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\0" * 600,
        b"\x16\x03\x03\x00\x2f\x01\x00\x00\x2b",
        bytes(range(256)),
    )
    for beginning in beginnings * 8:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(beginning)
        writer.close()


async def test_more_calls_than_ports_stop_the_start(tmp_path: Path) -> None:
    reason = await rejected(tmp_path, 'calls = 40\nrtp_ports = "21300-21399"')
    assert "calls = 40 need 14 workers with 16 RTP ports each, 224 in all" in reason
    assert 'rtp_ports = "21300-21523"' in reason


async def test_without_kamailio_it_is_said_what_to_install(tmp_path: Path) -> None:
    sip = 'calls = 6\nrtp_ports = "21300-21399"\n[sip.edge]\nkamailio = "no-such-kamailio"'
    reason = await rejected(tmp_path, sip)
    assert "calls = 6 is more than the 3 that one process holds" in reason
    assert "apt-get install kamailio" in reason


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        reason = await rejected(tmp_path, f'listen = "127.0.0.1:{port}"\n{FLEET}')
    assert f"127.0.0.1:{port}: cannot listen there" in reason


async def test_a_key_that_does_not_fit_its_certificate_is_named(tmp_path: Path) -> None:
    files, _ = tls_section(tmp_path)
    reason = await rejected(
        tmp_path,
        f'{SMALL}[sip.edge.tls]\ncert_file = "{files.cert_file}"\nkey_file = "{tmp_path}/ca.key"',
    )
    assert "[sip.edge.tls] cannot use" in reason
    assert "ca.key" in reason


async def test_calls_that_fit_into_one_process_need_no_edge(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip=f'calls = 3\n{SMALL}[sip.edge]\nkamailio = "none"\n')
    assert not workers(gateway.pid)
    await phone.dial(gateway.uri())
    await agent.next_call()


@pytest.mark.slow
async def test_forty_calls_at_a_time_and_the_next_is_told_to_come_back(
    agent: FakeAgent, launch_gateway: LaunchGateway
) -> None:
    gateway = await launch_gateway(sip='calls = 40\nrtp_ports = "21300-21599"\n')
    assert len(workers(gateway.pid)) == 14
    room = 42  # fourteen workers hold three each
    async with SipPeer() as peer:
        dialogs = []
        for _ in range(room):
            dialog = peer.dialog(gateway.uri())
            answer = await dialog.invite(peer.sdp())
            assert answer.status == 200, answer.start
            dialog.routes = answer.all("Record-Route")[::-1]
            dialogs.append(dialog)
            talk = await agent.next_call()
            await asyncio.sleep(0.1)  # under invites_per_s
        await gateway.wait_for_metric("landline_sip_active_calls", room)
        assert (await peer.dialog(gateway.uri()).invite(peer.sdp())).status == 503
        assert len(await talk.hear(0.5)) == 16_000
        for dialog in dialogs:
            await dialog.bye()
        await gateway.wait_for_metric("landline_sip_active_calls", 0)
