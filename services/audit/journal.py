"""The journal: append-only files of chained records, with one writer."""

from __future__ import annotations

import fcntl
import os
import re
from collections import deque
from typing import IO, TYPE_CHECKING

from services.audit import segments
from services.audit.chain import RETIRED, Chain
from services.audit.records import GENESIS, Event, Prepared, RecordError, chain, parse
from services.audit.seals import SEAL, SealCheck
from services.audit.verify import walk_file
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.audit.records import Record
    from services.audit.sealer import Sealer
    from services.common.clock import Clock

SEGMENT_BYTES = 64 * 1024 * 1024
# These decide whether something may happen at all: they are on disk before anybody is told.
GATING = frozenset(
    {
        "call_started",
        "consent_given",
        "consent_refused",
        "consent_withdrawn",
        "disclosure_heard",
        "do_not_call_decided",
        "dtmf_paused",
        "dtmf_resumed",
        "recording_paused",
        "recording_resumed",
        "tool_called",
    }
)
_REMEMBERED = 65_536
# Up to the line's end, for an event's fields may hold these names, too.
_EVENT_ID = re.compile(
    rb',"id":"([A-Za-z0-9._-]+)","seq":[0-9]+,"time_unix_ms":-?[0-9]+,"type":"[a-z0-9_]+","v":2,'
    rb'"writer":"[^"]+","~hash":"[0-9a-f]{64}"}\n\Z'
)
_LINE_END = 600  # bytes, from the id on


class JournalError(LandlineError):
    """The journal cannot be opened or written; the message says what to do."""


