"""SIP messages as they passed, without what must stay secret, and their picture as a ladder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "(hidden)"
# Who knows the answer to a challenge can try passwords on it at leisure (RFC 8760, section 5).
_CREDENTIALS = re.compile(
    r"(?im)^((?:proxy-)?authorization|(?:proxy-)?authentication-info)([ \t]*:[ \t]*)"
    r"[^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*"
)
_SDP_KEY = re.compile(r"(?im)^(a=crypto:\d+ \S+ inline:)\S+")
_ICE_PASSWORD = re.compile(r"(?im)^(a=ice-pwd:)\S+")
_URI_PASSWORD = re.compile(r"(?i)(sips?:[^\s:@<>;]+):[^\s@<>;]+@")
_CSEQ = re.compile(r"(?im)^cseq[ \t]*:[ \t]*\d+[ \t]+(\S+)")
_MEDIA_LINE = re.compile(r"(?m)^m=audio (\d+) ")
_WIDTH = 46


@dataclass(frozen=True, slots=True, kw_only=True)
class SipMessage:
    """A message as it went over the wire. `at_ms` counts from the start of the examination."""

    at_ms: float
    sent: bool
    peer: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.split("\r\n", 1)[0].split("\n", 1)[0]

    @property
    def method(self) -> str:
        """Of the request, or of the request that this response answers."""
        match = _CSEQ.search(self.text)
        return match[1].upper() if match else ""

    @property
    def status(self) -> int:
        """0 for a request."""
        words = self.first_line.split(" ", 2)
        return int(words[1]) if words[0].startswith("SIP/") and words[1].isdecimal() else 0

    def header(self, name: str) -> str:
        """The first value of a header in its long form; empty when there is none."""
        match = re.search(rf"(?im)^{re.escape(name)}[ \t]*:[ \t]*(.*?)\r?$", self.text)
        return match[1] if match else ""


def redacted(text: str) -> str:
    """The message without digest answers, SRTP keys, ICE passwords and passwords in URIs."""
    text = _CREDENTIALS.sub(rf"\1\2{HIDDEN}", text)
    text = _SDP_KEY.sub(rf"\1{HIDDEN}", text)
    text = _ICE_PASSWORD.sub(rf"\1{HIDDEN}", text)
    return _URI_PASSWORD.sub(r"\1@", text)


def ladder(messages: Iterable[SipMessage]) -> str:
    """A drawing with us on the left, and each peer in its own words on the right."""
    return "\n".join(_rung(message) for message in messages)


def _rung(message: SipMessage) -> str:
    label = f" {_label(message)} "[: _WIDTH - 4]
    arrow = f"|--{label:-<{_WIDTH - 3}}>|" if message.sent else f"|<-{label:-<{_WIDTH - 3}}-|"
    return f"{message.at_ms:8.0f} ms  us {arrow} {message.peer}"


def _label(message: SipMessage) -> str:
    if message.status:
        reason = message.first_line.split(" ", 1)[1]
        label = f"{reason} ({message.method})"
    else:
        label = message.method or message.first_line[:20]
        if message.header("Authorization") or message.header("Proxy-Authorization"):
            label += " with credentials"
    media = _MEDIA_LINE.search(message.text)
    if media is not None:
        label += f", audio {_direction(message.text)} at {media[1]}"
    return label


def _direction(text: str) -> str:
    match = re.search(r"(?m)^a=(sendrecv|sendonly|recvonly|inactive)\b", text)
    return match[1] if match else "sendrecv"
