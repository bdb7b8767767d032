"""What the gateway benchmark loads the gateway with, and how it looks at it from outside.

Callers are plain sockets and one clock for all of them; the agents of all calls are one gRPC
server. Both live in the benchmark's process and are left out of the gateway's figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc.aio
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proto" / "gen")]

from landline.agent.v1 import agent_pb2 as pb  # noqa: E402
from landline.agent.v1 import agent_pb2_grpc  # noqa: E402

from tests.fakes.g711 import PCMU  # noqa: E402
from tests.fakes.impaired_network import Impairment, RtpRelay  # noqa: E402
from tests.fakes.load_caller import LoadCaller, RefusedError, murmur, rtp  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
PACKET_S = 0.02
SPEECH_CHUNK_S = 0.1
SPEECH_LEAD_S = 0.3
_SPEECH = (np.sin(2 * np.pi * 500 * np.arange(1600) / 16_000) * 6000).astype("<i2").tobytes()
# Marks in the caller's voice: each is a packet of a loud tone; the pitches take turns, so that a
# mark that comes late is not taken for the next one.
MARK_EVERY_PACKETS = 7
MARK_PITCHES_HZ = (500, 1000, 1500, 2500)
MARK_LEVEL = 9_000
LONGEST_DELAY_S = 0.5
_MARKS = tuple(
    PCMU.encode((np.sin(2 * np.pi * hz * np.arange(160) / 8000) * 24_000).astype(np.int16))
    for hz in MARK_PITCHES_HZ
)


def mark_of(number: int) -> int | None:
    """The pitch of a call's `number`th packet; None for one without a mark."""
    turn, rest = divmod(number, MARK_EVERY_PACKETS)
    return turn % len(_MARKS) if rest == MARK_EVERY_PACKETS - 1 else None


def packet_of(number: int) -> bytes:
    pitch = mark_of(number)
    return rtp(number, murmur(number) if pitch is None else _MARKS[pitch])


# -- the agents -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Ear:
    """What the agent of one measured call heard: when each mark came."""

    marks: list[tuple[float, int]] = field(default_factory=list)
    statistics: list[tuple[float, pb.MediaStatistics]] = field(default_factory=list)
    _rest: np.ndarray = field(default_factory=lambda: np.empty(0, np.int16))
    _quiet_s: float = 0.0

    def take(self, pcm: bytes, now_s: float) -> None:
        samples = np.concatenate((self._rest, np.frombuffer(pcm, "<i2")))
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > MARK_LEVEL)
        self._rest = samples[:0]
        if not len(loud) or now_s < self._quiet_s:
            return
        begin = int(loud[0])
        if len(samples) - begin < 160:  # too little of it to know its pitch
            self._rest = samples[begin:].copy()
            return
        turns = np.count_nonzero(np.diff(np.signbit(samples[begin : begin + 160])))
        pitch_hz = turns / 2 * 100
        nearest = min(range(len(_MARKS)), key=lambda at: abs(MARK_PITCHES_HZ[at] - pitch_hz))
        self.marks.append((now_s, nearest))
        self._quiet_s = now_s + PACKET_S * 1.5


class Agents(agent_pb2_grpc.ConversationServicer):  # type: ignore[misc]
    """Talk all the time, in pieces of 100 ms; those of measured calls listen."""

    def __init__(self) -> None:
        self._server = grpc.aio.server()
        self.ears: dict[str, Ear] = {}  # by the caller's name
        self.taken = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        agent_pb2_grpc.add_ConversationServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"{HOST}:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._server.stop(0)

    async def Converse(  # noqa: N802 - named by the protocol
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Any
    ) -> AsyncIterator[pb.ConverseResponse]:
        started = (await anext(request_iterator)).started
        await context.send_initial_metadata(())
        self.taken += 1
        ear = self.ears.get(started.caller)
        reading = asyncio.create_task(self._read(request_iterator, ear))
        begin = time.monotonic() - SPEECH_LEAD_S
        for number in itertools.count(1):
            yield pb.ConverseResponse(play=pb.PlayAudio(mark="talk", pcm=_SPEECH))
            await asyncio.sleep(max(begin + number * SPEECH_CHUNK_S - time.monotonic(), 0))
            if reading.done():
                return

    @staticmethod
    async def _read(requests: AsyncIterator[pb.ConverseRequest], ear: Ear | None) -> None:
        async for request in requests:
            if ear is None:
                continue
            if request.HasField("audio"):
                ear.take(request.audio.pcm, time.monotonic())
            elif request.HasField("media"):
                ear.statistics.append((time.monotonic(), request.media))


# -- the callers ----------------------------------------------------------------------------------


