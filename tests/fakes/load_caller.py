"""A SIP caller of the least kind, for many calls at once: plain sockets, PCMU, no PJSIP.

What it says over RTP is given packet by packet, so that silence, comfort noise and gaps can be
made. What it is told is not read unless somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import socket
import struct
import time
from typing import TYPE_CHECKING, Self

import numpy as np

from tests.fakes.g711 import PCMU

if TYPE_CHECKING:
    from collections.abc import Callable


HOST = "127.0.0.1"
PACKET_S = 0.02
PACKET_SAMPLES = 160
COMFORT_NOISE = 13  # payload type (RFC 3389)
_ANSWER_S = 8.0


class RefusedError(Exception):
    """The answer to a request was not 2xx."""


_SECOND = np.arange(8000) / 8000
MURMUR = PCMU.encode((np.sin(2 * np.pi * 300 * _SECOND) * 1500).astype(np.int16))
CLICK = PCMU.encode(np.where(np.arange(PACKET_SAMPLES) % 8 < 4, 24_000, -24_000).astype(np.int16))


def murmur(number: int) -> bytes:
    """The payload of a caller's `number`th packet: a quiet tone without a seam."""
    at = number * PACKET_SAMPLES % len(MURMUR)
    return MURMUR[at : at + PACKET_SAMPLES]


def rtp(
    number: int, payload: bytes, *, payload_type: int = PCMU.payload_type, ssrc: int = 77
) -> bytes:
    """An RTP packet (RFC 3550) of a stream whose packets last 20 ms."""
    header = struct.pack(
        "!BBHII",
        0x80,
        payload_type,
        number & 0xFFFF,
        number * PACKET_SAMPLES & 0xFFFFFFFF,
        ssrc,
    )
    return header + payload


