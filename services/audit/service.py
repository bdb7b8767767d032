"""Takes events, puts them on disk in groups, seals epochs, and keeps transcripts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from services.audit import chain, seals
from services.audit.records import Event, RecordError, prepare
from services.common.errors import LandlineError
from services.common.metrics import Counter, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.audit.journal import Journal
    from services.audit.notes import Checkpoint
    from services.audit.records import Prepared, Record
    from services.audit.transcripts import Transcripts
    from services.common.clock import Clock

_RECORDED = Counter("landline_audit_records", "Records written to the journal")
_FAILED = Counter("landline_audit_write_failures", "Groups that the disk refused")
_REFUSED = Counter("landline_audit_refused", "Events that are no events")
_RESENT = Counter("landline_audit_resent", "Events that were on record already")
_TRANSCRIPT_FAILED = Counter("landline_audit_transcript_failures", "Transcripts not written")
_LOG_FAILED = Counter("landline_audit_log_failures", "Checkpoints that could not be made")
_SERVING = Gauge("landline_audit_serving", "1 while events are taken, 0 while there is no room")
_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_TIME_MS = 253_402_300_800_000  # the end of the year 9999
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Only the journal itself says these.
_RESERVED = frozenset(
    {seals.SEAL, seals.ROTATED, chain.RETIRED, chain.LOG_KEY_ROTATED, "journal_recovered"}
)
_GROUP = 2_000
_CHECK_SPACE_MS = 1_000.0
_log = structlog.get_logger()


class EventRefusedError(LandlineError):
    """An event that cannot go into the journal; the message says why."""


class Log(Protocol):
    """The Merkle log as this service needs it."""

    def update(self, end: int | None = None) -> Checkpoint: ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """The last of the events that were asked for is on disk under this number and hash."""

    last_sequence: int
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What is done regularly. `on_serving(serving, reason)` hears of changes."""

    clock: Clock
    epoch_ms: float
    log: Log | None = None
    retention_ms: int = 0
    on_serving: Callable[[bool, str], None] = lambda _serving, _reason: None


@dataclass(frozen=True, slots=True)
class _Waiting:
    events: Sequence[Prepared]
    receipt: asyncio.Future[Receipt]


