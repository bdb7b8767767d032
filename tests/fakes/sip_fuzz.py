"""Messages that are nearly SIP: valid ones, damaged at random and reproducibly from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

METHODS = (
    "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "UPDATE", "PRACK", "INFO", "REFER",
    "SUBSCRIBE", "NOTIFY", "MESSAGE", "PUBLISH", "FUZZ",
)  # fmt: skip
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"
    "a=ptime:20\r\na=sendrecv\r\n"
)
EXTRA = (
    "Contact: <sip:fuzz@127.0.0.1:{port}>", "Record-Route: <sip:127.0.0.1;lr>",
    "Route: <sip:127.0.0.1;lr>", "Supported: 100rel, timer, replaces", "Require: 100rel",
    "Session-Expires: 90;refresher=uac", "Min-SE: 90", "Expires: 300", "Event: refer",
    "Refer-To: <sip:x@127.0.0.1?Replaces=a%3Bto-tag%3D1%3Bfrom-tag%3D2>", "Accept: application/sdp",
    "Replaces: nobody;to-tag=1;from-tag=2", "RAck: 1 1 INVITE", "Subscription-State: active",
    'Authorization: Digest username="a", realm="b", nonce="c", uri="sip:d", response="e"',
    "P-Asserted-Identity: <sip:+4930@127.0.0.1>", "Diversion: <sip:1@x>;reason=busy", "X-Y: z",
    "Allow: INVITE, ACK", "Date: Sat, 21 Nov 2026 12:00:00 GMT", "Warning: 399 x \"y\"",
)  # fmt: skip
HUGE_NUMBERS = ("-1", "0", "2147483647", "2147483648", "4294967296", "99999999999999999999", "1e9")
NASTY = (
    b"\x00", b"\xff\xfe", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"%00", b"%", b'"', b"<", b">", b";",
    b"=", b",", b"@", b":", b"[", b"]", b" " * 300, b"A" * 2000, b"\xc3\x28", b";lr" * 200,
    b"sip:" * 50, b"\t", b"\x7f",
)  # fmt: skip


class Fuzz:
    """`next_message()` for ever; the same seed gives the same messages for the same port."""

    def __init__(self, seed: int, *, port: int, target: str) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._port = port
        self._target = target
        self._number = 0
        self._mutations: tuple[Callable[[bytes], bytes], ...] = (
            self._flip, self._cut, self._repeat, self._insert, self._truncate, self._swap_lines,
            self._drop_line, self._double_line, self._blow_up_number, self._bare_line_ends,
        )  # fmt: skip

    def next_message(self) -> bytes:
        self._number += 1
        valid = self._response() if self._random.random() < 0.15 else self._request()
        damaged = valid.encode()
        for _ in range(self._random.choice((0, 1, 1, 2, 3, 8))):
            damaged = self._random.choice(self._mutations)(damaged)
        return damaged[:60_000]

    def _request(self) -> str:
        pick = self._random
        method = pick.choice(METHODS)
        body = SDP if pick.random() < 0.6 else ""
        lines = [f"{method} sip:agent@{self._target} SIP/2.0", *self._common(method)]
        lines += [line.format(port=self._port) for line in pick.sample(EXTRA, pick.randrange(6))]
        if body:
            kinds = ("application/sdp", "application/sdp", "text/plain", "multipart/mixed")
            lines.append(f"Content-Type: {pick.choice(kinds)}")
        length = len(body) if pick.random() < 0.9 else pick.choice(HUGE_NUMBERS)
        return "\r\n".join((*lines, f"Content-Length: {length}", "", body))

    def _response(self) -> str:
        method = self._random.choice(METHODS)
        status = self._random.choice((100, 180, 183, 200, 302, 401, 407, 481, 500, 699, 0, 1000))
        return "\r\n".join(
            (f"SIP/2.0 {status} X", *self._common(method), "Content-Length: 0", "", "")
        )

    def _common(self, method: str) -> tuple[str, ...]:
        # Each message has a dialog of its own: an ACK that fits an INVITE is another story.
        name = f"{self._seed}-{self._number}"
        to_tag = ";tag=t" if self._random.random() < 0.4 or method == "ACK" else ""
        return (
            f"Via: SIP/2.0/UDP 127.0.0.1:{self._port};rport;branch=z9hG4bK{name}",
            f"Max-Forwards: {self._random.choice((70, 70, 0, 1, 255))}",
            f"From: <sip:fuzz@127.0.0.1:{self._port}>;tag=f{name}",
            f"To: <sip:agent@{self._target}>{to_tag}",
            f"Call-ID: fuzz-{name}",
            f"CSeq: {self._random.randrange(1, 1000)} {method}",
        )

    # -- damage -----------------------------------------------------------------------------------

    def _at(self, data: bytes) -> int:
        return self._random.randrange(len(data) + 1)

    def _flip(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes([self._random.randrange(256)]) + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self._random.randrange(40) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._at(data)
        piece = data[at : at + self._random.randrange(60)]
        return data[:at] + piece * self._random.choice((2, 10, 200)) + data[at:]

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._random.choice(NASTY) + data[at:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _lines(self, data: bytes) -> list[bytes]:
        return data.split(b"\r\n")

    def _swap_lines(self, data: bytes) -> bytes:
        lines = self._lines(data)
        self._random.shuffle(lines)
        return b"\r\n".join(lines)

    def _drop_line(self, data: bytes) -> bytes:
        lines = self._lines(data)
        del lines[self._random.randrange(len(lines))]
        return b"\r\n".join(lines)

    def _double_line(self, data: bytes) -> bytes:
        lines = self._lines(data)
        lines.insert(self._random.randrange(len(lines) + 1), self._random.choice(lines))
        return b"\r\n".join(lines)

    def _blow_up_number(self, data: bytes) -> bytes:
        places = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
        if not places:
            return data
        at = self._random.choice(places)
        return data[:at] + self._random.choice(HUGE_NUMBERS).encode() + data[at + 1 :]

    def _bare_line_ends(self, data: bytes) -> bytes:
        return data.replace(b"\r\n", self._random.choice((b"\n", b"\r", b"\n\r")))
