"""Blind transfer by REFER (RFC 3515): whether a target is allowed, and what became of it."""

from __future__ import annotations

import re
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sip_gateway.events import TransferProgressed

DEADLINE_S = 40.0  # longer than a desk rings before its own voicemail would answer
# A URI as it may be given by a conversation: no headers, no spaces, no brackets.
_URI = re.compile(r"(?:sips?:[^\s<>?@\"]+@[^\s<>?@\"]+|tel:[+0-9][0-9*#().-]*)", re.IGNORECASE)
_ACCEPTED = 202


class TransferState(StrEnum):
    TRYING = "trying"
    ACCEPTED = "accepted"
    FAILED = "failed"


def allowed(target: str, patterns: Iterable[str]) -> bool:
    """True when `target` is a plain SIP or tel URI that one of `patterns` (fnmatch) names.

    Scheme and host do not care for case (RFC 3261, 19.1.4); the user part does.
    """
    if _URI.fullmatch(target) is None:
        return False
    normal = _normalised(target)
    return any(fnmatchcase(normal, _normalised(pattern)) for pattern in patterns)


def state_of(progress: TransferProgressed) -> TransferState:
    """What one report about a REFER means; 202 alone says only that it was understood."""
    if progress.sip_status >= 300:
        return TransferState.FAILED
    if progress.sip_status < 200 or (progress.sip_status == _ACCEPTED and not progress.final):
        return TransferState.TRYING
    return TransferState.ACCEPTED


def _normalised(uri: str) -> str:
    scheme, _, rest = uri.partition(":")
    user, separator, host = rest.rpartition("@")
    return f"{scheme.lower()}:{user}{separator}{host.lower()}"
