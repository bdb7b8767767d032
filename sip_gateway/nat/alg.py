"""Recognises what a router's SIP helper ("SIP ALG") has done to messages, and says what to do.

Such helpers rewrite private addresses inside SIP as they pass, often only some of them, without
correcting the length, or only in one direction. Pure: text in, findings out. An address that is
private everywhere is no damage but plain NAT: `answer_source` and the RTP source lock are for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from sip_gateway.nat.reach import is_on_internet
from sip_gateway.sip.message import COMPACT_FORMS

_IP = r"\d{1,3}(?:\.\d{1,3}){3}"
_URI_HOST = re.compile(rf"sips?:(?:[^@>\s;]*@)?({_IP})", re.IGNORECASE)
_VIA = re.compile(rf"SIP\s*/\s*2\.0\s*/\s*\w+\s+({_IP})(?::(\d+))?", re.IGNORECASE)
_BRANCH = re.compile(r";\s*branch=([^;,\s]+)", re.IGNORECASE)
_RECEIVED = re.compile(r";\s*received=([^;,\s]+)", re.IGNORECASE)
_CONNECTION = re.compile(rf"^c=IN IP4 ({_IP})", re.MULTILINE)
_RTCP = re.compile(rf"^a=rtcp:\d+ IN IP4 ({_IP})", re.MULTILINE)
_SWITCH_OFF = 'switch off "SIP ALG" (also "SIP helper", "SIP fixup") in the router'
_OR_TCP = (
    _SWITCH_OFF + ", or use transport = tcp or TLS, which it cannot read or mostly leaves alone"
)


class Damage(StrEnum):
    """A word for the counter."""

    LENGTH = "content_length"
    TRUNCATED = "sdp_truncated"
    SDP_HALF = "sdp_half_rewritten"
    SIGNALLING_HALF = "signalling_half_rewritten"
    VIA_MASKED = "via_rewritten"
    ECHO_CHANGED = "answer_changed"
    CONTACT_CHANGED = "contact_rewritten"
    SOURCE_ODD = "received_wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgFinding:
    """One piece of damage: what was seen, what it breaks, and what to do."""

    damage: Damage
    evidence: str
    effect: str
    remedy: str


def examine_received(message: str, source: str) -> tuple[AlgFinding, ...]:
    """A request that came from `source` (`ip:port`)."""
    found = [*_length(message), *_truncation(message)]
    parsed = _Message(message)
    if len(parsed.vias) == 1:  # a proxy on the way has addresses of its own
        found += _half_rewritten(parsed, source.rpartition(":")[0])
    return tuple(found)


def examine_answer(answer: str, source: str, request: str = "") -> tuple[AlgFinding, ...]:
    """An answer that came from `source`, and the request of ours that it answers if it is known."""
    found = [*_length(answer), *_truncation(answer)]
    parsed, ip = _Message(answer), source.rpartition(":")[0]
    found += _masked_via(parsed, ip)
    if request:
        asked = _Message(request)
        found += _changed_echo(asked, parsed)
        found += _changed_contact(asked, parsed)
    return tuple(found)


class _Message:
    """The headers that matter here, and the body."""

    def __init__(self, text: str) -> None:
        head, self.separator, self.body = text.replace("\r\n", "\n").partition("\n\n")
        self.first, *lines = re.sub(r"\n[ \t]+", " ", head).split("\n")
        self.headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            key = name.strip().lower()
            self.headers.setdefault(COMPACT_FORMS.get(key, key), []).append(value.strip())

    def one(self, name: str) -> str:
        return self.headers.get(name, [""])[0]

    @property
    def vias(self) -> list[str]:
        return [via.strip() for line in self.headers.get("via", []) for via in line.split(",")]

    @property
    def contact_ip(self) -> str:
        match = _URI_HOST.search(self.one("contact"))
        return match[1] if match else ""


def _length(text: str) -> list[AlgFinding]:
    message = _Message(text)
    declared = message.one("content-length")
    if not declared.isdecimal():
        return []
    body = text.partition("\r\n\r\n")[2] if "\r\n\r\n" in text else message.body
    actual = len(body.encode())
    if int(declared) == actual:
        return []
    return [
        AlgFinding(
            damage=Damage.LENGTH,
            evidence=f"Content-Length says {declared}, the body has {actual} bytes",
            effect="the end of the SDP is cut off, or over TCP the next message is misread",
            remedy=_SWITCH_OFF,
        )
    ]


def _truncation(text: str) -> list[AlgFinding]:
    message = _Message(text)
    body = message.body
    if not body.startswith("v=0"):
        return []
    media = body.partition("\nm=")[2]
    if not media:
        evidence = "the SDP has no m= line"
    elif not body.endswith("\n"):
        evidence = f"the SDP ends in the middle of {body.rsplit(chr(10), 1)[-1]!r}"
    elif not _CONNECTION.search(body) and "c=IN IP6" not in body:
        evidence = "the SDP has no c= line"
    else:
        return []
    return [
        AlgFinding(
            damage=Damage.TRUNCATED,
            evidence=evidence,
            effect="codecs or addresses are missing, so that the call fails or stays silent",
            remedy=_OR_TCP,
        )
    ]


def _half_rewritten(message: _Message, source_ip: str) -> list[AlgFinding]:
    found: list[AlgFinding] = []
    connection = _CONNECTION.findall(message.body)
    rtcp = _RTCP.search(message.body)
    if connection and rtcp and rtcp[1] != connection[-1] and _mixed(rtcp[1], connection[-1]):
        found.append(
            AlgFinding(
                damage=Damage.SDP_HALF,
                evidence=f"SDP sends audio to {connection[-1]} and its reports to {rtcp[1]}",
                effect="loss and delay are not reported; some phones hang up without reports",
                remedy=_SWITCH_OFF,
            )
        )
    via = _VIA.search(message.vias[0])
    told = {
        "Via": via[1] if via else "",
        "Contact": message.contact_ip,
        "SDP": connection[-1] if connection else "",
    }
    public = [f"{name} {ip}" for name, ip in told.items() if ip and ip == source_ip]
    private = [f"{name} {ip}" for name, ip in told.items() if ip and not is_on_internet(ip)]
    if is_on_internet(source_ip) and public and private:
        found.append(
            AlgFinding(
                damage=Damage.SIGNALLING_HALF,
                evidence=f"{' and '.join(public)}, but {' and '.join(private)}",
                effect="audio or a hang-up goes to the private address and is lost",
                remedy=_SWITCH_OFF,
            )
        )
    return found


def _masked_via(answer: _Message, source_ip: str) -> list[AlgFinding]:
    via = answer.vias[0] if answer.vias else ""
    sent_by = _VIA.search(via)
    received = _RECEIVED.search(via)
    if sent_by is None or not is_on_internet(source_ip):
        return []
    if received is not None:
        if is_on_internet(received[1]) or is_on_internet(sent_by[1]):
            return []
        return [
            AlgFinding(
                damage=Damage.SOURCE_ODD,
                evidence=f"{source_ip} on the internet says it received us from {received[1]}",
                effect="our public address cannot be learnt, and calls to us are lost",
                remedy=_SWITCH_OFF,
            )
        ]
    if is_on_internet(sent_by[1]):
        return []
    return [
        AlgFinding(
            damage=Damage.VIA_MASKED,
            evidence=f"the answer of {source_ip} has our Via {sent_by[1]} and no received: "
            "it never saw that address",
            effect="a router changes our messages on their way, and will miss some",
            remedy=_OR_TCP,
        )
    ]


def _changed_echo(request: _Message, answer: _Message) -> list[AlgFinding]:
    """What an answer has to repeat as it was asked (RFC 3261, 8.2.6.2)."""
    pairs = {name: (request.one(name), answer.one(name)) for name in ("call-id", "cseq", "from")}
    pairs["branch"] = (_branch(request), _branch(answer))
    changed = [
        f"{name} {before!r} came back as {after!r}"
        for name, (before, after) in pairs.items()
        if _without_space(before) != _without_space(after)
    ]
    if not changed:
        return []
    return [
        AlgFinding(
            damage=Damage.ECHO_CHANGED,
            evidence="; ".join(changed),
            effect="answers do not match our requests, which are sent again and fail",
            remedy=_OR_TCP,
        )
    ]


def _changed_contact(request: _Message, answer: _Message) -> list[AlgFinding]:
    """Our own binding in the answer to a REGISTER (RFC 3261, 10.3, step 8)."""
    if not request.first.startswith("REGISTER ") or " 200" not in answer.first[:12]:
        return []
    ours = request.contact_ip
    listed = [ip for line in answer.headers.get("contact", []) for ip in _URI_HOST.findall(line)]
    if not ours or not listed or ours in listed:
        return []
    return [
        AlgFinding(
            damage=Damage.CONTACT_CHANGED,
            evidence=f"we registered {ours}, the registrar has {', '.join(listed)}",
            effect="calls reach us only as long as the router remembers what it changed",
            remedy=_SWITCH_OFF + ", and set public_address or stun instead",
        )
    ]


def _mixed(one: str, other: str) -> bool:
    return is_on_internet(one) != is_on_internet(other)


def _branch(message: _Message) -> str:
    match = _BRANCH.search(message.vias[0]) if message.vias else None
    return match[1] if match else ""


def _without_space(text: str) -> str:
    return re.sub(r"[\s<>]", "", text)