class LoadCaller(asyncio.DatagramProtocol):
    """One call. `rtp_port` is what our SDP says; without it our own RTP port."""

    def __init__(
        self, server_port: int, *, rtp_port: int | None = None, user: str = "load"
    ) -> None:
        self._server = (HOST, server_port)
        self._rtp_port = rtp_port
        self._user = user
        self._sip: asyncio.DatagramTransport | None = None
        self._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._rtp.bind((HOST, 0))
        self._rtp.setblocking(False)
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._call_id = f"{random.getrandbits(64):x}@{HOST}"
        self._to = f"<sip:agent@{HOST}:{server_port}>"
        self._target = f"sip:agent@{HOST}:{server_port}"
        self._branch = ""
        self._cseq = itertools.count(1)
        self._talking: asyncio.Task[None] | None = None
        self.media: tuple[str, int] | None = None  # where the other side wants RTP
        self.ended = asyncio.Event()  # it has hung up
        self.bye = ""  # its words

    async def open(self) -> Self:
        loop = asyncio.get_running_loop()
        self._sip, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(HOST, 0))
        return self

    async def __aenter__(self) -> Self:
        await self.open()
        await self.dial()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.hang_up()

    # -- SIP ------------------------------------------------------------------------------------

    async def dial(self) -> None:
        """Call and be answered; RefusedError otherwise."""
        await self._invite("sendrecv")

    async def hold(self, on: bool) -> None:
        """Put the other side on hold by re-INVITE, or take it back."""
        await self._invite("sendonly" if on else "sendrecv")

    async def hang_up(self) -> None:
        await self.stop_talking()
        if self.media is not None and not self.ended.is_set():
            await self._request("BYE", next(self._cseq))
        self.close()

    def close(self) -> None:
        self._rtp.close()
        if self._sip is not None:
            self._sip.close()

    async def _invite(self, direction: str) -> None:
        rtp_port = self._rtp_port or self._rtp.getsockname()[1]
        body = (
            f"v=0\r\no=- 1 {random.getrandbits(30)} IN IP4 {HOST}\r\ns=-\r\nc=IN IP4 {HOST}\r\n"
            f"t=0 0\r\nm=audio {rtp_port} RTP/AVP 0 13 101\r\n"
            "a=rtpmap:0 PCMU/8000\r\na=rtpmap:13 CN/8000\r\n"
            f"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na={direction}\r\n"
        )
        number = next(self._cseq)
        answer = await self._request("INVITE", number, body)
        to, media = re.search(r"\r\nTo: (.*)\r\n", answer), re.search(r"m=audio (\d+)", answer)
        contact = re.search(r"\r\nContact: .*<(.*?)>", answer)
        if to is None or media is None or contact is None:
            raise RuntimeError(f"no usable answer: {answer[:200]}")
        self._to, self._target, self.media = to[1], contact[1], (HOST, int(media[1]))
        self._send(self._text("ACK", number))

    async def _request(self, method: str, number: int, body: str = "") -> str:
        self._send(self._text(method, number, body))
        async with asyncio.timeout(_ANSWER_S):
            while True:
                text = await self._answers.get()
                if f"CSeq: {number} {method}" not in text or text.startswith("SIP/2.0 1"):
                    continue
                if not text.startswith("SIP/2.0 2"):
                    if method == "INVITE":  # its ACK is of the same transaction (17.1.1.3)
                        to = re.search(r"\r\nTo: (.*)\r\n", text)
                        self._to = to[1] if to else self._to
                        self._send(self._text("ACK", number, branch=self._branch))
                    raise RefusedError(f"{method}: {text.splitlines()[0]}")
                return text

    def _text(self, method: str, number: int, body: str = "", *, branch: str = "") -> bytes:
        self._branch = branch or f"z9hG4bK{random.getrandbits(60):x}"
        port = self._sip_transport.get_extra_info("sockname")[1]
        content = "Content-Type: application/sdp\r\n" if body else ""
        return (
            f"{method} {self._target} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {HOST}:{port};rport;branch={self._branch}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{self._user}@{HOST}:{port}>;tag=1\r\n"
            f"To: {self._to}\r\n"
            f"Call-ID: {self._call_id}\r\nCSeq: {number} {method}\r\n"
            f"Contact: <sip:{self._user}@{HOST}:{port}>\r\n{content}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        text = data.decode(errors="replace")
        if text.startswith("SIP/2.0"):
            self._answers.put_nowait(text)
            return
        method = text.partition(" ")[0]
        if method == "ACK":
            return
        copied = [
            line
            for line in text.split("\r\n\r\n", 1)[0].splitlines()[1:]
            if line.split(":")[0] in ("Via", "v", "From", "f", "To", "t", "Call-ID", "i", "CSeq")
        ]
        answer = "\r\n".join(["SIP/2.0 200 OK", *copied, "Content-Length: 0", "", ""])
        self._sip_transport.sendto(answer.encode(), addr)
        if method == "BYE":
            self.bye = text
            self.ended.set()

    # -- RTP ------------------------------------------------------------------------------------

    def talk(
        self, packet: Callable[[int], bytes | None], *, to: tuple[str, int] | None = None
    ) -> None:
        """Send `packet(number)` each 20 ms from now on; None sends nothing in that place."""
        self._talking = asyncio.create_task(self._talk(packet, to or self.media))

    def send_rtp(self, data: bytes, *, to: tuple[str, int] | None = None) -> None:
        """One packet; to where the other side wants them unless told otherwise."""
        with contextlib.suppress(BlockingIOError):  # then the network has lost it
            self._rtp.sendto(data, to or self.media or self._server)

    async def stop_talking(self) -> None:
        task, self._talking = self._talking, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _talk(
        self, packet: Callable[[int], bytes | None], to: tuple[str, int] | None
    ) -> None:
        begin_s = time.monotonic()
        for number in itertools.count():
            data = packet(number)
            if data is not None:
                self.send_rtp(data, to=to)
            due_s = begin_s + (number + 1) * PACKET_S
            await asyncio.sleep(max(due_s - time.monotonic(), 0))

    def _send(self, data: bytes) -> None:
        self._sip_transport.sendto(data, self._server)

    @property
    def _sip_transport(self) -> asyncio.DatagramTransport:
        assert self._sip is not None
        return self._sip
