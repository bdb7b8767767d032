"""How many calls a recogniser can bear, by how busy the calls that it has keep it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MEMORY_MS = 10_000.0
_MIN_STREAMS = 2
_MIN_OBSERVED_MS = 2_000.0


@dataclass(slots=True, kw_only=True)
class Load:
    """Share of the time that the devices decode, as a mean that forgets within some 10 s.

    `devices` is how many decode at the same time; a load of 1 is all of them, all of the time.
    """

    devices: int
    limit: float
    _busy: float = 0.0
    _since_ms: float | None = None
    _observed_ms: float = 0.0

    def decoded(self, began_ms: float, ended_ms: float) -> None:
        """A device was busy for this time."""
        self._advance(ended_ms)
        self._busy += max(ended_ms - began_ms, 0.0) / _MEMORY_MS / self.devices

    def share(self, now_ms: float) -> float:
        """The load now."""
        self._advance(now_ms)
        seen = 1.0 - math.exp(-self._observed_ms / _MEMORY_MS)
        return self._busy / seen if seen > 0 else 0.0

    def refusal(self, now_ms: float, streams: int) -> str:
        """Why one more call than `streams` would be too many; empty when it is not.

        A new call is taken to need as much as each of the present ones does.
        """
        share = self.share(now_ms)
        if streams < _MIN_STREAMS or self._observed_ms < _MIN_OBSERVED_MS:
            return ""
        expected = share * (streams + 1) / streams
        if expected <= self.limit:
            return ""
        return (
            f"{streams} calls keep the recogniser busy for {share:.0%} of the time; "
            f"one more would make it {expected:.0%}, and {self.limit:.0%} is the limit"
        )

    def _advance(self, now_ms: float) -> None:
        if self._since_ms is None:
            self._since_ms = now_ms
        passed = max(now_ms - self._since_ms, 0.0)
        self._since_ms += passed
        self._observed_ms += passed
        self._busy *= math.exp(-passed / _MEMORY_MS)
