"""The little of an SDP offer that must be known before it is answered (RFC 8866)."""

from __future__ import annotations

_STATIC_PAYLOADS = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000"}


def first_common_codec(body: str, supported: tuple[str, ...]) -> str:
    """The codec that an answer to this offer will choose, as `PCMU/8000`; empty when none.

    The answerer follows the order of the offer (RFC 3264, 6.1); `supported` are encoding names.
    """
    payloads: list[str] = []
    names: dict[str, str] = {}
    in_audio = False
    for line in body.splitlines():
        if line.startswith("m="):
            in_audio = line.startswith("m=audio ") and not payloads
            if in_audio:
                payloads = line.split()[3:]
        elif in_audio and line.startswith("a=rtpmap:"):
            payload, _, name = line.removeprefix("a=rtpmap:").partition(" ")
            names[payload] = "/".join(name.strip().split("/")[:2])
    wanted = {name.upper() for name in supported}
    for payload in payloads:
        name = names.get(payload, _STATIC_PAYLOADS.get(payload, ""))
        if name.partition("/")[0].upper() in wanted:
            return name
    return ""
