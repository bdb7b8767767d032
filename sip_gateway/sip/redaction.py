"""SIP and SDP without what must stay secret."""

from __future__ import annotations

import re

HIDDEN = "(hidden)"
# Who knows the answer to a challenge can try passwords on it at leisure (RFC 8760, section 5).
_CREDENTIALS = re.compile(
    r"(?im)^((?:proxy-)?authorization|(?:proxy-)?authentication-info)([ \t]*:[ \t]*)"
    r"[^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*"
)
_SDP_KEY = re.compile(r"(?i)(\binline:)[^\s|]\S*")  # RFC 4568
_ICE_PASSWORD = re.compile(r"(?im)^(a=ice-pwd:)\S+")
_URI_PASSWORD = re.compile(r"(?i)(sips?:[^\s:@<>;]+):[^\s@<>;]+@")


def without_secrets(text: str) -> str:
    """The text without digest answers, SRTP keys, ICE passwords and passwords in URIs."""
    text = _CREDENTIALS.sub(rf"\1\2{HIDDEN}", text)
    text = _SDP_KEY.sub(rf"\1{HIDDEN}", text)
    text = _ICE_PASSWORD.sub(rf"\1{HIDDEN}", text)
    return _URI_PASSWORD.sub(r"\1@", text)
