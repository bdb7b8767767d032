"""Two workers behind the real Kamailio. They and the edge live through all tests of this file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import edge, until_workers, worker_of, workers
from tests.fakes.g711 import PCMU
from tests.fakes.gateway_process import GatewayProcess, start_gateway, write_config
from tests.fakes.sip_peer import Dialog, SipMessage, SipPeer, audio_of, direction_of
from tests.fakes.tones import peak_hz, tone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.agent import FakeCall

pytestmark = pytest.mark.asyncio(loop_scope="module")
STRANGER, SCANNER, GUESSER, FLOODER = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
SIP = """\
calls = 6
rtp_ports = "21200-21299"
transfer_allow = ["sip:*@127.0.0.1*"]
[sip.edge]
invites_per_s = 15
ban_after = 4
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent() -> AsyncIterator[FakeAgent]:
    server = FakeAgent()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(
    agent: FakeAgent, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("fleet")
    gateway = await start_gateway(write_config(folder, agent=f"127.0.0.1:{agent.port}", sip=SIP))
    yield gateway
    status = await gateway.stop()
    assert not gateway.stray
    assert status == 0


class Talk:
    """An answered call: the caller's side, the worker that has it, and the agent's side."""

    def __init__(self, peer: SipPeer, dialog: Dialog, answer: SipMessage, agent: FakeCall) -> None:
        self.peer, self.dialog, self.answer, self.agent = peer, dialog, answer, agent
        self.worker = worker_of(answer)

    async def is_heard(self, hz: float = 440.0) -> None:
        """What the caller says reaches the agent now, and the other way round."""
        self.agent.play(secrets.token_hex(4), tone(900, 0.5))
        to = audio_of(self.answer.body)
        sending = asyncio.create_task(self.peer.rtp.send(to, tone(hz, 0.6), PCMU))
        heard = await self.agent.hear(0.5)
        assert peak_hz(heard[-6400:]) == pytest.approx(hz, abs=10)
        await sending
        assert peak_hz(self.peer.rtp.heard(PCMU, 0.2)) == pytest.approx(900, abs=10)

    async def hang_up(self) -> None:
        await self.dialog.bye()
        assert (await self.agent.ended()).reason == "caller_hung_up"


async def call(peer: SipPeer, fleet: GatewayProcess, agent: FakeAgent) -> Talk:
    dialog = peer.dialog(fleet.uri())
    answer = await dialog.invite(peer.sdp())
    assert answer.status == 200, answer.start
    dialog.routes = answer.all("Record-Route")[::-1]
    return Talk(peer, dialog, answer, await agent.next_call())


async def two_calls(
    peer: SipPeer, other: SipPeer, fleet: GatewayProcess, agent: FakeAgent
) -> tuple[Talk, Talk]:
    """One on each worker."""
    first = await call(peer, fleet, agent)
    second = await call(other, fleet, agent)
    assert first.worker != second.worker
    return first, second


async def idle(fleet: GatewayProcess) -> None:
    await fleet.wait_for_metric("landline_sip_active_calls", 0)


async def test_calls_go_where_there_is_room_and_the_one_too_many_is_told_to_come_back(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    async with SipPeer() as peer:
        talks = [await call(peer, fleet, agent) for _ in range(6)]
        names = [talk.worker for talk in talks]
        assert {names.count(name) for name in workers(fleet.pid)} == {3}
        await fleet.wait_for_metric("landline_sip_active_calls", 6)
        full = await peer.dialog(fleet.uri()).invite(peer.sdp())
        assert (full.status, full.header("Retry-After")) == (503, "10")
        await talks[2].hang_up()
        again = await call(peer, fleet, agent)
        assert again.worker == talks[2].worker
        for talk in (*talks[:2], *talks[3:], again):
            await talk.hang_up()
    await idle(fleet)
    assert agent.taken == 7


async def test_each_request_in_a_dialog_reaches_the_worker_that_has_it(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    async with SipPeer() as peer, SipPeer() as other:
        for talk in await two_calls(peer, other, fleet, agent):
            offer = talk.peer.sdp(version=2, direction="sendonly")
            held = await talk.dialog.invite(offer)
            assert direction_of(held.body) in ("recvonly", "inactive")
            await talk.agent.wait_for("held")
            resumed = await talk.dialog.ask("UPDATE", talk.peer.sdp(version=3))
            assert (resumed.status, worker_of(resumed)) == (200, talk.worker)
            await talk.agent.wait_for("resumed")
            await talk.is_heard()
            info = await talk.dialog.ask(
                "INFO", "Signal=5\r\nDuration=160\r\n", content_type="application/dtmf-relay"
            )
            assert info.status == 200
            assert (await talk.agent.wait_for("dtmf")).digit == "5"
            talk.agent.hang_up()
            bye = await talk.peer.request("BYE")
            assert bye.source[1] == int(fleet.address.rpartition(":")[2])
            assert (await talk.agent.ended()).reason == "goodbye"
    await idle(fleet)


async def test_refer_goes_out_and_its_notify_comes_back(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    async with SipPeer() as peer, SipPeer() as other:
        spare, talk = await two_calls(peer, other, fleet, agent)
        talk.agent.transfer("sip:desk@127.0.0.1:9")
        refer = await other.request("REFER")
        assert refer.header("Refer-To").strip("<>") == "sip:desk@127.0.0.1:9"
        other.respond(refer, 202, "Accepted")
        fragment = "SIP/2.0 200 OK\r\n"
        headers = ("Event: refer", "Subscription-State: terminated;reason=noresource")
        notified = await talk.dialog.ask(
            "NOTIFY", fragment, headers=headers, content_type="message/sipfrag;version=2.0"
        )
        assert notified.status == 200
        assert (await talk.agent.ended()).result == "transferred"
        await spare.hang_up()
    await idle(fleet)


@pytest.mark.parametrize("addressed_to", ["contact", "number"])
async def test_replaces_lands_on_the_worker_whose_call_it_takes_over(
    agent: FakeAgent, fleet: GatewayProcess, addressed_to: str
) -> None:
    """A PBX may send it to our Contact, or to the number that it knows us by."""
    async with SipPeer() as peer, SipPeer() as other, SipPeer() as colleague:
        first, second = await two_calls(peer, other, fleet, agent)
        for talk in (first, second):
            taking_over = colleague.dialog(fleet.uri(), user="colleague")
            if addressed_to == "contact":
                taking_over.target = talk.dialog.target
            answer = await taking_over.invite(
                colleague.sdp(),
                headers=(
                    f"Replaces: {talk.dialog.call_id};"
                    f"to-tag={talk.dialog.remote_tag};from-tag={talk.dialog.local_tag}",
                ),
            )
            assert (answer.status, worker_of(answer)) == (200, talk.worker)
            await talk.peer.request("BYE")
            await talk.agent.wait_for("caller_changed")
            taking_over.routes = answer.all("Record-Route")[::-1]
            await taking_over.bye()
            await talk.agent.ended()
    await idle(fleet)


async def test_a_killed_worker_takes_only_its_own_calls_with_it(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    async with SipPeer() as peer, SipPeer() as other, SipPeer() as third:
        lost, kept = await two_calls(peer, other, fleet, agent)
        os.kill(workers(fleet.pid)[lost.worker], signal.SIGKILL)
        meanwhile = await call(third, fleet, agent)
        assert meanwhile.worker == kept.worker
        await kept.is_heard()
        await meanwhile.is_heard(550)
        assert (await lost.dialog.ask("BYE")).status == 481
        await fleet.wait_for_metric("landline_sip_workers", 2)
        back = await call(peer, fleet, agent)
        assert back.worker not in (lost.worker, kept.worker)
        assert back.worker.startswith(lost.worker.partition("-")[0])
        for talk in (kept, meanwhile, back):
            await talk.hang_up()
    await idle(fleet)
    assert await fleet.metric("landline_sip_worker_restarts_total") == 1


async def test_a_killed_edge_cuts_no_audio_and_dialogs_go_on_when_it_is_back(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    async with SipPeer() as peer, SipPeer() as other:
        talk, second = await two_calls(peer, other, fleet, agent)
        before = edge(fleet.pid)
        await asyncio.sleep(0.1)  # the ACKs have passed
        os.kill(before, signal.SIGKILL)
        await talk.is_heard()
        await second.is_heard(550)
        await fleet.wait_for_metric("landline_sip_edge_restarts_total", 1)
        async with asyncio.timeout(8):
            while len(fleet.logged("edge_ready")) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert edge(fleet.pid) != before
        held = await talk.dialog.invite(peer.sdp(version=2, direction="sendonly"))
        assert (held.status, worker_of(held)) == (200, talk.worker)
        await talk.hang_up()
        second.agent.hang_up()
        await other.request("BYE")
        assert (await second.agent.ended()).reason == "goodbye"
        await (await call(peer, fleet, agent)).hang_up()
    await idle(fleet)


@pytest.mark.parametrize("source", ["127.0.0.1", STRANGER], ids=["trunk", "stranger"])
async def test_an_ack_that_would_end_a_worker_never_reaches_one(
    agent: FakeAgent, fleet: GatewayProcess, source: str
) -> None:
    """PJSIP aborts on an ACK that meets a pending INVITE by Call-ID and From tag only."""
    running = workers(fleet.pid)
    async with SipPeer() as peer, SipPeer() as other:
        talks = await two_calls(peer, other, fleet, agent)
        agent.accepts = False  # the INVITEs stay pending
        with attacker(fleet, source) as attack:
            for number in range(4):
                for to_tag in ("", ";tag=guessed"):
                    attack.invite_and_forged_ack(number, to_tag)
            await asyncio.sleep(0.5)
            attack.cancel_all()
        agent.accepts = True
        for talk in talks:
            await talk.is_heard()
            await talk.hang_up()
    assert workers(fleet.pid) == running
    await idle(fleet)
    while not agent.calls.empty():
        agent.calls.get_nowait()


class attacker:  # noqa: N801 - reads as a sentence
    """Datagrams from an address of loopback, all of them for the edge."""

    def __init__(self, fleet: GatewayProcess, source: str) -> None:
        host, _, port = fleet.address.rpartition(":")
        self._target = fleet.address
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.connect((host, int(port)))
        self.socket.setblocking(False)
        self._me = f"{source}:{self.socket.getsockname()[1]}"
        self._pending: list[tuple[str, str]] = []

    def __enter__(self) -> attacker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def send(
        self,
        method: str,
        *,
        call_id: str = "",
        branch: str = "",
        to_tag: str = "",
        cseq: str = "1",
        agent: str = "",
        body: str = "",
    ) -> None:
        branch = branch or f"z9hG4bK{secrets.token_hex(6)}"
        lines = [
            f"{method} sip:agent@{self._target} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._me};rport;branch={branch}",
            "Max-Forwards: 70",
            f"From: <sip:attacker@{self._me}>;tag=known",
            f"To: <sip:agent@{self._target}>{to_tag}",
            f"Call-ID: {call_id or secrets.token_hex(8)}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:attacker@{self._me}>",
            *([f"User-Agent: {agent}"] if agent else []),
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        self.socket.send(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def invite_and_forged_ack(self, number: int, to_tag: str) -> None:
        call_id, branch = f"abort-{number}-{secrets.token_hex(4)}", f"z9hG4bK{secrets.token_hex(6)}"
        host, _, port = self._me.rpartition(":")
        body = (
            f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP 0\r\n"
        )
        self.send("INVITE", call_id=call_id, branch=branch, body=body)
        self._pending.append((call_id, branch))
        for forged in ("z9hG4bK-other", "other", branch + "x"):
            self.send("ACK", call_id=call_id, branch=forged, to_tag=to_tag)

    def cancel_all(self) -> None:
        for call_id, branch in self._pending:
            self.send("CANCEL", call_id=call_id, branch=branch)

    async def answers(self, seconds: float, *, wanted: int = 1_000) -> list[int]:
        """The statuses of what comes back in that time, or of the first `wanted`."""
        found: list[int] = []
        end = asyncio.get_running_loop().time() + seconds
        while len(found) < wanted and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(int(self.socket.recv(4096).split(b" ", 2)[1]))
        return [status for status in found if status >= 200]


async def test_strangers_are_refused_before_any_worker_sees_them(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    taken, counter = agent.taken, "landline_sip_refused_total"
    refused = await fleet.metric(counter, reason="unknown_source")
    offered = len(fleet.logged("call_offered")) + len(fleet.logged("call_refused"))
    with attacker(fleet, "127.0.0.8") as stranger:
        for method in ("INVITE", "REGISTER", "OPTIONS"):
            stranger.send(method)
        assert await stranger.answers(3.0, wanted=3) == [403, 403, 403]
    async with asyncio.timeout(8):
        while await fleet.metric(counter, reason="unknown_source") < refused + 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert agent.taken == taken
    assert len(fleet.logged("call_offered")) + len(fleet.logged("call_refused")) == offered


async def test_scanners_and_who_is_refused_again_and_again_are_banned(
    fleet: GatewayProcess,
) -> None:
    with attacker(fleet, SCANNER) as scanner:
        scanner.send("OPTIONS", agent="friendly-scanner")
        scanner.send("OPTIONS")
        assert await scanner.answers(0.4) == []
    with attacker(fleet, GUESSER) as guesser:
        for _ in range(6):
            guesser.send("REGISTER")
            await asyncio.sleep(0.25)
        assert await guesser.answers(0.3) == [403, 403, 403]
    banned = {line["source"]: line["reason"] for line in fleet.logged("source_banned")}
    assert banned[SCANNER] == "scanner"
    assert banned[GUESSER] == "refused too often"
    assert await fleet.metric("landline_sip_bans_total", reason="scanner") == 1


async def test_a_trunk_is_never_banned_but_slowed_down(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    """Anybody can forge the address of a carrier in a datagram."""
    with attacker(fleet, "127.0.0.1") as forger:
        forger.send("OPTIONS", agent="friendly-scanner")
        assert await forger.answers(3.0, wanted=1) == [200]
        for _ in range(60):
            forger.send("INVITE", body="no SDP")
        statuses = await forger.answers(4.0, wanted=60)
    # 15 in each second; the machine may be too busy to take all sixty within one.
    assert statuses.count(503) >= 15
    assert 0 < statuses.count(400) <= 45
    async with SipPeer() as peer:
        await asyncio.sleep(1.0)
        await (await call(peer, fleet, agent)).hang_up()
    await idle(fleet)


async def test_a_flood_of_a_stranger_costs_a_few_answers_and_no_call(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    async with SipPeer() as peer:
        talk = await call(peer, fleet, agent)
        with attacker(fleet, FLOODER) as flooder:
            for _ in range(500):
                flooder.send("INVITE")
            statuses = await flooder.answers(0.5)
        assert len(statuses) <= 10
        assert set(statuses) <= {403}
        await talk.is_heard()
        await talk.hang_up()
    await fleet.wait_for_log("source_banned")
    await idle(fleet)


async def test_what_is_no_sip_too_large_or_asks_for_the_impossible_is_turned_away(
    agent: FakeAgent, fleet: GatewayProcess
) -> None:
    running = workers(fleet.pid)
    async with SipPeer() as peer:
        talk = await call(peer, fleet, agent)
        dialog = peer.dialog(fleet.uri())
        assert (await dialog.ask("INVITE", "x" * 6000)).status == 513
        assert (await peer.dialog(fleet.uri()).ask("PUBLISH")).status == 405
        unknown = peer.dialog(fleet.uri())
        unknown.remote_tag = "nobody"
        assert (await unknown.ask("BYE")).status == 481
        with attacker(fleet, "127.0.0.1") as vandal:
            for data in (b"\0" * 40, b"INVITE\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n", os.urandom(900)):
                vandal.socket.send(data)
            vandal.socket.send(
                b"INVITE sip:agent@127.0.0.1 SIP/2.0\r\n"
                b"Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\n"
                b"Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:agent@b>\r\nCall-ID: v\r\n"
                b"CSeq: 5 BYE\r\nContent-Length: 0\r\n\r\n"
            )
            assert await vandal.answers(3.0, wanted=1) == [400]
        await talk.is_heard()
        await talk.hang_up()
    assert workers(fleet.pid) == running
    assert edge(fleet.pid)
    await idle(fleet)


async def test_nothing_secret_lies_open_and_the_files_are_ours_alone(fleet: GatewayProcess) -> None:
    run = fleet.data_dir / "run"
    assert run.stat().st_mode & 0o777 == 0o700
    for path in run.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    await until_workers(fleet.pid, 2)
