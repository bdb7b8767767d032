"""Checks that a journal is whole: every record, their order, and that nothing was cut off its end.

Streams through the file with constant memory and trusts nothing but the bytes. The head file beside
the journal names the last record that was acknowledged; without it a cut-off end could not be seen.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from services.audit.record import GENESIS, BrokenRecordError, Link, Record, parse
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_UNFINISHED_READS = 3  # a line that is being written is whole a moment later
_UNFINISHED_WAIT_S = 0.05
MAX_LINE_BYTES = 8 * 1024 * 1024
_HEAD = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where a journal is not what was written; `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found. `whole_bytes` is where the verified part ends; `torn` that only an unfinished
    last line follows it."""

    records: int
    calls: int
    head: str
    whole_bytes: int
    first_time_unix_ms: int | None
    last_time_unix_ms: int | None
    broken: Break | None
    torn: bool = False

    @property
    def ok(self) -> bool:
        return self.broken is None


def head_path(journal: Path) -> Path:
    """Where the journal's head is kept."""
    return journal.with_suffix(".head")


def write_head(link: Link) -> bytes:
    """The head file's content; always of the same length, so that it is replaced in place."""
    return f"{link.seq:020d} {link.hash}\n".encode()


def read_head(content: bytes) -> Link | None:
    """The record that a head file names, or None when it is no head file."""
    match = _HEAD.fullmatch(content)
    return Link(int(match[1]), match[2].decode()) if match else None


def verify_file(journal: Path) -> Verdict:
    """Verify a journal with its head file, also while it is being written.

    LandlineError when it cannot be read.
    """
    try:
        for _ in range(_UNFINISHED_READS):
            # The head first: the journal may only grow meanwhile.
            head = load_head(journal)
            with journal.open("rb") as file:
                verdict = verify(file, head)
            if not verdict.torn:
                break
            time.sleep(_UNFINISHED_WAIT_S)
    except OSError as error:
        raise LandlineError(f"cannot read the journal {journal}: {error.strerror}") from error
    return verdict


def load_head(journal: Path) -> Link | None:
    """The record that the journal's head file names; None when it is missing or damaged."""
    try:
        return read_head(head_path(journal).read_bytes())
    except FileNotFoundError:
        return None


def verify(
    file: BinaryIO,
    head: Link | None,
    on_record: Callable[[Record], object] = lambda _record: None,
) -> Verdict:
    """Verify an open journal; `on_record` gets every good record in order."""
    link = Link()
    calls: set[str] = set()
    times: list[int | None] = [None, None]
    broken: Break | None = None
    passed_head = head == link
    torn = False
    whole_bytes = 0
    while line := file.readline(MAX_LINE_BYTES):
        number = link.seq + 1
        if not line.endswith(b"\n"):
            torn = len(line) < MAX_LINE_BYTES
            broken = Break(number, "the line is unfinished" if torn else "the line is too long")
            break
        try:
            record = parse(line[:-1], link)
        except BrokenRecordError as error:
            broken = Break(number, str(error))
            break
        link = Link(record.seq, record.hash)
        passed_head = passed_head or link == head
        whole_bytes += len(line)
        if record.event.call_id:
            calls.add(record.event.call_id)
        times = [times[0] or record.event.time_unix_ms, record.event.time_unix_ms]
        on_record(record)
    if (broken is None or torn) and not passed_head:
        broken, torn = Break(link.seq + 1, _head_problem(head, link)), False
    return Verdict(
        records=link.seq,
        calls=len(calls),
        head=link.hash if link.seq else GENESIS,
        whole_bytes=whole_bytes,
        first_time_unix_ms=times[0],
        last_time_unix_ms=times[1],
        broken=broken,
        torn=torn,
    )


def _head_problem(head: Link | None, link: Link) -> str:
    if head is None:
        return "its head file is missing or damaged, so records cut off its end could not be seen"
    if head.seq > link.seq:
        return f"records {link.seq + 1} to {head.seq} are missing at the end"
    return f"record {head.seq} is not the one that its head file names"
