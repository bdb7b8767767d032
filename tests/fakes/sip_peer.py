"""A SIP user agent on bare sockets, which sends what a test wants and nothing else.

It keeps no state machine: a test says each message, and may say the wrong one. Retransmissions of
the other side are dropped; BYE and OPTIONS are answered, unless a test asks for them.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from tests.fakes.g711 import CODECS, G711

WAIT_S = 6.0
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class SipMessage:
    """A request or response as it was received."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: str
    source: tuple[str, int] = ("", 0)

    @classmethod
    def parse(cls, data: bytes, source: tuple[str, int]) -> SipMessage:
        head, _, body = data.decode(errors="replace").partition("\r\n\r\n")
        start, *lines = head.split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return cls(
            start, tuple((name.strip(), value.strip()) for name, _, value in pairs), body, source
        )

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str:
        """The first of that name; empty when there is none."""
        return next(iter(self.all(name)), "")

    @property
    def is_request(self) -> bool:
        return not self.start.startswith("SIP/2.0")

    @property
    def method(self) -> str:
        return self.start.split(" ")[0] if self.is_request else self.header("CSeq").split(" ")[1]

    @property
    def status(self) -> int:
        return 0 if self.is_request else int(self.start.split(" ")[1])

    @property
    def uri(self) -> str:
        return self.start.split(" ")[1]

    @property
    def cseq(self) -> int:
        return int(self.header("CSeq").split(" ")[0])

    def tag(self, name: str) -> str:
        return self.header(name).partition(";tag=")[2].partition(";")[0]

    def key(self) -> tuple[str, ...]:
        """The same for a retransmission."""
        via = self.header("Via").partition("branch=")[2].partition(";")[0]
        return (
            self.start.split(" ")[0],
            via,
            self.header("CSeq"),
            str(self.status),
            self.header("RSeq"),
        )


