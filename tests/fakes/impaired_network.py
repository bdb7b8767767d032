"""A UDP relay that does to RTP what a bad network does, the same for the same seed.

    caller --> outer port |impairment| inner port --> gateway
    caller <-- outer port |as it comes| inner port <-- gateway

The caller writes the inner port into its SDP and sends to the outer one, so that the gateway sees
one address only.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from dataclasses import dataclass
from typing import Self

HOST = "127.0.0.1"
Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What the network does. Chances are 0.0 to 1.0."""

    jitter_ms: float = 0.0  # sigma of a delay of |N(0, sigma)| for each packet
    loss: float = 0.0
    reorder: float = 0.0  # chance that a packet falls behind the one after it
    stall_at_ms: float | None = None  # from the first packet on
    stall_ms: float = 200.0
    seed: int = 1


REORDERED_MS = 30.0  # one packet of 20 ms and a half


class Network:
    """Decides on each packet, in the order in which they come. No I/O, no clock."""

    def __init__(self, impairment: Impairment) -> None:
        self._what = impairment
        self._chance = random.Random(impairment.seed)
        self._first_ms: float | None = None

    def release_ms(self, now_ms: float) -> float | None:
        """When a packet that comes now goes on; None when it is lost."""
        what, chance = self._what, self._chance
        if self._first_ms is None:
            self._first_ms = now_ms
        lost, reordered = chance.random() < what.loss, chance.random() < what.reorder
        delay_ms = abs(chance.gauss(0, what.jitter_ms)) if what.jitter_ms else 0.0
        if lost:
            return None
        if reordered:
            delay_ms += REORDERED_MS
        if what.stall_at_ms is not None:
            since_ms = now_ms - self._first_ms - what.stall_at_ms
            if 0 <= since_ms < what.stall_ms:
                delay_ms = max(delay_ms, what.stall_ms - since_ms)
        return now_ms + delay_ms


class RtpRelay:
    """One call's path. `async with RtpRelay(gateway_rtp=...)`; ports are free ones of loopback."""

    def __init__(self, impairment: Impairment) -> None:
        self._network = Network(impairment)
        self._waiting: list[tuple[float, int, bytes]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._outer: asyncio.DatagramTransport | None = None
        self._inner: asyncio.DatagramTransport | None = None
        self._caller: Address | None = None
        self.gateway: Address | None = None  # known when the call is answered
        self.passed = self.returned = 0
        self.dropped_at_ms: list[float] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._outer, _ = await loop.create_datagram_endpoint(
            lambda: _Port(self._from_caller), local_addr=(HOST, 0)
        )
        self._inner, _ = await loop.create_datagram_endpoint(
            lambda: _Port(self._from_gateway), local_addr=(HOST, 0)
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for port in (self._outer, self._inner):
            if port is not None:
                port.close()

    @property
    def dropped(self) -> int:
        return len(self.dropped_at_ms)

    @property
    def outer_port(self) -> int:
        return _port_of(self._outer)

    @property
    def inner_port(self) -> int:
        return _port_of(self._inner)

    def _from_caller(self, data: bytes, source: Address) -> None:
        self._caller = source
        now_ms = time.monotonic() * 1000
        release_ms = self._network.release_ms(now_ms)
        if release_ms is None:
            self.dropped_at_ms.append(now_ms)
            return
        self.passed += 1
        heapq.heappush(self._waiting, (release_ms, self.passed, data))
        self._send_due()

    def _from_gateway(self, data: bytes, _source: Address) -> None:
        self.returned += 1
        if self._caller is not None and self._outer is not None:
            self._outer.sendto(data, self._caller)

    def _send_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ms = time.monotonic() * 1000
        while self._waiting and self._waiting[0][0] <= now_ms:
            data = heapq.heappop(self._waiting)[2]
            if self._inner is not None and self.gateway is not None:
                self._inner.sendto(data, self.gateway)
        if self._waiting:
            delay_s = max(self._waiting[0][0] - now_ms, 0) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._send_due)


class _Port(asyncio.DatagramProtocol):
    def __init__(self, receive: object) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._receive(data, addr)  # type: ignore[operator]


def _port_of(transport: asyncio.DatagramTransport | None) -> int:
    assert transport is not None
    port: int = transport.get_extra_info("sockname")[1]
    return port
