"""Telephone keys: as events in RTP (RFC 4733), as SIP INFO, and as tones in the voice."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

DIGITS = frozenset("0123456789*#ABCD")
TONE_MS = 120
GAP_MS = 60
# A key that comes by another way so soon after it was told is still the same press of it.
SAME_PRESS_MS = 500
_SIGNAL = re.compile(r"^\s*(?:signal\s*=\s*)?([0-9*#A-D]{1,2})\s*$", re.IGNORECASE | re.MULTILINE)
_DURATION = re.compile(r"^\s*duration\s*=\s*(\d{1,5})\s*$", re.IGNORECASE | re.MULTILINE)
_EVENT_CODES = {"10": "*", "11": "#", "12": "A", "13": "B", "14": "C", "15": "D"}
_USUAL_MS = 160  # what an INFO that tells no duration is taken for


class DtmfMethod(StrEnum):
    """How a key travels."""

    RFC4733 = "rfc4733"
    INFO = "info"
    INBAND = "inband"


class DtmfMode(StrEnum):
    """How a trunk wants keys; `auto` goes by what the other side offers and does."""

    RFC4733 = "rfc4733"
    INFO = "info"
    INBAND = "inband"
    AUTO = "auto"


def valid_digits(digits: str) -> bool:
    """True for one or more of the keys that a telephone has."""
    return bool(digits) and set(digits.upper()) <= DIGITS


def sending_ms(digits: str) -> int:
    """How long it takes to send them."""
    return len(digits) * (TONE_MS + GAP_MS)


def parse_info(content_type: str, body: str) -> tuple[str, int] | None:
    """The key and milliseconds in the body of a SIP INFO; None when it tells no key.

    `application/dtmf-relay` has lines `Signal=5` and `Duration=160`, `application/dtmf` the key.
    """
    if content_type.partition(";")[0].strip().lower() not in (
        "application/dtmf-relay",
        "application/dtmf",
    ):
        return None
    signal = _SIGNAL.search(body)
    if signal is None:
        return None
    digit = _EVENT_CODES.get(signal[1], signal[1]).upper()
    duration = _DURATION.search(body)
    return (digit, int(duration[1]) if duration else _USUAL_MS) if digit in DIGITS else None


class _Press(NamedTuple):
    """A key that counted; `ended_ms` is when it was told."""

    digit: str
    method: DtmfMethod
    ended_ms: float


class Keys:
    """Decides for one call which keys count, so that none counts twice, and how ours are sent.

    Keys that come out of band are certain, tones in the voice are a guess: the first key that
    comes as an event or an INFO ends the listening for tones.
    """

    def __init__(self, mode: DtmfMode) -> None:
        self._mode = mode
        self._events_negotiated = False
        self._seen: set[DtmfMethod] = set()
        self._last = _Press("", DtmfMethod.RFC4733, 0)

    def media_changed(self, *, events_negotiated: bool) -> None:
        """A stream has begun; whether both sides speak RFC 4733 in it."""
        self._events_negotiated = events_negotiated

    @property
    def listens_to_tones(self) -> bool:
        """Whether keys are looked for in the caller's voice."""
        if self._mode is DtmfMode.INBAND:
            return True
        certain = self._events_negotiated or self._seen - {DtmfMethod.INBAND}
        return self._mode is DtmfMode.AUTO and not certain

    def accepts(
        self, digit: str, method: DtmfMethod, now_ms: float, *, duration_ms: float = 0
    ) -> bool:
        """Whether this key counts: False for one that was told already, or came in a way that
        the trunk does not use. `duration_ms` is how long it has been pressed until now.
        """
        if method is DtmfMethod.INBAND and not self.listens_to_tones:
            return False
        if method is not DtmfMethod.INBAND and self._mode is DtmfMode.INBAND:
            return False
        if self._mode is DtmfMode.RFC4733 and method is DtmfMethod.INFO and self._events_negotiated:
            return False
        if self._mode is DtmfMode.INFO and method is DtmfMethod.RFC4733:
            return False
        self._seen.add(method)
        last = self._last
        began_ms = now_ms - duration_ms
        if (
            digit == last.digit
            and method is not last.method
            and began_ms < last.ended_ms + SAME_PRESS_MS
        ):
            return False
        self._last = _Press(digit, method, now_ms)
        return True

    @property
    def sending(self) -> DtmfMethod:
        """How our own keys go out."""
        if self._mode is not DtmfMode.AUTO:
            return DtmfMethod(self._mode)
        if self._events_negotiated:
            return DtmfMethod.RFC4733
        return DtmfMethod.INFO if DtmfMethod.INFO in self._seen else DtmfMethod.INBAND


class KeyPress:
    """Puts the packets of a telephone event together: one key, once, with its duration.

    A key whose end packets are all lost is told when the next one begins.
    """

    def __init__(self) -> None:
        self._digit = ""
        self._duration_ms = 0

    def update(
        self, digit: str, duration_ms: int, *, begins: bool, ends: bool
    ) -> list[tuple[str, int]]:
        """Take one packet; returns the keys that are now complete, as (digit, duration_ms)."""
        complete: list[tuple[str, int]] = []
        if self._digit and (begins or digit != self._digit):
            complete.append((self._digit, self._duration_ms))
            self._digit = ""
        if begins:
            self._digit = digit
        if self._digit:
            self._duration_ms = duration_ms
        if ends and self._digit:
            complete.append((self._digit, duration_ms))
            self._digit = ""
        return complete
