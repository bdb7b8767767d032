"""Takes events, puts them on disk in groups, and keeps transcripts."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from services.audit.records import RecordError, chain
from services.common.errors import LandlineError
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.audit.journal import Journal
    from services.audit.records import Event, Record
    from services.audit.transcripts import Transcripts

_RECORDED = Counter("landline_audit_records", "Records written to the journal")
_FAILED = Counter("landline_audit_write_failures", "Groups that the disk refused")
_REFUSED = Counter("landline_audit_refused", "Events that are no events")
_TRANSCRIPT_FAILED = Counter("landline_audit_transcript_failures", "Transcripts not written")
_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_GROUP = 2_000
_log = structlog.get_logger()


class EventRefusedError(LandlineError):
    """An event that cannot go into the journal; the message says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The last of the events that were asked for is on disk under this number and hash."""

    last_sequence: int
    head: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    events: Sequence[Event]
    receipt: asyncio.Future[Receipt]


class AuditService:
    """`record` answers when its events are on disk; what waits together is written together."""

    def __init__(self, journal: Journal, transcripts: Transcripts | None) -> None:
        self._journal = journal
        self._transcripts = transcripts
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(10_000)

    async def record(self, events: Sequence[Event]) -> Receipt:
        """Append events in order. EventRefusedError or JournalError; then none was written."""
        for event in events:
            _check(event)
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Waiting(events, receipt))
        return await receipt

    async def run(self) -> None:
        """Write groups for ever."""
        while True:
            group = [await self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            await self._write(group)

    async def _write(self, group: list[_Waiting]) -> None:
        events = [event for waiting in group for event in waiting.events]
        try:
            records = await asyncio.to_thread(self._journal.append, events)
        except LandlineError as error:
            _FAILED.inc()
            _log.error("journal_write_failed", reason=str(error), events=len(events))
            for waiting in group:
                if not waiting.receipt.done():
                    waiting.receipt.set_exception(error)
            return
        _RECORDED.inc(len(records))
        await self._transcribe(records)
        end = 0
        for waiting in group:
            end += len(waiting.events)
            if not waiting.receipt.done():
                waiting.receipt.set_result(self._receipt(records, end))

    def _receipt(self, records: list[Record], end: int) -> Receipt:
        if not end:
            return Receipt(self._journal.records - 1, self._journal.head)
        last = records[end - 1]
        return Receipt(last.sequence, last.hash)

    async def _transcribe(self, records: list[Record]) -> None:
        """Transcripts are a view of the journal: failing to write one loses nothing."""
        if self._transcripts is None:
            return
        try:
            await asyncio.to_thread(self._transcripts.add, records)
        except OSError as error:
            _TRANSCRIPT_FAILED.inc()
            _log.error("transcript_failed", reason=str(error))


def _check(event: Event) -> None:
    problem = ""
    if not _TYPE.fullmatch(event.type):
        problem = f"{event.type!r} is no event type: use lower case words joined by _"
    elif event.call_id and not _CALL_ID.fullmatch(event.call_id):
        problem = f"{event.call_id!r} is no call id: use letters, digits, dot, dash and _"
    else:
        try:
            chain(event, sequence=0, writer="", prev="")
        except RecordError as error:
            problem = str(error)
    if problem:
        _REFUSED.inc()
        raise EventRefusedError(problem)
