"""Checks a journal from its first record to its last, without trusting anything but its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.audit import segments
from services.audit.chain import Chain, Retirements, Verdict
from services.audit.records import RecordError, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from services.audit.segments import Segment

_BLOCK_BYTES = 1 << 20
_LAST_GONE = "the record that was verified last is not there any more"
_FILE_GONE = "the file that was verified last is gone"


def verify_file(path: Path) -> Verdict:
    """Verify the journal whose live file is `path`, older files included. OSError if unreadable."""
    chain = Chain()
    for _ in walk(path, chain):
        pass
    return chain.verdict()


def verify_lines(lines: Iterable[bytes]) -> Verdict:
    """Verify the lines of one file as they come."""
    chain = Chain()
    chain.check(list(lines))
    return chain.verdict()


def walk(
    live: Path,
    chain: Chain,
    on_bytes: Callable[[int], None] = lambda _count: None,
    end: int | None = None,
) -> Iterator[list[bytes]]:
    """Check a journal from where `chain` stands; leaf hashes of what is sound, block by block.

    Ends at the first break, which is then in `chain.broken`. A new chain begins with the first file
    there is; one that has stood in a file before goes on in that file, whatever it is called now.
    `end` is where to stop in the live file, in bytes at a line's end. The journal may be written
    and rotated meanwhile. FileNotFoundError without a journal.
    """
    found, started = False, False
    before: Segment | None = None
    for segment, file in segments.opened(live):
        found = True
        if started:
            _enter(chain, segment)
        elif chain.sequence == 0:
            _begin(file, chain)
            _enter(chain, segment)
            started = True
        else:
            started = _resume(segment, file, chain, before)
            before = segment
        if started and not chain.broken:
            yield from walk_file(file, chain, on_bytes, end if segment.first is None else None)
        if chain.broken:
            return
    if not found:
        raise FileNotFoundError(2, "there is no journal", str(live))
    if not started:
        chain.break_here(live.name, _FILE_GONE)


def walk_file(
    file: BinaryIO,
    chain: Chain,
    on_bytes: Callable[[int], None] = lambda _count: None,
    end: int | None = None,
) -> Iterator[list[bytes]]:
    """Check the rest of one file, or what stands before `end`, block by block."""
    while not chain.broken:
        size = _BLOCK_BYTES if end is None else min(_BLOCK_BYTES, end - file.tell())
        lines = file.readlines(size) if size > 0 else []
        if not lines:
            return
        yield chain.check(lines)
        on_bytes(sum(map(len, lines)))


def _enter(chain: Chain, segment: Segment) -> None:
    chain.enter(segment.path.name)
    if segment.first not in (None, chain.sequence):
        chain.break_here(
            segment.path.name,
            f"it should begin with record {chain.sequence}: files are missing, or stand in each "
            "other's place",
        )


def _begin(file: BinaryIO, chain: Chain) -> None:
    """Older records may have been retired: then the chain begins with the first that is left."""
    line = file.readline()
    file.seek(0)
    try:
        record = parse(line)
    except RecordError:
        record = None  # the walk will meet it and say so
    if record is None or record.version == 1 or not record.sequence:
        # Whoever holds a later key must not be able to leave out the epochs before it.
        chain.seals.next_epoch = 0
        return
    chain.sequence, chain.head = record.sequence, record.prev
    chain.seals.next_epoch = None
    chain.retirements = Retirements(record.sequence, record.prev, vouched=False)


def _resume(segment: Segment, file: BinaryIO, chain: Chain, before: Segment | None) -> bool:
    """Stand behind the record that was verified last, if it is in this file.

    It must still be there, unless its file has been retired since.
    """
    first = segment.first if segment.first is not None else _first_sequence(file)
    if first is None and chain.file_first == chain.sequence:
        first = chain.sequence  # the live file was empty then, and still is
    if first is not None and first < chain.file_first:
        return False
    if first != chain.file_first:
        if first is not None and before is None and first >= chain.sequence:
            _begin(file, chain)
            _enter(chain, segment)
        else:
            chain.break_here(segment.path.name, _FILE_GONE)
        return True
    if (
        chain.file_first == chain.sequence
        and before is not None
        and chain.head.encode() not in segments.last_line(before.path)
    ):
        chain.break_here(before.path.name, _LAST_GONE)
        return True
    chain.resume(segment.path.name)
    tail = b'"~hash":"%b"}\n' % chain.head.encode()
    file.seek(max(0, chain.good_bytes - len(tail)))
    if chain.good_bytes and chain.version == 2 and file.read(len(tail)) != tail:
        chain.break_here(segment.path.name, _LAST_GONE)
    file.seek(chain.good_bytes)
    return True


def _first_sequence(file: BinaryIO) -> int | None:
    """The number of a file's first record; None when it has none that can be read."""
    line = file.readline()
    file.seek(0)
    try:
        return parse(line).sequence if line else None
    except RecordError:
        return None


def writer_of(live: Path) -> str | None:
    """Who writes a journal, as its first record says; None when there is none that can be read."""
    for _, file in segments.opened(live):
        if line := file.readline():
            try:
                return parse(line).writer
            except RecordError:
                return None
    return None
