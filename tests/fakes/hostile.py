"""An attack on a gateway while a call goes on, and what the attack cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import numpy as np

from tests.fakes.agent import FakeAgent
from tests.fakes.g711 import PCMU
from tests.fakes.gateway_process import GatewayProcess
from tests.fakes.sip_peer import SipMessage
from tests.fakes.talk import Talk
from tests.fakes.tones import tone

FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "this is a test")
_LONGEST_S = 90.0
_FRAME = 160
# A loaded machine delays packets of this process as well; what an attack does is far more.
_MOST_LOST = 0.1
_MOST_GROWTH_MB = 40
_START_FRAMES = 15  # until the jitter buffers run


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.asynccontextmanager
async def unharmed(
    gateway: GatewayProcess, agent: FakeAgent, talk: Talk, *, may_keep: int = 4
) -> AsyncIterator[None]:
    """Inside, both sides of `talk` speak all the time and no new call finds an agent.

    Afterwards: the process lives, nearly every packet has arrived both ways, and neither memory
    nor descriptors have leaked; `may_keep` are descriptors that PJSIP holds for half a minute.
    """
    agent.refusal = FULL
    before = (memory_mb(gateway.pid), descriptors(gateway.pid))
    rtp, loop = talk.peer.rtp, asyncio.get_running_loop()
    heard_before, received_before, began = len(talk.agent.audio), len(rtp.received), loop.time()
    talk.agent.play("witness", tone(900, _LONGEST_S))
    speaking = asyncio.create_task(rtp.send(talk.audio, tone(440, _LONGEST_S), PCMU))
    try:
        yield
        await asyncio.sleep(0.5)
        assert gateway.process.returncode is None, f"the gateway died: {gateway.stray}"
        seconds = loop.time() - began
        _require_sound(bytes(talk.agent.audio[heard_before:]), seconds, "the agent")
        payloads = rtp.received[received_before:]
        decoded = PCMU.decode(b"".join(payloads)).astype("<i2")
        _require_sound(np.repeat(decoded, 2).tobytes(), seconds, "the caller")
    finally:
        speaking.cancel()
        talk.agent.clear("witness over")
        agent.refusal = None
    memory, files = memory_mb(gateway.pid) - before[0], 0
    for _ in range(100):  # connections and refused calls are given back within moments
        files = descriptors(gateway.pid) - before[1]
        if files <= may_keep:
            break
        await asyncio.sleep(0.1)
    assert files <= may_keep, f"{files} descriptors more"
    assert memory < _MOST_GROWTH_MB, f"{memory:.0f} MB more"


def _require_sound(pcm: bytes, seconds: float, who: str) -> None:
    frames = np.frombuffer(pcm[: len(pcm) // 640 * 640], "<i2").reshape(-1, 320).astype(float)
    loud = int((np.sqrt((frames**2).mean(axis=1)) > 500).sum()) if len(frames) else 0
    wanted = seconds * 50 * (1 - _MOST_LOST) - _START_FRAMES
    assert loud >= wanted, f"{who} heard {loud} of {seconds * 50:.0f} frames"


class Attacker:
    """Datagrams from an address of ours, and the answers that they get."""

    def __init__(self, gateway: GatewayProcess, *, source: str = "127.0.0.1") -> None:
        host, _, port = gateway.address.rpartition(":")
        self._target = (host, int(port))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        self._socket.bind((source, 0))
        self._socket.setblocking(False)
        self.source: str = source
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._target)

    async def send_all(self, datagrams: Iterable[bytes], *, pause_s: float = 0.002) -> None:
        for datagram in datagrams:
            self.send(datagram)
            await asyncio.sleep(pause_s)

    def answers(self) -> list[SipMessage]:
        """All that came back since the last time."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(SipMessage.parse(self._socket.recv(65_535), self._target))
        return found

    async def final(self, call_id: str, *, timeout_s: float = 2.0) -> int:
        """The first final answer of a call; 0 when none comes."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while loop.time() < end:
            for answer in self.answers():
                ours = call_id and call_id in (answer.header("Call-ID"), answer.header("i"))
                if answer.status >= 200 and ours:
                    return answer.status
            await asyncio.sleep(0.01)
        return 0

    def request(
        self,
        method: str,
        name: str,
        *,
        body: str = "",
        content_type: str = "application/sdp",
        headers: tuple[str, ...] = (),
        target: str = "agent",
    ) -> bytes:
        """A well-formed request outside of any dialog; `name` is its Call-ID."""
        host, port = self._target
        lines = [
            f"{method} sip:{target}@{host}:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.source}:{self.port};rport;branch=z9hG4bK{name}{method}",
            "Max-Forwards: 70",
            f"From: <sip:attacker@{self.source}:{self.port}>;tag={name}",
            f"To: <sip:{target}@{host}:{port}>",
            f"Call-ID: {name}",
            f"CSeq: 1 {method}",
            f"Contact: <sip:attacker@{self.source}:{self.port}>",
            *headers,
        ]
        if body:
            lines.append(f"Content-Type: {content_type}")
        return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", body)).encode("latin-1")