class Journal:
    """Opens the journal for writing and holds its lock until `close`.

    A torn last line, which a crash leaves, is moved to a file beside the journal and recorded.
    Any other damage stops the start: it must be looked at by a person. With a `sealer`, `seal` ends
    an epoch; a file that has grown beyond `segment_bytes` is closed at the next `rotate`.
    `min_free_bytes` and `max_bytes` (0: no limit) stop writing before the disk is full.
    """

    def __init__(
        self,
        path: Path,
        *,
        writer: str,
        clock: Clock,
        fsync: bool = True,
        sealer: Sealer | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        min_free_bytes: int = 0,
        max_bytes: int = 0,
    ) -> None:
        self.path = path
        self._writer = writer
        self._clock = clock
        self._fsync = fsync
        self._sealer = sealer
        self._segment_bytes = segment_bytes
        self._min_free_bytes = min_free_bytes
        self._max_bytes = max_bytes
        self._sequence = 0
        self._first = 0
        self._head = GENESIS
        self._size = 0
        self._unusable = ""
        self.next_epoch: int | None = None  # of the next seal; None: there is none yet
        self._seen: dict[str, None] = {}
        self._seen_order: deque[str] = deque()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock(path.with_suffix(".lock"))
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
            self._recover()
        except BaseException:
            self.close()
            raise

    def append(self, events: Sequence[Event | Prepared]) -> list[Record]:
        """Write events, in order, and return their records once they are on disk.

        JournalError when the disk refuses; then none of them is in the journal.
        """
        if self._unusable:
            raise JournalError(self._unusable)
        records: list[Record] = []
        sequence, head = self._sequence, self._head
        for event in events:
            record = chain(event, sequence=sequence, writer=self._writer, prev=head)
            records.append(record)
            sequence, head = sequence + 1, record.hash
        data = b"".join([record.encoded for record in records])
        gates = any(record.event.type in GATING for record in records)
        self._write(data, sync=self._fsync or gates)
        self._sequence, self._head = sequence, head
        self._size += len(data)
        for record in records:
            self._remember(record.event.id)
        return records

    def has(self, event_id: str) -> bool:
        """Whether an event with this id is among the last ones on record."""
        return event_id in self._seen

    def check_space(self) -> None:
        """JournalError when there is no room to go on; what is on record stays."""
        try:
            free = os.statvfs(self.path.parent)
        except OSError as error:
            raise JournalError(f"cannot see {self.path.parent}: {error.strerror}") from error
        self._require_in_place()
        free_bytes = free.f_bavail * free.f_frsize
        if free_bytes < self._min_free_bytes:
            raise JournalError(
                f"{self.path.parent} has {free_bytes >> 20} MiB free, less than the "
                f"{self._min_free_bytes >> 20} MiB of audit.min_free_mb: nothing more is recorded "
                "until there is room"
            )
        if self._max_bytes:
            used = self._size + sum(map(_size_of, segments.closed(self.path)))
            if used >= self._max_bytes:
                raise JournalError(
                    f"{self.path.parent} holds {used >> 20} MiB, as much as audit.max_mb allows: "
                    "nothing more is recorded until older files are retired (audit.retention_days)"
                )

    def seal(self) -> Record | None:
        """End the running epoch, empty or not, and begin the next under its own key."""
        if self._sealer is None:
            return None
        fields = self._sealer.fields(count=self._sequence, head=self._head)
        (record,) = self.append(
            [Event(type=SEAL, time_unix_ms=self._clock.wall_ms(), fields=fields)]
        )
        self.sync()
        self._sealer.advance()
        self.next_epoch = self._sealer.epoch
        return record

    def sync(self) -> int:
        """Put everything on disk; how many bytes of the live file that is. JournalError if not."""
        if not self._fsync:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise self._lost(error) from error
        return self._size

    def rotate(self) -> bool:
        """Close a file that is full and begin the next; an epoch ends with the file."""
        if self._size < self._segment_bytes:
            return False
        self.seal()
        self._close_file()
        return True

    def retire(self, before_unix_ms: int) -> int:
        """Remove full files whose last record is older; how many. It is put on record first.

        The newest full file always stays: its seal says where the live file begins. JournalError
        when a file is damaged: it stays, and so do those after it.
        """
        old = []
        for segment in segments.closed(self.path)[:-1]:
            try:
                last = parse(segments.last_line(segment.path))
            except RecordError as error:
                raise JournalError(f"{segment.path} is damaged at its end: {error}") from error
            if last.event.time_unix_ms >= before_unix_ms:
                break
            old.append((segment, last))
        if not old:
            return 0
        _, last = old[-1]
        fields = {"next": last.sequence + 1, "head": last.hash, "files": len(old)}
        if self._sealer is not None:
            fields = self._sealer.retirement(fields)
        now_ms = self._clock.wall_ms()
        self.append([Event(type=RETIRED, time_unix_ms=now_ms, fields=fields)])
        self.sync()
        for segment, _ in old:
            segment.path.unlink()
        segments.sync_folder(self.path.parent)
        return len(old)

    @property
    def head(self) -> str:
        """Hash of the last record."""
        return self._head

    @property
    def records(self) -> int:
        """How many records there are, retired ones included."""
        return self._sequence

    @property
    def writer(self) -> str:
        return self._writer

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._lock.close()

    def _write(self, data: bytes, *, sync: bool) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._take_back()
            raise self._refused(error) from error
        try:
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self._take_back()
            if not self._fsync:
                raise self._lost(error) from error
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> JournalError:
        return JournalError(
            f"cannot write {self.path}: {error.strerror}; free space or move the journal"
        )

    def _lost(self, error: OSError) -> JournalError:
        """What was acknowledged before and not yet on disk may be gone: only a start can tell."""
        self._unusable = f"{self.path} may have lost records: {error.strerror}; start anew"
        return JournalError(self._unusable)

    def _require_in_place(self) -> None:
        """What is written into a file that was moved or removed is on record nowhere."""
        try:
            there, ours = self.path.stat(), os.fstat(self._file)
        except OSError as error:
            raise JournalError(f"{self.path} cannot be seen: {error.strerror}") from error
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._unusable = f"{self.path} was replaced by another file; start anew"
            raise JournalError(self._unusable)

    def _take_back(self) -> None:
        """Half a batch must not stay behind: the next one follows the last whole record."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            self._unusable = f"{self.path} ends in half a record: {error.strerror}; start anew"

    def _remember(self, event_id: str) -> None:
        if not event_id:
            return
        self._seen[event_id] = None
        self._seen_order.append(event_id)
        if len(self._seen_order) > _REMEMBERED:
            self._seen.pop(self._seen_order.popleft(), None)

    def _close_file(self) -> None:
        os.fsync(self._file)
        full = segments.closed_path(self.path, self._first)
        self.path.rename(full)
        try:
            new = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError:
            full.rename(self.path)  # what we hold stays the live file
            raise
        os.close(self._file)
        self._file = new
        segments.sync_folder(self.path.parent)
        self._first, self._size = self._sequence, 0

    def _recover(self) -> None:
        """Stand behind the last record. Only the live file is read: full ones end with a seal."""
        found = self._before_live()
        found.enter(self.path.name)
        with self.path.open("rb") as file:
            for _ in walk_file(file, found):
                pass
        self._first, self._sequence = found.file_first, found.sequence
        self._head, self._size = found.head, found.good_bytes
        broken = found.broken
        if broken is not None and not broken.torn_bytes:
            raise JournalError(
                f"{self.path} is damaged at line {broken.line}: {broken.reason}; keep the file "
                "as evidence and start with another data_dir"
            )
        if found.writer not in (None, self._writer):
            raise JournalError(
                f"{self.path} belongs to the writer {found.writer!r}, not to {self._writer!r}; "
                "set audit.writer or start with another data_dir"
            )
        self.next_epoch = found.seals.next_epoch
        if self._sealer is not None:
            self._sealer.reconcile(self.next_epoch)
        if broken is not None:
            self._set_aside(broken.torn_bytes)
        if found.version == 1:
            self._close_file()
        self._record_recovery()
        self._remember_ids()

    def _before_live(self) -> Chain:
        """A chain that stands at the end of the last full file."""
        full = segments.closed(self.path)
        if not full:
            return Chain()
        try:
            last = parse(segments.last_line(full[-1].path))
        except RecordError as error:
            raise JournalError(
                f"{full[-1].path} is damaged at its end: {error}; keep the files as evidence and "
                "start with another data_dir"
            ) from error
        epoch = last.event.fields.get("epoch") if last.event.type == SEAL else None
        return Chain(
            sequence=last.sequence + 1,
            head=last.hash,
            writer=last.writer,
            seal_check=SealCheck(next_epoch=epoch + 1 if isinstance(epoch, int) else None),
        )

    @property
    def _aside(self) -> Path:
        return self.path.with_suffix(f".torn-{self._sequence}")

    def _set_aside(self, size: int) -> None:
        """Half a line was never acknowledged, but it is kept for whoever wants to look."""
        try:
            segments.write_whole(self._aside, os.pread(self._file, size, self._size), 0o640)
            os.ftruncate(self._file, self._size)
        except OSError as error:
            raise JournalError(
                f"cannot set the torn last line of {self.path} aside: {error.strerror}"
            ) from error

    def _record_recovery(self) -> None:
        """Half a line that was set aside here is put on record, if need be at the next start."""
        aside = self._aside
        if not aside.exists():
            return
        fields = {"torn_bytes": aside.stat().st_size, "kept_in": aside.name}
        now_ms = self._clock.wall_ms()
        self.append([Event(type="journal_recovered", time_unix_ms=now_ms, fields=fields)])

    def _remember_ids(self) -> None:
        """What is sent again after a restart is known by the ids of the last records."""
        for segment in segments.all_of(self.path)[-2:]:
            with segment.path.open("rb") as file:
                for line in file:
                    if found := _EVENT_ID.search(line, max(0, len(line) - _LINE_END)):
                        self._remember(found[1].decode())


def _size_of(segment: segments.Segment) -> int:
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0  # retired meanwhile


def lock(path: Path) -> IO[bytes]:
    """Hold a journal for this process alone; JournalError when another one holds it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise JournalError(
            f"another process writes this journal ({path}); one journal has one writer"
        ) from None
    return file
