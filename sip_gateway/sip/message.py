"""Reads what the gateway needs out of a SIP request (RFC 3261)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sip_gateway.events import Invite

if TYPE_CHECKING:
    from services.common.addresses import HostPort

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_USER = re.compile(r"<?(?:sips?|tel):([^@;>?\s]+)", re.IGNORECASE)
COMPACT_FORMS = {  # RFC 3261, 7.3.3; RFC 4028, 4
    "c": "content-type",
    "f": "from",
    "i": "call-id",
    "l": "content-length",
    "m": "contact",
    "t": "to",
    "v": "via",
    "x": "session-expires",
}
_PASSED_ON = ("diversion", "history-info", "p-asserted-identity")
# What our own edge says about a call that it lets in. Nobody else is believed.
EDGE_TRUNK = "x-landline-trunk"
EDGE_SOURCE = "x-landline-source"
_FROM_EDGE = (EDGE_TRUNK, EDGE_SOURCE)
_LONGEST_VALUE = 512
_MOST_HEADERS = 32


def parse_invite(message: str, source: str) -> Invite:
    """An Invite from the whole text of a request and its source as `ip:port`."""
    head, _, body = message.replace("\r\n", "\n").partition("\n\n")
    request_line, *lines = _unfold(head).split("\n")
    headers: dict[str, str] = {}
    passed_on: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.strip().lower()
        key = COMPACT_FORMS.get(key, key)
        headers.setdefault(key, value.strip())
        wanted = key.startswith("x-") or key in _PASSED_ON
        if key in _FROM_EDGE or (wanted and len(passed_on) < _MOST_HEADERS):
            passed_on.setdefault(name.strip(), value.strip()[:_LONGEST_VALUE])
    request_uri = request_line.split(" ")[1] if request_line.count(" ") >= 2 else ""
    ip, _, port = source.rpartition(":")
    return Invite(
        source_ip=ip.strip("[]"),
        source_port=int(port) if port.isdecimal() else 0,
        request_user=user_of(request_uri),
        caller=user_of(headers.get("from", "")),
        callee=user_of(headers.get("to", "")) or user_of(request_uri),
        sip_call_id=headers.get("call-id", ""),
        body=body,
        called_party=user_of(headers.get("p-called-party-id", "")),
        diverted_from=user_of(headers.get("diversion", "")),
        headers=passed_on,
    )


def from_edge(invite: Invite, edge: HostPort | None) -> Invite:
    """The Invite as the edge describes it; without its headers when it is not from the edge."""
    told = {name.lower(): value for name, value in invite.headers.items()}
    headers = {
        name: value for name, value in invite.headers.items() if name.lower() not in _FROM_EDGE
    }
    if edge is None or (invite.source_ip, invite.source_port) != edge:
        return replace(invite, headers=headers)
    ip, _, port = told.get(EDGE_SOURCE, "").rpartition(":")
    return replace(
        invite,
        headers=headers,
        trunk=told.get(EDGE_TRUNK, ""),
        source_ip=ip.strip("[]"),
        source_port=int(port) if port.isdecimal() else 0,
        via_edge=True,
    )


def user_of(text: str) -> str:
    """The user part of the first SIP or tel URI in a header; empty when there is none.

    A display name is passed over: whoever calls may write a URI into it.
    """
    text = _QUOTED.sub("", text)
    match = _USER.search(text)
    if match is None or ("@" not in text and "tel:" not in text.lower()):
        return ""
    return unquote(match[1].partition(":")[0])


def _unfold(head: str) -> str:
    return re.sub(r"\n[ \t]+", " ", head)
