from __future__ import annotations

import asyncio
from pathlib import Path

from services.audit.journal import Journal
from services.audit.records import Event
from services.common.clock import ManualClock
from services.eval.watch import follow


def said(number: int) -> Event:
    return Event(type="caller_said", time_unix_ms=1, call_id="c1", fields={"number": number})


async def test_it_follows_into_every_file_that_the_journal_goes_on_in(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, writer="w", clock=ManualClock(), fsync=False, segment_bytes=1)
    journal.append([said(0)])
    seen: list[int] = []

    async def watch() -> None:
        async for event in follow(path, from_end=False):
            seen.extend(event.fields.values())

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.02)
    for number in range(1, 9):
        journal.append([said(number)])
        if number % 2 or number > 5:  # also several files between two looks
            journal.rotate()
        if number < 5:
            await asyncio.sleep(0.07)
    async with asyncio.timeout(10):
        while len(seen) < 9 and not watching.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    journal.close()
    assert seen == list(range(9))
