"""Counts that must hold over all workers: channels, new calls a minute and calls a day by trunk.

`Ledger` counts and keeps each day's totals in a file. One worker uses it in its own process
(`LocalLedger`); several ask the one that their supervisor serves (`LedgerServer`,
`LedgerClient`) on a Unix socket with one JSON object a line. Days are those of UTC.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeAlias

import structlog

from services.common.errors import LandlineError
from sip_gateway import telemetry
from sip_gateway.trunks.limits import Direction, TrunkLimits

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.clock import Clock

FILE_NAME = "ledger.jsonl"
_MINUTE_MS = 60_000.0
_DAY_MS = 86_400_000
_CHANNELS_RETRY_S = 10
_log = structlog.get_logger()

Line: TypeAlias = tuple[str, Direction]  # a trunk and a direction


class LedgerUnavailableError(LandlineError):
    """The ledger did not answer; nothing is known about the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """One call as the ledger sees it."""

    call_id: str
    trunk: str
    direction: Direction
    limits: TrunkLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A limit is reached: `limit` is a word for the counter, `why` plain words for the log."""

    limit: str
    why: str
    retry_after_s: int


class CallLedger(Protocol):
    """What a worker needs of the ledger, wherever it is."""

    async def take(self, booking: Booking) -> Denial | None:
        """Book the call: None when it fits; LedgerUnavailableError when nobody knows."""
        ...

    async def give_back(self, call_id: str) -> None:
        """The call is over; calling it twice, or for a call that was denied, does no harm."""
        ...

    async def close(self) -> None: ...


class DailyTotals:
    """Calls by day, trunk and direction, in a file that takes one line for each new call.

    The last line of a key is its total. A line that was cut off, by a crash or a full disk, costs
    that one count; the rest of the file is believed. The file is written anew, atomically, at
    the start and when the day changes.
    """

    def __init__(self, path: Path | None, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._totals: dict[tuple[str, str, Direction], int] = {}
        self._day = self.today()
        self._broken = False
        if path is not None:
            self._load(path)
            self._rewrite()

    def today(self) -> str:
        return f"{datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC):%Y-%m-%d}"

    def count(self, line: Line) -> int:
        return self._totals.get((self.today(), *line), 0)

    def add(self, line: Line) -> None:
        key = (self.today(), *line)
        self._totals[key] = self._totals.get(key, 0) + 1
        if key[0] != self._day:
            self._day = key[0]
            self._forget_old_days()
            self._rewrite()
        else:
            self._append(_text(key, self._totals[key]))

    def seconds_left_today(self) -> int:
        return (_DAY_MS - self._clock.wall_ms() % _DAY_MS) // 1000 + 1

    def _load(self, path: Path) -> None:
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            self._failed("cannot be read", error)
            return
        unreadable = 0
        for text in lines:
            try:
                item = json.loads(text)
                key = (str(item["day"]), str(item["trunk"]), Direction(item["direction"]))
                # A total never shrinks, whatever order damaged lines left behind.
                self._totals[key] = max(int(item["total"]), self._totals.get(key, 0))
            except (ValueError, KeyError, TypeError):
                unreadable += 1
        if unreadable:
            telemetry.LEDGER_ERRORS.inc(unreadable)
            _log.warning("ledger_lines_unreadable", path=str(path), lines=unreadable)
        self._forget_old_days()

    def _forget_old_days(self) -> None:
        # Yesterday stays, for a clock that is set back over midnight.
        days = sorted({day for day, _trunk, _direction in self._totals} | {self.today()})[-2:]
        self._totals = {key: total for key, total in self._totals.items() if key[0] in days}

    def _rewrite(self) -> None:
        if self._path is None:
            return
        text = b"".join(_text(key, total) for key, total in self._totals.items())
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            self._failed("cannot be written", error)

    def _append(self, text: bytes) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write(text)
        except OSError as error:
            self._failed("cannot be written", error)
        else:
            self._broken = False

    def _failed(self, what: str, error: OSError) -> None:
        telemetry.LEDGER_ERRORS.inc()
        if not self._broken:  # once, not for each call
            self._broken = True
            _log.error(
                "ledger_file_failed",
                path=str(self._path),
                reason=f"{what}: {error.strerror}",
                effect="daily totals are counted in memory and start anew at the next restart",
            )


class Ledger:
    """Every call that any worker has, and who holds it. Not for several threads."""

    def __init__(self, *, clock: Clock, path: Path | None = None) -> None:
        """`path`: the file of the daily totals; None keeps them in memory."""
        self._clock = clock
        self._totals = DailyTotals(path, clock=clock)
        self._held: dict[str, tuple[str, Line]] = {}
        self._channels: defaultdict[Line, int] = defaultdict(int)
        self._begun_ms: defaultdict[Line, deque[float]] = defaultdict(deque)

    def take(self, owner: str, booking: Booking) -> Denial | None:
        """Book a call for `owner`, or say which limit is reached. Booking twice counts once."""
        if booking.call_id in self._held:
            return None
        denial = self._denial(booking)
        if denial is None:
            self._hold(owner, booking)
            line = (booking.trunk, booking.direction)
            self._begun_ms[line].append(self._clock.now_ms())
            self._totals.add(line)
        return denial

    def resume(self, owner: str, booking: Booking) -> None:
        """A call that was booked before, at a ledger that is gone, whatever the limits say.

        It is the new owner's from now on: that the old connection broke may be heard of later.
        """
        held = self._held.get(booking.call_id)
        if held is None:
            self._hold(owner, booking)
        else:
            self._held[booking.call_id] = (owner, held[1])

    def give_back(self, call_id: str) -> None:
        held = self._held.pop(call_id, None)
        if held is not None:
            self._channels[held[1]] -= 1

    def owner_gone(self, owner: str) -> int:
        """Free every channel of an owner that died; how many those were."""
        lost = [call_id for call_id, (holder, _line) in self._held.items() if holder == owner]
        for call_id in lost:
            self.give_back(call_id)
        return len(lost)

    def channels(self, trunk: str, direction: Direction | None = None) -> int:
        """Calls that a trunk carries now; None: both directions."""
        directions = Direction if direction is None else (direction,)
        return sum(self._channels.get((trunk, item), 0) for item in directions)

    def today(self, trunk: str, direction: Direction) -> int:
        return self._totals.count((trunk, direction))

    def _hold(self, owner: str, booking: Booking) -> None:
        line = (booking.trunk, booking.direction)
        self._held[booking.call_id] = (owner, line)
        self._channels[line] += 1

    def _denial(self, booking: Booking) -> Denial | None:
        trunk, direction, limits = booking.trunk, booking.direction, booking.limits
        line, own = (trunk, direction), limits.of(direction)
        if _reached(self.channels(trunk), limits.channels):
            return _denied(trunk, "channels", limits.channels, "calls at a time", _CHANNELS_RETRY_S)
        if _reached(self.channels(trunk, direction), own.channels):
            what = f"{direction} calls at a time"
            return _denied(trunk, f"{direction}_channels", own.channels, what, _CHANNELS_RETRY_S)
        begun, now_ms = self._begun_ms[line], self._clock.now_ms()
        while begun and begun[0] <= now_ms - _MINUTE_MS:
            begun.popleft()
        if _reached(len(begun), own.per_minute):
            wait_s = int((begun[0] + _MINUTE_MS - now_ms) / 1000) + 1 if begun else 60
            what = f"new {direction} calls a minute"
            return _denied(trunk, f"{direction}_per_minute", own.per_minute, what, wait_s)
        if _reached(self._totals.count(line), own.per_day):
            wait_s = self._totals.seconds_left_today()
            what = f"{direction} calls a day"
            return _denied(trunk, f"{direction}_per_day", own.per_day, what, wait_s)
        return None


class LocalLedger:
    """The ledger of a worker that has it to itself (CallLedger)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def take(self, booking: Booking) -> Denial | None:
        return self._ledger.take("", booking)

    async def give_back(self, call_id: str) -> None:
        self._ledger.give_back(call_id)

    async def close(self) -> None:
        """Nothing to do: each count is in the file already."""


def _reached(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _denied(trunk: str, limit: str, value: int | None, what: str, retry_after_s: int) -> Denial:
    why = f"trunk {trunk!r} has reached its limit of {value} {what}"
    return Denial(limit=limit, why=why, retry_after_s=retry_after_s)


def _text(key: tuple[str, str, Direction], total: int) -> bytes:
    day, trunk, direction = key
    item = {"day": day, "trunk": trunk, "direction": direction, "total": total}
    return json.dumps(item).encode() + b"\n"
