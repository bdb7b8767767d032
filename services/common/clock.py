"""Time as something that is handed in, so that logic can be run under a clock of the test's own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """`now_ms` is monotonic and for intervals; `wall_ms` is Unix time and for records only."""

    def now_ms(self) -> float: ...

    def wall_ms(self) -> int: ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> float:
        return time.monotonic_ns() / 1e6

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


@dataclass(slots=True)
class ManualClock:
    """A clock that moves only when told to."""

    ms: float = 0.0
    wall_start_ms: int = 1_700_000_000_000

    def now_ms(self) -> float:
        return self.ms

    def wall_ms(self) -> int:
        return self.wall_start_ms + int(self.ms)

    def advance(self, ms: float) -> None:
        self.ms += ms
