"""Checks a journal from its first record to its last, without trusting anything but the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.audit.records import GENESIS, RecordError, parse

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the check found. When `ok` is False, `line` (from 1) and `reason` tell the first break.

    `records` and `head` speak of the unbroken part. `torn` is the size of a last line without its
    end, which a crash leaves; it is damage like any other until the journal's writer sets it aside.
    """

    ok: bool
    records: int
    head: str
    line: int | None = None
    reason: str = ""
    good_bytes: int = 0
    torn_bytes: int = 0


def verify_file(path: Path) -> Verdict:
    """Verify the journal at `path`. OSError when it cannot be read."""
    with path.open("rb") as file:
        return verify_lines(file)


def verify_lines(lines: Iterable[bytes]) -> Verdict:
    """Verify lines as they come, in constant memory."""
    records, head, good_bytes, writer = 0, GENESIS, 0, None
    for number, line in enumerate(lines, start=1):
        reason, torn_bytes = "", 0
        if not line.endswith(b"\n"):
            reason, torn_bytes = "the last line is torn", len(line)
        else:
            try:
                record = parse(line)
            except RecordError as error:
                reason = str(error)
            else:
                reason = _misplaced(record.sequence, record.prev, records, head)
                if not reason and writer not in (None, record.writer):
                    reason = f"it was written by {record.writer!r}, the others by {writer!r}"
        if reason:
            return Verdict(
                ok=False,
                records=records,
                head=head,
                line=number,
                reason=reason,
                good_bytes=good_bytes,
                torn_bytes=torn_bytes,
            )
        records, head, writer = records + 1, record.hash, record.writer
        good_bytes += len(line)
    return Verdict(ok=True, records=records, head=head, good_bytes=good_bytes)


def _misplaced(sequence: int, prev: str, expected: int, head: str) -> str:
    if sequence != expected:
        return f"it is number {sequence} where number {expected} belongs"
    return "" if prev == head else "it does not follow the record before it"