class Rtp:
    """One RTP stream each way, G.711, with a socket of its own."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((_HOST, 0))
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]
        self.received: list[bytes] = []  # payloads of audio packets
        self.payload_types: list[int] = []
        self.events: list[bytes] = []  # payloads of telephone events
        self._sequence = itertools.count(secrets.randbelow(1000))
        self._timestamp = secrets.randbelow(1 << 30)
        self._ssrc = secrets.randbelow(1 << 32)
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._on_readable)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.socket.close()

    def _on_readable(self) -> None:
        data = self.socket.recv(2048)
        payload_type = data[1] & 0x7F
        if payload_type == 101:
            self.events.append(data[12:])
        elif payload_type in CODECS:
            self.payload_types.append(payload_type)
            self.received.append(data[12:])

    async def send(self, to: tuple[str, int], pcm: bytes, codec: G711) -> None:
        """PCM of 16 kHz in real time."""
        payload = codec.encode(np.frombuffer(pcm, "<i2")[::2])
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, at in enumerate(range(0, len(payload), 160)):
            self.send_packet(to, payload[at : at + 160], codec.payload_type)
            self._timestamp += 160
            await asyncio.sleep(
                max(0.0, begin + (number + 1) * 0.02 - asyncio.get_running_loop().time())
            )

    async def press(self, to: tuple[str, int], key: str, *, duration_ms: int = 100) -> None:
        """A telephone event (RFC 4733), its end three times."""
        code = "0123456789*#ABCD".index(key)
        for number in range(duration_ms // 20 + 3):
            end = number >= duration_ms // 20
            units = min((number + 1) * 160, duration_ms * 8)
            payload = struct.pack("!BBH", code, 0x8A if end else 0x0A, units)
            self.send_packet(to, payload, 101, marker=number == 0)
            await asyncio.sleep(0.02)
        self._timestamp += duration_ms * 8 + 480

    def send_packet(
        self, to: tuple[str, int], payload: bytes, payload_type: int, *, marker: bool = False
    ) -> None:
        head = struct.pack(
            "!BBHII",
            0x80,
            payload_type | (0x80 if marker else 0),
            next(self._sequence) & 0xFFFF,
            self._timestamp & 0xFFFFFFFF,
            self._ssrc,
        )
        self.socket.sendto(head + payload, to)

    def heard(self, codec: G711, seconds: float) -> bytes:
        """The last seconds of what came in, as 16 kHz PCM for `peak_hz`."""
        samples = codec.decode(b"".join(self.received[-int(seconds * 50) :]))
        return np.repeat(samples, 2).astype("<i2").tobytes()


@dataclass
class Dialog:
    """One dialog of a peer; the fields may be changed to send something wrong."""

    peer: SipPeer
    destination: tuple[str, int]
    remote_uri: str
    target: str
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))
    local_tag: str = field(default_factory=lambda: secrets.token_hex(4))
    remote_tag: str = ""
    user: str = "peer"
    cseq: int = 0
    routes: list[str] = field(default_factory=list)

    def send(
        self,
        method: str,
        body: str = "",
        *,
        headers: tuple[str, ...] = (),
        content_type: str = "application/sdp",
        cseq: int | None = None,
        branch: str = "",
    ) -> str:
        """Send a request; its branch."""
        if cseq is None:
            self.cseq += 1
        branch = branch or f"z9hG4bK{secrets.token_hex(6)}"
        to_tag = f";tag={self.remote_tag}" if self.remote_tag else ""
        lines = [
            f"{method} {self.target} SIP/2.0",
            f"Via: SIP/2.0/UDP {_HOST}:{self.peer.port};rport;branch={branch}",
            "Max-Forwards: 70",
            f"From: <sip:{self.user}@{_HOST}:{self.peer.port}>;tag={self.local_tag}",
            f"To: <{self.remote_uri}>{to_tag}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self.cseq if cseq is None else cseq} {method}",
            f"Contact: <sip:{self.user}@{_HOST}:{self.peer.port}>",
            *(f"Route: {route}" for route in self.routes),
            *headers,
        ]
        self.peer.transmit(lines, body, content_type, to=self.destination)
        return branch

    async def ask(self, method: str, body: str = "", **options: object) -> SipMessage:
        """Send a request and wait for its final answer; an INVITE's 2xx is not acknowledged."""
        self.send(method, body, **options)  # type: ignore[arg-type]
        return await self.final(method)

    async def final(self, method: str) -> SipMessage:
        answer = await self.peer.response(
            lambda m: (
                m.method == method
                and m.status >= 200
                and m.header("Call-ID") == self.call_id
                and m.cseq == self.cseq
            )
        )
        if answer.tag("To") and not self.remote_tag:
            self.remote_tag = answer.tag("To")
        return answer

    def ack(self, answer: SipMessage, body: str = "") -> None:
        """Acknowledge a final answer to an INVITE and learn the target from a 2xx."""
        if answer.status < 300 and answer.header("Contact"):
            self.target = _uri_in(answer.header("Contact"))
        branch = ""
        if answer.status >= 300:
            branch = answer.header("Via").partition("branch=")[2].partition(";")[0]
        self.send("ACK", body, cseq=answer.cseq, branch=branch)

    async def invite(self, body: str, **options: object) -> SipMessage:
        """INVITE to its final answer, acknowledged."""
        answer = await self.ask("INVITE", body, **options)
        self.ack(answer)
        return answer

    async def bye(self) -> None:
        answer = await self.ask("BYE")
        assert answer.status == 200, answer.start


