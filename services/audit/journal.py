"""The journal: an append-only file of chained records, with one writer."""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING

from services.audit.records import GENESIS, Event, chain
from services.audit.verify import verify_file
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.audit.records import Record
    from services.common.clock import Clock


class JournalError(LandlineError):
    """The journal cannot be opened or written; the message says what to do."""


class Journal:
    """Opens the journal for writing and holds its lock until `close`.

    A torn last line, which a crash leaves, is moved to a file beside the journal and recorded.
    Any other damage stops the start: it must be looked at by a person.
    """

    def __init__(self, path: Path, *, writer: str, clock: Clock, fsync: bool = True) -> None:
        self.path = path
        self._writer = writer
        self._clock = clock
        self._fsync = fsync
        self._sequence = 0
        self._head = GENESIS
        self._size = 0
        self._unusable = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path.with_suffix(".lock"))
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    def append(self, events: Sequence[Event]) -> list[Record]:
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
        data = b"".join(record.line() for record in records)
        self._write(data)
        self._sequence, self._head = sequence, head
        self._size += len(data)
        return records

    @property
    def head(self) -> str:
        """Hash of the last record."""
        return self._head

    @property
    def records(self) -> int:
        return self._sequence

    def close(self) -> None:
        os.close(self._file)
        self._lock.close()

    def _write(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if self._fsync:
                os.fsync(self._file)
        except OSError as error:
            self._take_back()
            raise JournalError(
                f"cannot write {self.path}: {error.strerror}; free space or move the journal"
            ) from error

    def _take_back(self) -> None:
        """Half a batch must not stay behind: the next one follows the last whole record."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            self._unusable = f"{self.path} ends in half a record: {error.strerror}; start anew"

    def _recover(self) -> None:
        verdict = verify_file(self.path)
        self._sequence, self._head = verdict.records, verdict.head
        self._size = verdict.good_bytes
        if verdict.ok:
            return
        if not verdict.torn_bytes:
            raise JournalError(
                f"{self.path} is damaged at line {verdict.line}: {verdict.reason}; keep the file "
                "as evidence and start with another data_dir"
            )
        aside = self._set_aside(verdict.good_bytes, verdict.torn_bytes)
        now_ms = self._clock.wall_ms()
        fields = {"torn_bytes": verdict.torn_bytes, "kept_in": aside.name}
        self.append([Event(type="journal_recovered", time_unix_ms=now_ms, fields=fields)])

    def _set_aside(self, offset: int, size: int) -> Path:
        aside = self.path.with_suffix(f".torn-{self._sequence}")
        aside.write_bytes(os.pread(self._file, size, offset))
        os.ftruncate(self._file, offset)
        return aside


def _lock(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise JournalError(
            f"another process writes this journal ({path}); one journal has one writer"
        ) from None
    return file
