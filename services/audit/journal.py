"""The append-only journal: one writer, one JSON line per event, on disk before it is acknowledged.

A line that a crash left unfinished is set aside in a file of its own and put on record. Any other
damage stops the start: what is in the journal is evidence, and is not repaired.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from enum import StrEnum
from typing import TYPE_CHECKING

from services.audit.record import Event, Link, Record, chain
from services.audit.verify import head_path, load_head, verify, write_head
from services.common.errors import ConfigError, LandlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.common.clock import Clock

JOURNAL = "audit/journal.jsonl"


class FsyncPolicy(StrEnum):
    """When written records are forced to the disk."""

    COMMIT = "commit"  # before each acknowledgement
    NEVER = "never"  # when the system likes: a power cut may lose some, and the next start says so


class JournalDamagedError(ConfigError):
    """The journal is not what was written."""


class JournalLockedError(ConfigError):
    """Another process writes this journal."""


class JournalWriteError(LandlineError):
    """Nothing of this append was kept; the disk may be full."""


class Journal:
    """The one writer of a journal. Blocking; not for several threads at once."""

    def __init__(
        self,
        path: Path,
        *,
        writer: str,
        clock: Clock,
        fsync: FsyncPolicy = FsyncPolicy.COMMIT,
        on_record: Callable[[Record], object] = lambda _record: None,
    ) -> None:
        """Lock, verify and open. `on_record` gets every record that is there already.

        JournalLockedError, JournalDamagedError or ConfigError say what is wrong.
        """
        self.path = path
        self._writer = writer
        self._fsync = fsync
        self._failed = ""
        with contextlib.ExitStack() as opened:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = opened.enter_context(path.with_suffix(".lock").open("ab"))
                self._take_lock()
                if not path.exists():
                    self._create()
                with path.open("rb") as file:
                    verdict = verify(file, load_head(path), on_record)
                if verdict.broken is not None and not verdict.torn:
                    raise JournalDamagedError(
                        f"{path}, line {verdict.broken.line}: {verdict.broken.reason}. "
                        "Keep the file as evidence and move the whole folder away to start anew"
                    )
                self._file = opened.enter_context(path.open("r+b", buffering=0))
                self._head = opened.enter_context(head_path(path).open("r+b", buffering=0))
                torn = self._set_torn_line_aside(verdict.whole_bytes) if verdict.torn else None
            except OSError as error:
                raise ConfigError(f"cannot open the journal {path}: {error}") from error
            self.link = Link(verdict.records, verdict.head)
            self._end_bytes = verdict.whole_bytes
            self._opened = opened.pop_all()
        try:
            self._record_opening(clock, torn)
        except BaseException:
            self.close()
            raise

    def append(self, events: Sequence[Event]) -> list[Record]:
        """Write the events and force them to disk, all or none.

        EventRejectedError when one is not JSON; JournalWriteError when the disk does not take them.
        """
        if self._failed:
            raise JournalWriteError(f"{self._failed}; restart the audit service")
        link, lines, records = self.link, bytearray(), list[Record]()
        for event in events:
            record, line = chain(link, event, self._writer)
            link = Link(record.seq, record.hash)
            lines += line
            records.append(record)
        try:
            self._write(bytes(lines))
        except OSError as error:
            self._undo(error)
            raise JournalWriteError(f"cannot write {self.path}: {error.strerror}") from error
        self._end_bytes += len(lines)
        self.link = link
        self._write_head(link)
        return records

    def close(self) -> None:
        """Let another process have the journal."""
        self._opened.close()

    def _write(self, lines: bytes) -> None:
        rest = memoryview(lines)
        at = self._end_bytes
        while rest:
            written = os.pwrite(self._file.fileno(), rest, at)
            at += written
            rest = rest[written:]
        if self._fsync is FsyncPolicy.COMMIT:
            os.fdatasync(self._file.fileno())

    def _undo(self, cause: OSError) -> None:
        """Take half-written lines back; if even that fails, only a fresh start can help."""
        try:
            os.ftruncate(self._file.fileno(), self._end_bytes)
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._failed = f"{self.path} could not be written ({cause}) nor restored ({error})"

    def _write_head(self, link: Link) -> None:
        """Name the last record. Written in place, after it is on disk: it may only lag behind."""
        try:
            os.pwrite(self._head.fileno(), write_head(link), 0)
        except OSError as error:
            self._failed = f"{head_path(self.path)} could not be written ({error})"

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalLockedError(
                f"another process writes {self.path}; stop it, or use another data_dir"
            ) from None

    def _create(self) -> None:
        """The head before the journal: a journal without a head means that one was removed."""
        head = head_path(self.path)
        if head.exists() and head.read_bytes() != write_head(Link()):
            raise JournalDamagedError(
                f"{self.path} is missing, but {head} says that it was written"
            )
        for path, content in ((head, write_head(Link())), (self.path, b"")):
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(self.path.parent)

    def _set_torn_line_aside(self, whole_bytes: int) -> Event:
        """Move an unfinished last line to a file beside; the event that says so."""
        self._file.seek(whole_bytes)
        line = self._file.read()
        digest = hashlib.sha256(line).hexdigest()
        aside = self.path.with_name(f"{self.path.stem}.torn-{whole_bytes}-{digest[:12]}")
        with aside.open("wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.path.parent)
        os.ftruncate(self._file.fileno(), whole_bytes)
        os.fsync(self._file.fileno())
        return Event(
            type="torn_line_set_aside",
            time_unix_ms=0,
            fields={"file": aside.name, "size_bytes": len(line), "sha256": digest},
        )

    def _record_opening(self, clock: Clock, torn: Event | None) -> None:
        now_ms = clock.wall_ms()
        events = [Event(type="journal_opened", time_unix_ms=now_ms)]
        if torn is not None:
            events.append(Event(type=torn.type, time_unix_ms=now_ms, fields=torn.fields))
        self.append(events)


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
