"""Everything that hostile or broken senders do, while a call goes on that must not notice.

The attackers speak from the trunk's own address unless a test says otherwise, because what a
stranger sends is thrown away by the kernel and would prove nothing about PJSIP.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from tests.fakes.agent import FakeAgent
from tests.fakes.gateway_process import GatewayProcess
from tests.fakes.hostile import FULL, Attacker, descriptors, unharmed
from tests.fakes.sip_fuzz import Fuzz
from tests.fakes.sip_peer import SipPeer, audio_of
from tests.fakes.talk import Talk, call
from tests.fakes.torture import MESSAGES, NO_ANSWER

LaunchGateway = Callable[..., Awaitable[GatewayProcess]]

OPEN_TO_STRANGERS = '[sip.admission]\nunknown_sources = "refuse"\n'
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 0\r\n"
)
FUZZ_SEED = 20261121


@pytest.fixture
async def peer() -> AsyncIterator[SipPeer]:
    async with SipPeer() as made:
        yield made


@pytest.fixture
async def gateway(launch_gateway: LaunchGateway) -> GatewayProcess:
    """One that reads what strangers send, too."""
    return await launch_gateway(sip=OPEN_TO_STRANGERS)


@pytest.fixture
async def talk(gateway: GatewayProcess, agent: FakeAgent, peer: SipPeer) -> Talk:
    return await call(peer, gateway, agent)


@pytest.fixture
def attacker(gateway: GatewayProcess) -> Iterator[Attacker]:
    made = Attacker(gateway)
    yield made
    made.close()


async def connected(gateway: GatewayProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def connects(gateway: GatewayProcess, *, source: str) -> bool:
    host, _, port = gateway.address.rpartition(":")
    with socket.socket() as caller:
        caller.bind((source, 0))
        caller.setblocking(False)
        try:
            async with asyncio.timeout(0.5):
                await asyncio.get_running_loop().sock_connect(caller, (host, int(port)))
        except TimeoutError:
            return False
        return True


# -- RFC 4475 -----------------------------------------------------------------------------------


async def test_torture_messages(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    assert len(MESSAGES) == 49
    wrong = {}
    async with unharmed(gateway, agent, talk):
        for name, torture in MESSAGES.items():
            message = torture.message(gateway.address)
            attacker.send(message)
            patience_s = 0.08 if NO_ANSWER in torture.answers else 2.0
            answer = await attacker.final(call_id_of(message), timeout_s=patience_s)
            if answer not in torture.answers:
                wrong[name] = answer
            await asyncio.sleep(0.02)
    assert not wrong


def call_id_of(message: bytes) -> str:
    found = re.search(rb"^(?:call-id|i)\s*:\s*(\S+)", message, re.IGNORECASE | re.MULTILINE)
    return found[1].decode("latin-1") if found else ""


async def test_torture_messages_over_tcp(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk
) -> None:
    async with unharmed(gateway, agent, talk, may_keep=30):
        for torture in MESSAGES.values():
            _reader, writer = await connected(gateway)
            writer.write(torture.message(gateway.address).replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP"))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()


# -- session descriptions -----------------------------------------------------------------------

BAD_SDP = {
    "empty lines": "\r\n" * 40,
    "one line": "v=0\r\n",
    "no version": SDP.removeprefix("v=0\r\n"),
    "version": SDP.replace("v=0", "v=99999999999999999999"),
    "no origin": SDP.replace("o=- 1 1 IN IP4 127.0.0.1\r\n", ""),
    "short origin": SDP.replace("o=- 1 1 IN IP4 127.0.0.1", "o=-"),
    "huge origin": SDP.replace("o=- 1 1", f"o=- {'9' * 500} {'9' * 500}"),
    "no connection": SDP.replace("c=IN IP4 127.0.0.1\r\n", ""),
    "connection to nowhere": SDP.replace("c=IN IP4 127.0.0.1", "c=IN IP4 nowhere.invalid"),
    "connection to everybody": SDP.replace("c=IN IP4 127.0.0.1", "c=IN IP4 255.255.255.255"),
    "connection to a group": SDP.replace("c=IN IP4 127.0.0.1", "c=IN IP4 224.0.0.1/127"),
    "connection by IPv6": SDP.replace("c=IN IP4 127.0.0.1", "c=IN IP6 ::1"),
    "half a connection": SDP.replace("c=IN IP4 127.0.0.1", "c=IN"),
    "port 0": SDP.replace("6000", "0"),
    "port of us all": SDP.replace("6000", "65536"),
    "port below zero": SDP.replace("6000", "-1"),
    "no formats": SDP.replace(" 0\r\n", "\r\n"),
    "format 999": SDP.replace("RTP/AVP 0", "RTP/AVP 999"),
    "a thousand formats": SDP.replace("RTP/AVP 0", "RTP/AVP " + "0 " * 1000),
    "a hundred streams": SDP + "m=audio 6002 RTP/AVP 0\r\n" * 100,
    "a thousand attributes": SDP + "a=x:y\r\n" * 1000,
    "rate 0": SDP + "a=rtpmap:0 PCMU/0\r\n",
    "rate of a star": SDP + "a=rtpmap:0 PCMU/99999999999\r\n",
    "rtpmap of nothing": SDP + "a=rtpmap:\r\n",
    "fmtp of nothing": SDP + "a=fmtp:\r\na=fmtp:0\r\n",
    "ptime 0": SDP + "a=ptime:0\r\n",
    "ptime for ever": SDP + "a=ptime:4294967295\r\n",
    "ptime below zero": SDP + "a=ptime:-20\r\na=maxptime:-1\r\n",
    "crypto without key": SDP + "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:\r\n",
    "fingerprint": SDP + "a=fingerprint:sha-256 00\r\na=setup:actpass\r\n",
    "broken ICE": SDP + "a=ice-ufrag:\r\na=ice-pwd:\r\na=candidate:1 1 UDP 1 x y typ z\r\n",
    "rtcp of nowhere": SDP + "a=rtcp:0 IN IP4 nowhere.invalid\r\n",
    "bandwidth": SDP + "b=AS:99999999999999999999\r\nb=\r\n",
    "time": SDP.replace("t=0 0", "t=99999999999999999999 -1"),
    "no line ends": SDP.replace("\r\n", " "),
    "zeros": SDP.replace("m=", "\0m="),
    "a very long line": SDP + "a=" + "x" * 20_000 + "\r\n",
    "bytes": "".join(map(chr, range(1, 256))) * 4,
}


async def test_malformed_session_descriptions(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    silent = []
    async with unharmed(gateway, agent, talk):
        for number, (name, body) in enumerate(BAD_SDP.items()):
            attacker.send(attacker.request("INVITE", f"sdp{number}", body=body))
            if await attacker.final(f"sdp{number}") < 400:
                silent.append(name)
            await asyncio.sleep(0.1)
    assert not silent


async def test_malformed_descriptions_in_a_call_are_refused_and_it_goes_on(
    agent: FakeAgent, talk: Talk
) -> None:
    accepted = []
    for name, body in BAD_SDP.items():
        if len(body) < 1200 and (await talk.reinvite(body)).status == 200:
            accepted.append(name)
        await asyncio.sleep(0.02)
    answer = await talk.reinvite()
    assert answer.status == 200
    talk.audio = audio_of(answer.body)
    await talk.still_talks()
    # What is merely strange is taken; what cannot be read never is.
    assert not {"empty lines", "one line", "bytes", "no line ends", "no connection"} & {*accepted}


# -- media --------------------------------------------------------------------------------------


def bad_rtp() -> Iterator[bytes]:
    head = struct.Struct("!BBHII")
    yield from (b"", b"\x80", b"\x80\x00\x00", b"\x00" * 12, b"\xff" * 12, b"\xff" * 1400)
    yield from (head.pack(version << 6, 0, 1, 1, 1) + b"\x7f" * 160 for version in range(4))
    yield from (head.pack(0x80 | csrc, 0, 2, 2, 2) + b"\x00" * 8 for csrc in range(16))
    yield from (head.pack(0x80, kind, 3, 3, 3) + b"\x00" * 20 for kind in range(128))
    yield head.pack(0x90, 0, 4, 4, 4) + struct.pack("!HH", 0xBEDE, 0xFFFF)  # an extension too long
    yield head.pack(0xA0, 0, 5, 5, 5) + b"\x00" * 100 + b"\xff"  # more padding than packet
    yield head.pack(0xA0, 0, 5, 5, 5) + b"\x00" * 100 + b"\x00"
    yield head.pack(0x80, 0, 6, 6, 6) + b"\x55" * 60_000
    for code, end, duration in itertools.product((0, 15, 16, 255), (0, 0x80), (0, 1, 0xFFFF)):
        yield head.pack(0x80, 101, 7, 7, 7) + struct.pack("!BBH", code, end, duration)
    yield from (head.pack(0x80, 101, 8, 8, 8) + b"\x01" * size for size in range(4))
    for kind in (*range(192, 224), 255):  # RTCP, also on the port of RTP
        yield struct.pack("!BBH", 0x9F, kind, 0xFFFF) + b"\x00" * 24
        yield struct.pack("!BBH", 0x81, kind, 6) + b"\xff" * 24
        yield struct.pack("!BBH", 0x80, kind, 0)


async def test_malformed_media_from_the_caller_itself(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk
) -> None:
    """The lock on the caller's address does not help here: PJMEDIA reads every packet."""
    host, port = talk.audio
    async with unharmed(gateway, agent, talk):
        await asyncio.sleep(0.5)
        for packet in bad_rtp():
            talk.peer.rtp.socket.sendto(packet, (host, port))
            talk.peer.rtp.socket.sendto(packet, (host, port + 1))
            await asyncio.sleep(0.004)


