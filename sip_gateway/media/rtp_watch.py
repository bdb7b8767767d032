"""Whether the other side's audio comes at all: said once when it never did, and when it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RtpTrouble(StrEnum):
    ONE_WAY = "one_way_audio"  # we send, and nothing has ever come
    TIMEOUT = "rtp_timeout"  # nothing comes any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Signs of the other side, each counted from the call's beginning."""

    packets_sent: int
    packets_received: int
    rtcp_received: int  # a side that suppresses silence still reports


class RtpWatch:
    """Fed with counts from time to time. While either side holds the call nothing need come."""

    def __init__(self, *, timeout_ms: float, one_way_ms: float, now_ms: float) -> None:
        """`timeout_ms` 0: a call without audio goes on for ever."""
        self._timeout_ms = timeout_ms
        self._one_way_ms = one_way_ms
        self._began_ms = self._alive_ms = now_ms
        self._last: Life | None = None
        self._told_one_way = False

    def update(self, life: Life, *, held: bool, now_ms: float) -> RtpTrouble | None:
        """What these counts show."""
        before, self._last = self._last, life
        signs = (life.packets_received, life.rtcp_received)
        grew = (
            any(signs)
            if before is None
            else signs
            != (
                before.packets_received,
                before.rtcp_received,
            )
        )
        if held or grew:
            self._alive_ms = now_ms
        if held and not life.packets_received:
            self._began_ms = now_ms
        if self._timeout_ms and now_ms - self._alive_ms >= self._timeout_ms:
            return RtpTrouble.TIMEOUT
        never = life.packets_sent > 0 and life.packets_received == 0
        if never and not self._told_one_way and now_ms - self._began_ms >= self._one_way_ms:
            self._told_one_way = True
            return RtpTrouble.ONE_WAY
        return None

    def next_look_ms(self, now_ms: float, *, at_most_ms: float) -> float:
        """In how long something may be due that `update` would tell."""
        due_ms = [at_most_ms]
        if self._timeout_ms:
            due_ms.append(self._alive_ms + self._timeout_ms - now_ms)
        if not self._told_one_way and not (self._last and self._last.packets_received):
            due_ms.append(self._began_ms + self._one_way_ms - now_ms)
        return max(min(due_ms), _SHORTEST_MS)


_SHORTEST_MS = 50.0
