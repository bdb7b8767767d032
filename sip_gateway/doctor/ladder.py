"""SIP messages as they passed, and their picture as a ladder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sip_gateway.sip.message import COMPACT_FORMS

if TYPE_CHECKING:
    from collections.abc import Iterable

_CSEQ = re.compile(r"(?im)^cseq[ \t]*:[ \t]*\d+[ \t]+(\S+)")
_MEDIA_LINE = re.compile(r"(?m)^m=audio (\d+) ")
_WIDTH = 46
_SHORT_FORMS = {name: short for short, name in COMPACT_FORMS.items()}


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
    def transaction(self) -> tuple[str, str]:
        """Call-ID and CSeq: the same in a request and its answers."""
        return self.header("Call-ID"), self.header("CSeq")

    @property
    def status(self) -> int:
        """0 for a request."""
        words = self.first_line.split(" ", 2)
        return int(words[1]) if words[0].startswith("SIP/") and words[1].isdecimal() else 0

    def header(self, name: str) -> str:
        """The first value of a header, short forms included; empty when there is none."""
        names = "|".join((re.escape(name), *_SHORT_FORMS.get(name.lower(), ())))
        match = re.search(rf"(?im)^(?:{names})[ \t]*:[ \t]*(.*?)\r?$", self.text)
        return match[1] if match else ""


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