class AuditService:
    """`record` answers when its events are on disk; what waits together is written together."""

    def __init__(
        self, journal: Journal, transcripts: Transcripts | None, upkeep: Upkeep | None = None
    ) -> None:
        self._journal = journal
        self._transcripts = transcripts
        self._upkeep = upkeep
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(10_000)
        self._writing = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._ended = False
        self._no_room = ""

    async def record(self, events: Sequence[Event]) -> Receipt:
        """Append events in order. EventRefusedError or JournalError; then none was written.

        An event whose id is on record already is not recorded again.
        """
        prepared = [_prepared(event) for event in events]
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Waiting(prepared, receipt))
        return await receipt

    async def run(self) -> None:
        """Write groups for ever, and do the upkeep."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_groups())
            if self._upkeep is not None:
                group.create_task(self._keep(self._upkeep))

    async def end_epoch(self, *, last: bool = False) -> None:
        """Seal the running epoch and put a checkpoint over it; a failure is logged and counted.

        After the `last` one no other follows.
        """
        async with self._ending:
            if not self._ended:
                self._ended = last
                await self._sign(await self._seal())

    async def _seal(self) -> int | None:
        """How many bytes of the live file are on disk; None when the disk refuses."""
        try:
            async with self._writing:
                await asyncio.to_thread(self._journal.seal)
                await asyncio.to_thread(self._journal.rotate)
                if self._upkeep is not None and self._upkeep.retention_ms:
                    before = self._upkeep.clock.wall_ms() - self._upkeep.retention_ms
                    await asyncio.to_thread(self._journal.retire, before)
                return await asyncio.to_thread(self._journal.sync)
        except (LandlineError, OSError) as error:
            _FAILED.inc()
            _log.error("seal_failed", reason=str(error))
            return None

    async def _sign(self, end: int | None) -> None:
        if end is None or self._upkeep is None or self._upkeep.log is None:
            return
        try:
            await asyncio.to_thread(self._upkeep.log.update, end)
        except (LandlineError, OSError) as error:
            _LOG_FAILED.inc()
            _log.error("checkpoint_failed", reason=str(error))

    async def _write_groups(self) -> None:
        while True:
            group = [await self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            await self._write(group)

    async def _write(self, group: list[_Waiting]) -> None:
        events, ends = self._new_events(group)
        try:
            async with self._writing:
                await self._require_room()
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
        for waiting, end in zip(group, ends, strict=True):
            if not waiting.receipt.done():
                waiting.receipt.set_result(self._receipt(records, end))

    def _new_events(self, group: list[_Waiting]) -> tuple[list[Prepared], list[int]]:
        """Events that are not on record yet, and how many there are up to each request's end."""
        events: list[Prepared] = []
        ends: list[int] = []
        ids: set[str] = set()
        for waiting in group:
            for item in waiting.events:
                event_id = item.event.id
                if event_id and (event_id in ids or self._journal.has(event_id)):
                    _RESENT.inc()
                    continue
                ids.add(event_id)
                events.append(item)
            ends.append(len(events))
        return events, ends

    def _receipt(self, records: list[Record], end: int) -> Receipt:
        if not end:
            return Receipt(self._journal.records - 1, self._journal.head)
        last = records[end - 1]
        return Receipt(last.sequence, last.hash)

    async def _require_room(self) -> None:
        if self._no_room:
            await self._look_for_room()

    async def _look_for_room(self) -> None:
        """JournalError while there is none; whoever asks for our health hears of changes."""
        try:
            await asyncio.to_thread(self._journal.check_space)
        except LandlineError as error:
            self._set_serving(str(error))
            raise
        self._set_serving("")

    def _set_serving(self, no_room: str) -> None:
        _SERVING.set(not no_room)
        if bool(no_room) == bool(self._no_room):
            return
        self._no_room = no_room
        if no_room:
            _log.error("journal_stopped", reason=no_room)
        else:
            _log.info("journal_goes_on")
        if self._upkeep is not None:
            self._upkeep.on_serving(not no_room, no_room)

    async def _keep(self, upkeep: Upkeep) -> None:
        """Look for room each second, and end each epoch in time, also an empty one."""
        ends_ms = upkeep.clock.now_ms() + upkeep.epoch_ms
        while True:
            with contextlib.suppress(LandlineError):  # told to on_serving and logged
                async with self._writing:
                    await self._look_for_room()
            wait_ms = min(_CHECK_SPACE_MS, ends_ms - upkeep.clock.now_ms())
            await asyncio.sleep(max(0.0, wait_ms) / 1000)
            if upkeep.clock.now_ms() >= ends_ms:
                await self.end_epoch()
                ends_ms = upkeep.clock.now_ms() + upkeep.epoch_ms

    async def _transcribe(self, records: list[Record]) -> None:
        """Transcripts are a view of the journal: failing to write one loses nothing."""
        if self._transcripts is None:
            return
        try:
            await asyncio.to_thread(self._transcripts.add, records)
        except (OSError, ValueError, OverflowError) as error:
            _TRANSCRIPT_FAILED.inc()
            _log.error("transcript_failed", reason=str(error))


def _prepared(event: Event) -> Prepared:
    """The event encoded, which is done once; EventRefusedError when it is none."""
    problem = ""
    if not _TYPE.fullmatch(event.type):
        problem = f"{event.type!r} is no event type: use lower case words joined by _"
    elif event.type in _RESERVED:
        problem = f"{event.type} is said by the journal itself only"
    elif event.call_id and not _CALL_ID.fullmatch(event.call_id):
        problem = f"{event.call_id!r} is no call id: use letters, digits, dot, dash and _"
    elif not 0 <= event.time_unix_ms < _MAX_TIME_MS:
        problem = f"{event.time_unix_ms} is no Unix time in milliseconds of the years 1970 to 9999"
    elif event.id and not _ID.fullmatch(event.id):
        problem = f"{event.id!r} is no event id: use letters, digits, dot, dash and _"
    else:
        try:
            return prepare(event)
        except RecordError as error:
            problem = str(error)
    _REFUSED.inc()
    raise EventRefusedError(problem)