# -- sizes and slowness -------------------------------------------------------------------------


async def test_datagrams_of_64_kilobytes(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    async with unharmed(gateway, agent, talk):
        filling = ("X-Long: " + "A" * 59_000,), tuple(f"X-{n}: y" for n in range(5_000))
        for number, headers in enumerate(filling):
            for method in ("INVITE", "OPTIONS", "REGISTER"):
                attacker.send(attacker.request(method, f"long{number}", headers=headers))
                await asyncio.sleep(0.02)
        for size in (1, 3_999, 4_000, 4_001, 65_507):
            attacker.send(b"A" * size)
            attacker.send((b"INVITE sip:a SIP/2.0\r\n" + b"B" * size)[:65_507])
        await asyncio.sleep(0.3)


async def test_tcp_headers_without_end(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk
) -> None:
    async with unharmed(gateway, agent, talk):
        for piece in (b"X-Endless: y\r\n", b"A", b"\r\n", b"INVITE sip:a SIP/2.0\r\n"):
            _reader, writer = await connected(gateway)
            writer.write(b"INVITE sip:agent@x SIP/2.0\r\n" + piece * (300_000 // len(piece)))
            try:
                async with asyncio.timeout(1.0):
                    await writer.drain()
            except (ConnectionError, TimeoutError):
                pass  # closed in our face, or not read any further: both end it
            writer.close()
        _reader, writer = await connected(gateway)
        for length in (b"-1", b"99999999", b"4294967295"):
            writer.write(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: " + length + b"\r\n\r\nxx")
        await asyncio.sleep(0.3)
        writer.close()


async def test_many_slow_connections(
    gateway: GatewayProcess, agent: FakeAgent, peer: SipPeer, talk: Talk
) -> None:
    """More than PJSIP has handles for: calls over UDP go on, and over TCP come back."""
    async with unharmed(gateway, agent, talk):
        writers = []
        for _ in range(90):
            try:
                async with asyncio.timeout(1.0):
                    _reader, writer = await connected(gateway)
            except (OSError, TimeoutError):
                continue
            writers.append(writer)
            writer.write(b"INVITE sip:agent@x SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n")
            await asyncio.sleep(0.01)
        for byte in b"X-Slow: ":
            for writer in writers:
                writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        assert descriptors(gateway.pid) < 200
        answer = await peer.dialog(gateway.uri()).invite(peer.sdp())
        assert answer.status == 503
        for writer in writers:
            writer.close()
    reader, writer = await connected(gateway)
    writer.write(
        b"OPTIONS sip:agent@x SIP/2.0\r\nVia: SIP/2.0/TCP x;branch=z9hG4bKafter\r\n"
        b"From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\nCall-ID: after\r\nCSeq: 1 OPTIONS\r\n"
        b"Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"SIP/2.0 200")
    writer.close()


async def test_what_is_no_sip_on_the_tcp_port(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk
) -> None:
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(197)
    async with unharmed(gateway, agent, talk):
        for data in (
            hello, hello[:20], b"\x16\x03\x01\xff\xff" + bytes(3_000),
            b"\x15\x03\x03\x00\x02\x02\x28", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 5_000,
            b"SSH-2.0-x\r\n", b"\r\n" * 3_000, secrets.token_bytes(4_000), b"",
        ):  # fmt: skip
            _reader, writer = await connected(gateway)
            writer.write(data)
            await asyncio.sleep(0.05)
            writer.close()
            reset, writer = await connected(gateway)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.write(data)
            writer.close()  # with a reset
            del reset


# -- floods -------------------------------------------------------------------------------------


async def test_guessing_passwords_gets_a_cheap_no(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    """We are no registrar: nothing is asked for, nothing is learnt, nothing is logged."""
    logged = len(gateway.log)
    async with unharmed(gateway, agent, talk):
        for number in range(600):
            digest = (
                f'Authorization: Digest username="{number}", realm="x", nonce="{number}", '
                f'uri="sip:x", response="{number:032x}"'
            )
            headers = (digest, "Expires: 3600") if number % 2 else ("Expires: 3600",)
            request = attacker.request("REGISTER", f"guess{number}", headers=headers)
            attacker.send(request)
            await asyncio.sleep(0.002)
    answers = attacker.answers()
    assert len(answers) >= 590
    assert {400 <= answer.status < 500 for answer in answers} == {True}
    assert not any(answer.header("WWW-Authenticate") for answer in answers)
    longest = max(len(str(answer)) for answer in answers)
    assert longest < 3 * len(request)  # no amplifier
    assert len(gateway.log) - logged < 10


async def test_floods_of_other_requests(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    more = ("Refer-To: <sip:x@127.0.0.1:9>", "Event: refer", "Subscription-State: active")
    async with unharmed(gateway, agent, talk):
        for method in ("OPTIONS", "SUBSCRIBE", "REFER", "BYE", "MESSAGE", "NOTIFY", "PUBLISH"):
            await attacker.send_all(
                (attacker.request(method, f"{method}{n}", headers=more) for n in range(200)),
                pause_s=0.001,
            )
    assert agent.taken == 1
    assert await gateway.metric("landline_sip_active_calls") == 1


async def test_a_storm_of_reinvites(gateway: GatewayProcess, agent: FakeAgent, talk: Talk) -> None:
    for number in range(200):
        talk.dialog.send("INVITE", talk.peer.sdp(version=10 + number))
        if number % 5 == 0:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    answers = [m for m in talk.peer.messages if m.method == "INVITE" and m.status >= 200]
    assert {answer.status for answer in answers[1:]} <= {200, 491, 500}
    for answer in answers[1:]:
        talk.dialog.ack(answer)
    for _ in range(3):  # our peer sends nothing twice, and such a storm may cost a datagram
        with contextlib.suppress(TimeoutError):
            if (await talk.reinvite()).status == 200:
                break
        await asyncio.sleep(0.5)
    await talk.still_talks()
    assert gateway.process.returncode is None


async def test_invites_without_a_description_that_are_refused(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    """Refused within PJSIP's callback, such an INVITE ends the process."""
    stranger = Attacker(gateway, source="127.0.0.3")
    async with unharmed(gateway, agent, talk):
        for number in range(40):
            attacker.send(attacker.request("INVITE", f"offer-me{number}"))
            stranger.send(stranger.request("INVITE", f"offer-me-too{number}"))
            await asyncio.sleep(0.003)
        await asyncio.sleep(0.5)
    statuses = {answer.status for answer in attacker.answers() if answer.status >= 200}
    assert statuses <= {503, 486}
    assert 503 in statuses
    strangers = {answer.status for answer in stranger.answers()}
    stranger.close()
    assert 403 in strangers
    assert strangers <= {100, 403, 486}


async def test_calls_in_quick_succession_are_never_declined(
    gateway: GatewayProcess, agent: FakeAgent, attacker: Attacker
) -> None:
    """A call that has ended must not hang up the one that PJSIP gave its number to."""
    agent.refusal = FULL
    for number in range(30):
        attacker.send(attacker.request("INVITE", f"quick{number}", body=SDP))
        await asyncio.sleep(0.003)
    await asyncio.sleep(0.5)
    statuses = {answer.status for answer in attacker.answers() if answer.status >= 200}
    assert statuses <= {503, 486}
    assert 503 in statuses


# -- strangers ----------------------------------------------------------------------------------


async def test_strangers_cannot_reach_pjsip(
    launch_gateway: LaunchGateway, agent: FakeAgent, peer: SipPeer
) -> None:
    """An ACK without a To tag that fits a pending INVITE ends PJSIP; here it is never read."""
    gateway = await launch_gateway()
    talk = await call(peer, gateway, agent)
    stranger = Attacker(gateway, source="127.0.0.3")
    agent.accepts = False
    async with unharmed(gateway, agent, talk):
        for number in range(30):
            stranger.send(stranger.request("INVITE", f"fatal{number}", body=SDP))
            ack = stranger.request("ACK", f"fatal{number}")
            stranger.send(ack.replace(b"z9hG4bK", b"z9hG4bKother"))
            stranger.send(stranger.request("OPTIONS", f"ping{number}"))
            await asyncio.sleep(0.003)
        assert not await connects(gateway, source="127.0.0.3")
    assert stranger.answers() == []
    stranger.close()
    assert await gateway.stop() == 0
    assert gateway.logged("strangers_dropped")[0]["packets"] >= 90


# -- fuzz ---------------------------------------------------------------------------------------


async def fuzz(gateway: GatewayProcess, attacker: Attacker, seed: int, messages: int) -> None:
    print(f"fuzz seed {seed}")
    made = Fuzz(seed, port=attacker.port, target=gateway.address)
    for number in range(messages):
        attacker.send(made.next_message())
        if number % 5 == 0:
            await asyncio.sleep(0.008)
        assert gateway.process.returncode is None, (
            f"seed {seed}, message {number} of port {attacker.port}: {gateway.stray}"
        )


async def test_fuzz(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker
) -> None:
    async with unharmed(gateway, agent, talk):
        await fuzz(gateway, attacker, FUZZ_SEED, 2_000)
    await talk.still_talks()


@pytest.mark.slow
async def test_fuzz_at_length(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, attacker: Attacker, fuzz_seed: int
) -> None:
    """A new seed each time, unless --fuzz-seed names one."""
    async with unharmed(gateway, agent, talk):
        await fuzz(gateway, attacker, fuzz_seed, 40_000)
    await talk.still_talks()


@pytest.mark.slow
async def test_answers_that_are_never_acknowledged(
    gateway: GatewayProcess, agent: FakeAgent, peer: SipPeer
) -> None:
    """Each holds a line for 32 s (RFC 3261, 13.3.1.4), and then it is free again."""
    for number in range(3):
        answer = await peer.dialog(gateway.uri(f"silent{number}")).ask("INVITE", peer.sdp())
        assert answer.status == 200
        await agent.next_call()
    assert (await peer.dialog(gateway.uri()).invite(peer.sdp())).status == 503
    again = peer.dialog(gateway.uri())
    async with asyncio.timeout(60):
        while (answer := await again.invite(peer.sdp())).status == 503:
            await asyncio.sleep(2)
            again = peer.dialog(gateway.uri())
    assert answer.status == 200
    await Talk(again, answer, await agent.next_call()).still_talks()
