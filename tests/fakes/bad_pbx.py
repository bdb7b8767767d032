"""A PBX with everything wrong with it: it answers calls, and that is all that it does well."""

from __future__ import annotations

import asyncio
import re

_SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
)


class BadPbx(asyncio.DatagramProtocol):
    """Sends no audio, takes no keys, no hold, no refresh and no transfer, and its clock is off.

    It says that it sees its callers at another address, as one behind a NAT would.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> BadPbx:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._transport is not None
        self._transport.close()

    @property
    def address(self) -> str:
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        text = data.decode(errors="replace")
        method = text.split(" ", 1)[0]
        self.requests.append(method)
        if method == "INVITE":
            in_dialog = ";tag=" in _header(text, "To")
            self._answer(text, source, "488 Not Acceptable Here" if in_dialog else "200 OK")
        elif method == "REFER":
            self._answer(text, source, "603 Decline")
        elif method != "ACK":
            self._answer(text, source, "200 OK")

    def _answer(self, request: str, source: tuple[str, int], status: str) -> None:
        assert self._transport is not None
        offer = status == "200 OK" and request.startswith("INVITE")
        body = _SDP.format(port=9) if offer else ""
        via = _header(request, "Via").replace(";rport", f";received=203.0.113.9;rport={source[1]}")
        to = _header(request, "To")
        lines = [
            f"SIP/2.0 {status}",
            f"Via: {via}",
            f"From: {_header(request, 'From')}",
            f"To: {to if ';tag=' in to else to + ';tag=bad'}",
            f"Call-ID: {_header(request, 'Call-ID')}",
            f"CSeq: {_header(request, 'CSeq')}",
            f"Contact: <sip:bad@{self.address}>",
            "Date: Thu, 01 Jan 2015 00:00:00 GMT",
            *(
                ["Content-Type: application/sdp", "Session-Expires: 60;refresher=uac"]
                if body
                else []
            ),
            f"Content-Length: {len(body)}",
        ]
        self._transport.sendto(("\r\n".join(lines) + "\r\n\r\n" + body).encode(), source)


def _header(text: str, name: str) -> str:
    match = re.search(rf"(?im)^{name}\s*:\s*(.*?)\r?$", text)
    assert match is not None
    return match[1]
