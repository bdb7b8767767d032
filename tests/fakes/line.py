"""A telephone line without a telephone: keeps commands, and plays what it is given when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.agent.line import Cleared, LineEvent, Played
from services.common.audio import bytes_to_ms


class FakeLine:
    """Implements services.agent.line.Line; `push` what happens on the line."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.queued_ms: dict[str, int] = {}
        self.complete: set[str] = set()
        self._events: asyncio.Queue[LineEvent | None] = asyncio.Queue()

    def push(self, event: LineEvent) -> None:
        self._events.put_nowait(event)

    def close(self) -> None:
        self._events.put_nowait(None)

    async def events(self) -> AsyncIterator[LineEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def play(self, mark: str, pcm: bytes, *, last: bool) -> None:
        self.queued_ms[mark] = self.queued_ms.get(mark, 0) + bytes_to_ms(len(pcm))
        if last:
            self.complete.add(mark)

    async def clear(self, clear_id: str) -> None:
        self.commands.append(("clear", clear_id))
        heard = tuple(Played(mark, ms // 2, False) for mark, ms in self.queued_ms.items())
        self.queued_ms.clear()
        self.push(Cleared(clear_id, heard))

    async def duck(self, gain: float, ramp_ms: int) -> None:
        self.commands.append(("duck", str(gain)))

    async def transfer(self, target: str, *, attended: bool) -> None:
        self.commands.append(("transfer", target))

    async def hang_up(self, result: str, reason: str) -> None:
        self.commands.append(("hang_up", result, reason))

    def play_out(self) -> None:
        """Everything that is queued in full has been played to the caller."""
        for mark in [mark for mark in self.queued_ms if mark in self.complete]:
            self.push(Played(mark, self.queued_ms.pop(mark), True))