class SipPeer:
    """`async with SipPeer() as peer:` on a free port of loopback."""

    def __init__(self, *, port: int = 0) -> None:
        self._wanted_port = port
        self.messages: list[SipMessage] = []
        self.keeps_quiet_on: set[str] = set()  # methods that the test answers itself
        self._seen: set[tuple[str, ...]] = set()
        self._changed = asyncio.Event()
        self._unread: list[SipMessage] = []

    async def __aenter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((_HOST, self._wanted_port))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.rtp = Rtp()
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._on_readable)
        return self

    async def __aexit__(self, *_error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self.rtp.close()

    def forget(self) -> None:
        """What came so far."""
        self.messages.clear()
        self._unread.clear()
        self.keeps_quiet_on.clear()
        self.rtp.received.clear()

    # -- calls ----------------------------------------------------------------------------------

    def dialog(self, uri: str, *, user: str = "peer") -> Dialog:
        """A dialog that we begin by asking `uri`."""
        return Dialog(self, _address(uri), uri, uri, user=user)

    def accept(self, invite: SipMessage) -> Dialog:
        """The dialog that their INVITE begins, seen from here."""
        return Dialog(
            self,
            destination=invite.source,
            remote_uri=_uri_in(invite.header("From")),
            target=_uri_in(invite.header("Contact")),
            call_id=invite.header("Call-ID"),
            remote_tag=invite.tag("From"),
            user=invite.header("To").partition("sip:")[2].partition("@")[0],
        )

    def sdp(
        self,
        *,
        codecs: str = "0 101",
        direction: str = "",
        address: str = _HOST,
        version: int = 1,
        port: int | None = None,
        extra: str = "",
    ) -> str:
        """An offer or answer for our RTP socket."""
        lines = [
            "v=0",
            f"o=peer 1 {version} IN IP4 {_HOST}",
            "s=-",
            f"c=IN IP4 {address}",
            "t=0 0",
            f"m=audio {self.rtp.port if port is None else port} RTP/AVP {codecs}",
        ]
        if "101" in codecs:
            lines += ["a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15"]
        if direction:
            lines.append(f"a={direction}")
        return "\r\n".join(lines) + "\r\n" + extra

    # -- messages -------------------------------------------------------------------------------

    def transmit(
        self, lines: list[str], body: str, content_type: str, *, to: tuple[str, int]
    ) -> None:
        if body:
            lines = [*lines, f"Content-Type: {content_type}"]
        lines = [*lines, f"Content-Length: {len(body)}"]
        self._socket.sendto(("\r\n".join(lines) + "\r\n\r\n" + body).encode(), to)

    def respond(
        self,
        request: SipMessage,
        status: int,
        reason: str = "Something",
        body: str = "",
        *,
        tag: str = "",
        headers: tuple[str, ...] = (),
        content_type: str = "application/sdp",
    ) -> None:
        """Answer a request."""
        to = request.header("To")
        if tag and ";tag=" not in to:
            to += f";tag={tag}"
        lines = [
            f"SIP/2.0 {status} {reason}",
            *(f"Via: {via}" for via in request.all("Via")),
            *(f"Record-Route: {route}" for route in request.all("Record-Route")),
            f"From: {request.header('From')}",
            f"To: {to}",
            f"Call-ID: {request.header('Call-ID')}",
            f"CSeq: {request.header('CSeq')}",
            f"Contact: <sip:peer@{_HOST}:{self.port}>",
            *headers,
        ]
        self.transmit(lines, body, content_type, to=request.source)

    async def request(self, method: str, *, timeout_s: float = WAIT_S) -> SipMessage:
        """The next request of a method that no one has taken yet."""
        return await self._take(lambda m: m.is_request and m.method == method, method, timeout_s)

    async def response(self, accept: Callable[[SipMessage], bool]) -> SipMessage:
        """The next response that `accept` takes."""
        return await self._take(lambda m: not m.is_request and accept(m), "response")

    def received(self, method: str) -> list[SipMessage]:
        """Every request of a method so far, taken or not."""
        return [m for m in self.messages if m.is_request and m.method == method]

    async def _take(
        self, accept: Callable[[SipMessage], bool], what: str, timeout_s: float = WAIT_S
    ) -> SipMessage:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = next((m for m in self._unread if accept(m)), None)
                    if found is not None:
                        self._unread.remove(found)
                        return found
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            starts = [message.start for message in self.messages]
            raise TimeoutError(f"no {what} among {starts}") from None

    def _on_readable(self) -> None:
        data, source = self._socket.recvfrom(65535)
        if not data.strip():
            return
        message = SipMessage.parse(data, source)
        if message.key() in self._seen:
            return
        self._seen.add(message.key())
        self.messages.append(message)
        if message.is_request and message.method in {"BYE", "OPTIONS"} - self.keeps_quiet_on:
            self.respond(message, 200, "OK", tag="auto")
        self._unread.append(message)
        self._changed.set()


def audio_of(body: str) -> tuple[str, int]:
    """Where an SDP wants its audio."""
    lines = body.replace("\r\n", "\n").split("\n")
    host = next(line.split()[-1] for line in lines if line.startswith("c="))
    port = next(int(line.split()[1]) for line in lines if line.startswith("m=audio"))
    return host, port


def direction_of(body: str) -> str:
    """`sendrecv` where an SDP does not say."""
    known = ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")
    found = [line[2:] for line in body.replace("\r\n", "\n").split("\n") if line in known]
    return found[0] if found else "sendrecv"


def _uri_in(header: str) -> str:
    """The URI of a From, To or Contact, with brackets or without."""
    bracketed = header.partition("<")[2].partition(">")[0]
    return bracketed or header.partition(";")[0].strip()


def _address(uri: str) -> tuple[str, int]:
    host, _, port = uri.partition("@")[2].partition(";")[0].rpartition(":")
    return host, int(port)
