#!/usr/bin/env python
"""What one call costs at the gateway, and how much delay it adds.

    scripts/bench/gateway.py [--quick] [--json FILE]

A real gateway process answers real SIP; callers and agent live in this process and are left out
of the CPU figures. The baseline, measured in the same run with the same callers, is a bare PJSIP
port that talks to nobody: what is above it is gRPC, playout, recording and the call itself.

Delay is one way, from the moment at which an RTP packet is due at the sender to the moment at which
the agent has the PCM of its first sample; under jitter the network's own delay is part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import random
import re
import socket
import statistics
import struct
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc.aio
import numpy as np
from report import arguments, publish

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proto" / "gen")]

from landline.agent.v1 import agent_pb2 as pb  # noqa: E402
from landline.agent.v1 import agent_pb2_grpc  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
PACKET_S = 0.02
CLICK_EVERY_PACKETS = 25
CLICK_LEVEL = 12_000
SPEECH_CHUNK_S = 0.1
SPEECH_LEAD_S = 0.3
STALL_S = 0.2
CLICK_WINDOW_S = 0.45
JITTER_S = 0.06
CONFIG = """\
[landline]
data_dir = "var"
log_format = "json"
log_level = "error"
[sip]
listen = "127.0.0.1:0"
agent = "127.0.0.1:{agent_port}"
metrics = "127.0.0.1:{metrics_port}"
[[sip.trunks]]
name = "bench"
kind = "peer"
allow = ["127.0.0.1/32"]
"""


# -- sound --------------------------------------------------------------------------------------


def ulaw(samples: np.ndarray) -> bytes:
    """G.711 µ-law of 16-bit samples."""
    biased = np.minimum(np.abs(samples.astype(np.int32)), 32_635) + 132
    exponent = np.floor(np.log2(biased)).astype(np.int32) - 7
    mantissa = (biased >> (exponent + 3)) & 0x0F
    sign = np.where(samples < 0, 0x80, 0)
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()


_SECOND = np.arange(8000) / 8000
_MURMUR = ulaw((np.sin(2 * np.pi * 300 * _SECOND) * 1500).astype(np.int16))
_CLICK = ulaw(np.where(np.arange(160) % 8 < 4, 24_000, -24_000))
_SPEECH = (np.sin(2 * np.pi * 500 * np.arange(1600) / 16_000) * 6000).astype("<i2").tobytes()


# -- the caller ---------------------------------------------------------------------------------


@dataclass(slots=True)
class RtpPattern:
    """How the packets of a call reach the network, by their number."""

    jitter_s: float = 0.0
    stall_at_s: float | None = None

    def delay_s(self, number: int, chance: random.Random) -> float:
        if self.stall_at_s is not None:
            since_s = number * PACKET_S - self.stall_at_s
            return STALL_S - since_s if 0 <= since_s < STALL_S else 0.0
        return abs(chance.gauss(0, self.jitter_s)) if self.jitter_s else 0.0


class RefusedError(Exception):
    """The answer to a request was not 2xx."""


class Caller:
    """A SIP user agent of the least kind: one call, PCMU, a click each half second."""

    def __init__(self, port: int, pattern: RtpPattern | None = None) -> None:
        self._server = (HOST, port)
        self._pattern = pattern or RtpPattern()
        self._sip = _udp_socket()
        self._rtp = _udp_socket()
        self._call_id = f"{random.getrandbits(64):x}@{HOST}"
        self._to = f"<sip:agent@{HOST}:{port}>"
        self._branch = ""
        self._media: tuple[str, int] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self.clicks_s: list[float] = []

    async def __aenter__(self) -> Self:
        await self.dial()
        self.talk()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.hang_up()

    async def dial(self) -> None:
        rtp_port = self._rtp.getsockname()[1]
        body = (
            f"v=0\r\no=- 1 1 IN IP4 {HOST}\r\ns=-\r\nc=IN IP4 {HOST}\r\nt=0 0\r\n"
            f"m=audio {rtp_port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        )
        answer = await self._request("INVITE", 1, body)
        to, media = re.search(r"\r\nTo: (.*)\r\n", answer), re.search(r"m=audio (\d+)", answer)
        if to is None or media is None:
            raise RuntimeError(f"no usable answer: {answer[:200]}")
        self._to, self._media = to[1], (HOST, int(media[1]))
        self._sip.sendto(self._text("ACK", 1), self._server)

    def talk(self) -> None:
        self._sending = asyncio.create_task(self._send_rtp())
        self._draining = asyncio.create_task(self._drain_rtp())

    async def hang_up(self) -> None:
        for task in (self._sending, self._draining):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._request("BYE", 2)
        self.close()

    def close(self) -> None:
        self._sip.close()
        self._rtp.close()

    async def _request(self, method: str, number: int, body: str = "") -> str:
        """Send a request and return its final answer; RefusedError unless that is 2xx."""
        loop = asyncio.get_running_loop()
        self._sip.sendto(self._text(method, number, body), self._server)
        async with asyncio.timeout(5):
            while True:
                text = (await loop.sock_recv(self._sip, 4000)).decode()
                if f"CSeq: {number} {method}" not in text or text.startswith("SIP/2.0 1"):
                    continue
                if not text.startswith("SIP/2.0 2"):
                    # Of the same transaction as the INVITE (RFC 3261, 17.1.1.3).
                    to = re.search(r"\r\nTo: (.*)\r\n", text)
                    self._to = to[1] if to else self._to
                    self._sip.sendto(self._text("ACK", number, branch=self._branch), self._server)
                    raise RefusedError(f"{method}: {text.splitlines()[0]}")
                return text

    def _text(self, method: str, number: int, body: str = "", *, branch: str = "") -> bytes:
        self._branch = branch or f"z9hG4bK{random.getrandbits(60):x}"
        port = self._sip.getsockname()[1]
        content = "Content-Type: application/sdp\r\n" if body else ""
        return (
            f"{method} sip:agent@{HOST}:{self._server[1]} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {HOST}:{port};rport;branch={self._branch}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:bench@{HOST}:{port}>;tag=1\r\nTo: {self._to}\r\n"
            f"Call-ID: {self._call_id}\r\nCSeq: {number} {method}\r\n"
            f"Contact: <sip:bench@{HOST}:{port}>\r\n{content}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def _send_rtp(self) -> None:
        chance = random.Random(7)
        begin, waiting = time.monotonic(), [(0.0, 0)]
        for number in itertools.count():
            due_s = begin + number * PACKET_S
            heapq.heappush(waiting, (due_s + self._pattern.delay_s(number, chance), number))
            while waiting[0][0] < due_s + PACKET_S:
                at_s, which = heapq.heappop(waiting)
                await asyncio.sleep(max(at_s - time.monotonic(), 0))
                self._send_packet(which, begin)
                if not waiting:
                    break
            await asyncio.sleep(max(due_s + PACKET_S - time.monotonic(), 0))

    def _send_packet(self, number: int, begin_s: float) -> None:
        click = number % CLICK_EVERY_PACKETS == CLICK_EVERY_PACKETS - 1
        at = number * 160 % 8000
        payload = _CLICK if click else _MURMUR[at : at + 160]
        header = struct.pack("!BBHII", 0x80, 0, number & 0xFFFF, number * 160, 77)
        if self._media is not None:
            self._rtp.sendto(header + payload, self._media)
        if click:
            self.clicks_s.append(begin_s + number * PACKET_S)

    async def _drain_rtp(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await loop.sock_recv(self._rtp, 2000)


def _udp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HOST, 0))
    made.setblocking(False)
    return made


# -- the agent ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Listener:
    """What the agent heard in one call: when each click came."""

    clicks_s: list[float] = field(default_factory=list)

    def take(self, pcm: bytes) -> None:
        now = time.monotonic()
        if self.clicks_s and now - self.clicks_s[-1] < 0.3:
            return
        if np.abs(np.frombuffer(pcm, "<i2")).max() > CLICK_LEVEL:
            self.clicks_s.append(now)


class Agent(agent_pb2_grpc.ConversationServicer):  # type: ignore[misc]
    """Talks all the time, in pieces of 100 ms, and listens for clicks."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    async def Converse(  # noqa: N802 - named by the protocol
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Any
    ) -> AsyncIterator[pb.ConverseResponse]:
        await context.send_initial_metadata(())
        listener = Listener()
        self.listeners.append(listener)
        reading = asyncio.create_task(self._read(request_iterator, listener))
        begin = time.monotonic() - SPEECH_LEAD_S
        for number in itertools.count(1):
            yield pb.ConverseResponse(play=pb.PlayAudio(mark="talk", pcm=_SPEECH))
            await asyncio.sleep(max(begin + number * SPEECH_CHUNK_S - time.monotonic(), 0))
            if reading.done():
                return

    @staticmethod
    async def _read(requests: AsyncIterator[pb.ConverseRequest], listener: Listener) -> None:
        async for request in requests:
            if request.HasField("audio"):
                listener.take(request.audio.pcm)


