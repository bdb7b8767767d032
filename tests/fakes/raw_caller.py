"""A SIP caller made of bare sockets, for what no telephone would do."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
from typing import Self

import numpy as np

FRAME_SAMPLES = 160
_ANSWER_S = 8.0
_numbers = itertools.count(1)
Address = tuple[str, int]


class RtpSocket(asyncio.DatagramProtocol):
    """Sends and receives PCMU on a UDP socket of its own."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.senders: set[Address] = set()
        self._sending: asyncio.Task[None] | None = None
        self._sequence = itertools.count(next(_numbers) * 500)
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, ip: str = "127.0.0.1", port: int = 0) -> Self:
        loop = asyncio.get_running_loop()
        _transport, protocol = await loop.create_datagram_endpoint(cls, local_addr=(ip, port))
        return protocol

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self._ssrc = next(_numbers) * 1000

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.senders.add(addr)
        if len(data) == 12 + FRAME_SAMPLES:
            self.received.append(data[12:])

    @property
    def address(self) -> Address:
        assert self._transport is not None
        ip, port = self._transport.get_extra_info("sockname")[:2]
        return ip, port

    def play(self, frequency_hz: float, to: Address, *, per_s: float = 50) -> None:
        """Send a tone until `stop`."""
        self.stop()
        self._sending = asyncio.create_task(self._play(frequency_hz, to, 1 / per_s))

    def stop(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def close(self) -> None:
        self.stop()
        if self._transport is not None:
            self._transport.close()

    def forget(self) -> None:
        self.received.clear()

    def heard(self, packets: int = 50) -> bytes:
        """The last packets as 16 kHz PCM, every sample twice."""
        samples = from_mulaw(b"".join(self.received[-packets:]))
        return np.repeat(samples, 2).astype("<i2").tobytes()

    async def _play(self, frequency_hz: float, to: Address, interval_s: float) -> None:
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for count in itertools.count():
            number = next(self._sequence)
            at = np.arange(count * FRAME_SAMPLES, (count + 1) * FRAME_SAMPLES) / 8000
            payload = to_mulaw(np.sin(2 * np.pi * frequency_hz * at) * 12_000)
            head = struct.pack(
                "!BBHII", 0x80, 0, number & 0xFFFF, number * FRAME_SAMPLES, self._ssrc
            )
            self._transport.sendto(head + payload, to)
            await asyncio.sleep(max(begin + (count + 1) * interval_s - loop.time(), 0))


class RawCaller:
    """One call at most. `rtp` is what its SDP names unless told otherwise."""

    def __init__(self, rtp: RtpSocket, *, ip: str = "127.0.0.1") -> None:
        self.rtp = rtp
        self._ip = ip
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ip, 0))
        self._socket.setblocking(False)
        self._port = self._socket.getsockname()[1]
        self._call_id = f"raw-{self._port}-{next(_numbers)}"
        self._cseq = 0
        self._to = ""
        self.contact = f"{ip}:{self._port}"
        self._gateway: Address = ("", 0)
        self.answer = ""

    async def dial(self, gateway: str, *, sdp: str = "") -> Address:
        """INVITE and ACK; where the other side wants our RTP."""
        host, _, port = gateway.rpartition(":")
        self._gateway = (host, int(port))
        self._to = f"<sip:agent@{gateway}>"
        return await self.invite(sdp=sdp)

    async def invite(self, *, rtp: Address | None = None, sdp: str = "") -> Address:
        """A first INVITE or one within the dialog; what is not 200 is an AssertionError."""
        self._cseq += 1
        body = sdp or offer(rtp or self.rtp.address, version=self._cseq)
        await self._send("INVITE", body)
        self.answer = await self._final_answer()
        assert self.answer.startswith("SIP/2.0 200"), self.answer
        self._to = re.search(r"\r\nTo: (.*)\r\n", self.answer)[1]  # type: ignore[index]
        await self._send("ACK")
        host = re.search(r"c=IN IP4 (\S+)", self.answer)[1]  # type: ignore[index]
        port = re.search(r"m=audio (\d+)", self.answer)[1]  # type: ignore[index]
        return host, int(port)

    async def bye(self) -> None:
        self._cseq += 1
        await self._send("BYE")
        await self._final_answer()

    def close(self) -> None:
        self._socket.close()
        self.rtp.close()

    async def _send(self, method: str, body: str = "") -> None:
        host, port = self._gateway
        lines = [
            f"{method} sip:agent@{host}:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._ip}:{self._port};rport;branch=z9hG4bK{next(_numbers)}",
            "Max-Forwards: 70",
            f"From: <sip:raw@{self._ip}:{self._port}>;tag=raw",
            f"To: {self._to}",
            f"Call-ID: {self._call_id}",
            f"CSeq: {self._cseq} {method}",
            f"Contact: <sip:raw@{self.contact}>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
            "",
            body,
        ]
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(self._socket, "\r\n".join(lines).encode(), self._gateway)

    async def _final_answer(self) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_ANSWER_S):
            while True:
                text = (await loop.sock_recv(self._socket, 8000)).decode()
                status = re.match(r"SIP/2\.0 ([2-6])\d\d", text)
                if status and f"CSeq: {self._cseq} " in text:
                    return text


def offer(rtp: Address, *, version: int = 1, profile: str = "RTP/AVP", extra: str = "") -> str:
    """An SDP offer of PCMU at `rtp`."""
    ip, port = rtp
    return (
        f"v=0\r\no=- 1 {version} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n"
        f"m=audio {port} {profile} 0\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\n{extra}"
    )


def to_mulaw(samples: np.ndarray) -> bytes:
    """G.711 mu-law of 16-bit samples."""
    magnitude = np.minimum(np.abs(samples.astype(np.int32)), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    code = ~(np.where(samples < 0, 0x80, 0) | (exponent << 4) | mantissa)
    return (code & 0xFF).astype(np.uint8).tobytes()


def from_mulaw(data: bytes) -> np.ndarray:
    """16-bit samples of G.711 mu-law."""
    code = ~np.frombuffer(data, np.uint8).astype(np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 132) << ((code >> 4) & 7)) - 132
    return np.where(code & 0x80, -magnitude, magnitude)
