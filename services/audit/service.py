"""Takes events from many callers and writes them together: one write, one fsync, many answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from services.audit.journal import JournalWriteError
from services.audit.record import EventRejectedError, Link, chain
from services.common.errors import LandlineError
from services.common.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.audit.journal import Journal
    from services.audit.record import Event, Record
    from services.audit.transcripts import Transcripts

_WRITTEN = Counter("landline_audit_events", "Events on disk")
_REFUSED = Counter("landline_audit_refused", "Requests refused", ["reason"])
_WAITING = Gauge("landline_audit_waiting", "Events not yet on disk")
_COMMIT = Histogram(
    "landline_audit_commit_events", "Events per commit", buckets=(1, 4, 16, 64, 256, 1024, 4096)
)
_TRANSCRIPTS_FAILED = Counter("landline_audit_transcripts_failed", "Transcripts not written")
_MAX_COMMIT_EVENTS = 4_096
_log = structlog.get_logger()


class OverloadedError(LandlineError):
    """More events wait than allowed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    events: Sequence[Event]
    written: asyncio.Future[Link]


class AuditService:
    """Owns the journal. `run` must be running; it returns after `close`."""

    def __init__(self, journal: Journal, transcripts: Transcripts, *, max_waiting: int) -> None:
        self._journal = journal
        self._transcripts = transcripts
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._waiting_events = 0
        self._wake = asyncio.Event()
        self._closed = False

    async def record(self, events: Sequence[Event]) -> Link:
        """Returns when the events are on disk, with the last record's number and hash.

        EventRejectedError, OverloadedError and JournalWriteError say why nothing was kept.
        """
        for event in events:
            _check(event)
        if not events:
            return self._journal.link
        if self._closed or self._waiting_events + len(events) > self._max_waiting:
            _REFUSED.labels(reason="overloaded").inc()
            raise OverloadedError(f"{self._waiting_events} events are waiting for the disk")
        item = _Waiting(events, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._count(len(events))
        self._wake.set()
        return await item.written

    async def run(self) -> None:
        """Commit what is waiting, until closed and nothing is left."""
        while not self._closed or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._commit(self._take())

    def close(self) -> None:
        """Take no more events; `run` ends when all that were taken are on disk."""
        self._closed = True
        self._wake.set()

    def _take(self) -> list[_Waiting]:
        """The next batch: at least one request, then as many as fit."""
        taken, size = 0, 0
        for item in self._waiting:
            size += len(item.events)
            if taken and size > _MAX_COMMIT_EVENTS:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        events = [event for item in batch for event in item.events]
        try:
            records = await asyncio.to_thread(self._write, events)
        except JournalWriteError as error:
            _REFUSED.labels(reason="disk").inc(len(batch))
            _log.error("journal_write_failed", reason=str(error))
            for item in batch:
                if not item.written.done():
                    item.written.set_exception(JournalWriteError(str(error)))
            return
        finally:
            self._count(-len(events))
        _WRITTEN.inc(len(events))
        _COMMIT.observe(len(events))
        at = 0
        for item in batch:
            at += len(item.events)
            last = records[at - 1]
            # A caller that has gone away needs no answer; its events are on disk all the same.
            if not item.written.done():
                item.written.set_result(Link(last.seq, last.hash))

    def _write(self, events: list[Event]) -> list[Record]:
        records = self._journal.append(events)
        finished = dict.fromkeys(map(self._transcripts.collect, records))
        for call_id in filter(None, finished):
            write_transcript(self._transcripts, call_id)
        return records

    def _count(self, change: int) -> None:
        self._waiting_events += change
        _WAITING.set(self._waiting_events)


def write_transcript(transcripts: Transcripts, call_id: str) -> None:
    """Write it if that can be: the journal holds everything, so a failure only counts."""
    try:
        transcripts.write(call_id)
    except OSError as error:
        _TRANSCRIPTS_FAILED.inc()
        _log.error("transcript_not_written", call_id=call_id, reason=str(error))


def _check(event: Event) -> None:
    """Refuse what could not be written, before it can spoil the batch of others."""
    try:
        if not event.type:
            raise EventRejectedError("an event needs a type")
        chain(Link(), event, "")
    except EventRejectedError:
        _REFUSED.labels(reason="not_json").inc()
        raise