# -- what is measured ---------------------------------------------------------------------------


class Server:
    """A process that answers calls, and what it uses."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def stop(self) -> None:
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def start_server(*command: str) -> Server:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto' / 'gen'}"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    match = re.search(r":(\d+)\s*$", line)
    if match is None:
        raise RuntimeError(f"the server said {line!r}")
    return Server(process, int(match[1]))


@dataclass(frozen=True, slots=True)
class Cost:
    cpu_percent_per_call: float
    rss_mb: float


async def cost_of(server: Server, calls: int, seconds: float) -> Cost:
    """CPU and memory while `calls` run, without their beginning and end."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(calls):
            await stack.enter_async_context(Caller(server.port))
        await asyncio.sleep(1.0)
        begin, used = time.monotonic(), server.cpu_s()
        await asyncio.sleep(seconds)
        percent = 100 * (server.cpu_s() - used) / (time.monotonic() - begin)
        return Cost(percent / calls, server.rss_mb())


async def delays_ms(
    server: Server, agent: Agent, pattern: RtpPattern, seconds: float
) -> list[tuple[float, float]]:
    """(when it was sent, how late it was heard in ms) for each click of one call."""
    async with Caller(server.port, pattern) as caller:
        await asyncio.sleep(seconds)
    heard_s = agent.listeners[-1].clicks_s
    return [
        (sent_s - caller.clicks_s[0], (heard - sent_s) * 1000)
        for sent_s in caller.clicks_s
        for heard in [next((at for at in heard_s if 0 < at - sent_s < CLICK_WINDOW_S), None)]
        if heard is not None
    ]