async def dial(port: int, **options: Any) -> LoadCaller:
    """A call that is answered; tried again while the gateway says that it comes too fast."""
    for _attempt in range(40):
        caller = await LoadCaller(port, **options).open()
        try:
            await caller.dial()
        except (RefusedError, TimeoutError):
            caller.close()
            await asyncio.sleep(0.25)
        else:
            return caller
    raise RuntimeError("the gateway takes no more calls")


class Choir:
    """Calls that all talk, on one clock. `async with Choir(port, 20): ...`"""

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        self._size = size
        self._callers: list[LoadCaller] = []
        self._singing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._singing = asyncio.create_task(self._sing())
        while len(self._callers) < self._size:
            self._callers.append(await dial(self._port))
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._singing is not None
        self._singing.cancel()
        for caller in self._callers:
            with contextlib.suppress(RefusedError, TimeoutError):
                await caller.hang_up()

    async def _sing(self) -> None:
        begin_s = time.monotonic()
        for number in itertools.count():
            packet = rtp(number, murmur(number))
            for caller in tuple(self._callers):
                caller.send_rtp(packet)
            await asyncio.sleep(max(begin_s + (number + 1) * PACKET_S - time.monotonic(), 0))


@dataclass(frozen=True, slots=True)
class Trace:
    """One measured call: marks that were heard, those that were not, and what was told of it."""

    delays: list[tuple[float, float]]  # (when it was due in s, how late it was heard in ms)
    missing_s: list[float]
    reports: list[tuple[float, pb.MediaStatistics]]  # (s since the first packet, statistics)
    dropped_s: list[float]  # packets that the network lost

    @property
    def delays_ms(self) -> list[float]:
        return [ms for _at, ms in self.delays]


async def trace(agents: Agents, port: int, impairment: Impairment, seconds: float) -> Trace:
    """A call over such a network, and when its marks came to the agent."""
    name = f"measured-{len(agents.ears)}"
    ear = agents.ears[name] = Ear()
    async with RtpRelay(impairment) as relay:
        caller = await dial(port, rtp_port=relay.inner_port, user=name)
        relay.gateway = caller.media
        begin_s = time.monotonic() + 0.05
        await asyncio.sleep(0.05)
        caller.talk(packet_of, to=(HOST, relay.outer_port))
        await asyncio.sleep(seconds)
        await caller.hang_up()
        await asyncio.sleep(0.3)
    sent = [
        (begin_s + number * PACKET_S, pitch)
        for number in range(int((seconds - LONGEST_DELAY_S) / PACKET_S))
        for pitch in [mark_of(number)]
        if pitch is not None
    ]
    delays, missing_s = [], []
    for due_s, pitch in sent:
        heard_s = next(
            (at for at, heard in ear.marks if heard == pitch and 0 < at - due_s < LONGEST_DELAY_S),
            None,
        )
        if heard_s is None:
            missing_s.append(due_s - begin_s)
        else:
            delays.append((due_s - begin_s, (heard_s - due_s) * 1000))
    return Trace(
        delays=delays,
        missing_s=missing_s,
        reports=[(at - begin_s, report) for at, report in ear.statistics],
        dropped_s=[at / 1000 - begin_s for at in relay.dropped_at_ms],
    )


# -- the gateway ----------------------------------------------------------------------------------


class Processes:
    """A process and all that come from it, as /proc shows them."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def cpu_s(self) -> float:
        """User and system time of all that live now."""
        ticks = sum(int(fields[11]) + int(fields[12]) for fields in self._stat().values())
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory; pages that processes share count in each."""
        pages = sum(int(fields[21]) for fields in self._stat().values())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def names(self) -> list[str]:
        found = []
        for pid in self._stat():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip())
        return sorted(found)

    async def stop(self) -> None:
        self.process.terminate()
        await asyncio.sleep(0.2)
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()  # insists: nobody waits for calls that still talk
        try:
            await asyncio.wait_for(self.process.wait(), 20)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    def _stat(self) -> dict[int, list[str]]:
        """The fields after the name of /proc/PID/stat, of the process and its descendants."""
        everything: dict[int, list[str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                    everything[int(entry.name)] = text.rpartition(") ")[2].split()
        family = {self.process.pid}
        while True:
            more = {pid for pid, fields in everything.items() if int(fields[1]) in family} - family
            if not more:
                return {pid: everything[pid] for pid in family if pid in everything}
            family |= more


async def start(*command: str) -> Processes:
    """Start a program that says on standard output where it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto' / 'gen'}",
            "GRPC_VERBOSITY": "ERROR",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 90)).decode()
    match = re.search(r":(\d+)\s*$", line)
    if match is None:
        raise RuntimeError(f"the program said {line!r}")
    return Processes(process, int(match[1]))


def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
