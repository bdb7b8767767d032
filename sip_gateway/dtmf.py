"""Telephone events (RFC 4733) as keys that were pressed."""

from __future__ import annotations

DIGITS = frozenset("0123456789*#ABCD")
TONE_MS = 120
GAP_MS = 60


def valid_digits(digits: str) -> bool:
    """True for one or more of the keys that a telephone has."""
    return bool(digits) and set(digits.upper()) <= DIGITS


def sending_ms(digits: str) -> int:
    """How long it takes to send them."""
    return len(digits) * (TONE_MS + GAP_MS)


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