async def calls_per_second(server: Server, seconds: float) -> float:
    """Complete calls without talk, one after the other, as fast as they are admitted."""
    begin, done = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        try:
            await _shortest_call(server.port)
            done += 1
        except RefusedError:
            await asyncio.sleep(0.05)
    return done / (time.monotonic() - begin)


async def _shortest_call(port: int) -> None:
    caller = Caller(port)
    try:
        await caller.dial()
        await caller.hang_up()
    finally:
        caller.close()


def stall_recovery_ms(delays: list[tuple[float, float]], stall_at_s: float) -> float | None:
    """From the end of the stall until the delay is within 20 ms of what it was before."""
    before = [ms for at_s, ms in delays if at_s < stall_at_s - 1]
    if not before:
        return None
    limit = statistics.median(before) + 20
    end_s = stall_at_s + STALL_S
    after = [(at_s, ms) for at_s, ms in delays if at_s >= end_s]
    late = [at_s for at_s, ms in after if ms > limit]
    if late and late[-1] == after[-1][0]:
        return None
    return max((late[-1] if late else end_s) - end_s, 0.0) * 1000


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def measure(quick: bool) -> dict[str, Any]:
    seconds = 6.0 if quick else 30.0
    agent = Agent()
    grpc_server = grpc.aio.server()
    agent_pb2_grpc.add_ConversationServicer_to_server(agent, grpc_server)
    agent_port = grpc_server.add_insecure_port(f"{HOST}:0")
    await grpc_server.start()
    with tempfile.TemporaryDirectory() as folder, _free_port() as metrics_port:
        config = Path(folder) / "landline.toml"
        config.write_text(CONFIG.format(agent_port=agent_port, metrics_port=metrics_port))
        gateway = await start_server("-m", "sip_gateway", "--config", str(config))
        try:
            figures = await _measure_gateway(gateway, agent, metrics_port, seconds)
        finally:
            await gateway.stop()
    await grpc_server.stop(0)
    baseline = await start_server(str(Path(__file__).with_name("bare_port.py")))
    try:
        bare = await cost_of(baseline, 3, seconds)
    finally:
        await baseline.stop()
    figures["baseline_cpu_percent_per_call"] = round(bare.cpu_percent_per_call, 3)
    figures["cpu_ratio_to_baseline"] = round(
        figures["cpu_percent_per_call"] / bare.cpu_percent_per_call, 2
    )
    return figures


async def _measure_gateway(
    gateway: Server, agent: Agent, metrics_port: int, seconds: float
) -> dict[str, Any]:
    idle_mb = gateway.rss_mb()
    one = await cost_of(gateway, 1, seconds)
    three = await cost_of(gateway, 3, seconds)
    underruns = metric(metrics_port, "landline_sip_playout_underruns_total")
    minutes = (1 + 3) * (seconds + 1) / 60
    clean = [ms for _at, ms in await delays_ms(gateway, agent, RtpPattern(), seconds)]
    jitter = await delays_ms(gateway, agent, RtpPattern(jitter_s=JITTER_S), seconds * 1.5)
    stall_at_s = seconds / 3
    stall = await delays_ms(gateway, agent, RtpPattern(stall_at_s=stall_at_s), seconds * 1.5)
    recovery = stall_recovery_ms(stall, stall_at_s)
    return {
        "calls": 3,
        "cpu_percent_per_call": round(three.cpu_percent_per_call, 3),
        "cpu_percent_one_call": round(one.cpu_percent_per_call, 3),
        "added_delay_clean_ms": round(statistics.median(clean), 1),
        "added_delay_clean_max_ms": round(max(clean), 1),
        "added_delay_jitter60_ms": round(statistics.median(ms for _at, ms in jitter), 1),
        "clicks_jitter60": len(jitter),
        "stall_recovery_ms": None if recovery is None else round(recovery),
        "underruns_per_min": round(underruns / minutes, 3),
        "rss_mb_per_call": round((three.rss_mb - idle_mb) / 3, 2),
        "rss_mb_idle": round(idle_mb, 1),
        "calls_per_second": round(await calls_per_second(gateway, 3.0), 1),
    }


@contextlib.contextmanager
def _free_port() -> Any:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    yield port


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    figures = asyncio.run(measure(options.quick))
    publish({"peer": None, **figures}, options.json)
    print(
        f"\none call costs {figures['cpu_percent_per_call']} % of a core, "
        f"{figures['cpu_ratio_to_baseline']} times a bare PJSIP port"
    )
