"""The chain of one journal: each record's hash, its place behind the one before, and its seals."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from services.audit import canonical, seals
from services.audit.records import (
    GENESIS,
    START,
    TAIL_BYTES,
    VERSION,
    FutureVersionError,
    RecordError,
    parse,
)
from services.audit.seals import SealCheck

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.audit.records import Event

RETIRED = "segments_retired"
LOG_KEY_ROTATED = "log_key_rotated"
_SPECIAL = frozenset({seals.SEAL, seals.ROTATED, RETIRED, LOG_KEY_ROTATED})
_MAX_INTEGER = 2**53
_TAIL = b',"~hash":"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the check found. When `ok` is False, `line` (from 1) of `file` and `reason` tell the
    first break.

    `records` and `head` speak of the unbroken part, which begins at record `first` when older ones
    were retired. `torn` is the size of a last line without its end, which a crash leaves; it is
    damage like any other until the journal's writer sets it aside. `future` means that a later
    version of Landline wrote the file: nothing is known of it.
    """

    ok: bool
    records: int
    head: str
    line: int | None = None
    reason: str = ""
    file: str = ""
    good_bytes: int = 0
    torn_bytes: int = 0
    first: int = 0
    future: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Where the chain is broken."""

    file: str
    line: int
    reason: str
    torn_bytes: int = 0
    future: bool = False


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line as the quick check reads it."""

    after: str
    call_id: str
    fields: msgspec.Raw
    seq: int
    time_unix_ms: int
    type: str
    v: int
    writer: str
    hash: str = msgspec.field(name="~hash")
    id: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class Retirements:
    """What the journal says of records that are no longer there."""

    first: int = 0
    head: str = GENESIS
    vouched: bool = True
    at_unix_ms: int = 0
    refused: str = ""

    def see(self, event: Event, seal_check: SealCheck, writer: str) -> None:
        fields = event.fields
        if fields.get("next") != self.first or fields.get("head") != self.head:
            return
        self.refused = seal_check.retirement(fields, writer=writer)
        if not self.refused:
            self.vouched, self.at_unix_ms = True, event.time_unix_ms


class Chain:
    """A place in a journal, and the check of what follows it.

    `head` is the hash of the last record, `sequence` the number of the next. The first break stays
    in `broken`, and nothing after it is looked at. `good_bytes` counts the sound lines of the file
    that is being read. Hashes are over the lines' bytes, so that they and the order of the records
    are always checked as they stand; `form` adds whether every line is canonical JSON.
    """

    def __init__(
        self,
        *,
        sequence: int = 0,
        head: str = GENESIS,
        writer: str | None = None,
        seal_check: SealCheck | None = None,
        form: bool = True,
    ) -> None:
        self.sequence = sequence
        self.head = head
        self.writer = writer
        self._form = form
        self.seals = seal_check or SealCheck()
        self.retirements = Retirements()
        self.log_keys: list[dict[str, Any]] = []
        self.broken: Break | None = None
        self.good_bytes = 0
        self.version = 0
        self.file_first = sequence
        self._file = ""
        self._line = 0

    def enter(self, name: str) -> None:
        """What follows stands in this file, from its beginning."""
        self._file, self._line, self.good_bytes, self.version = name, 0, 0, 0
        self.file_first = self.sequence

    def resume(self, name: str) -> None:
        """What follows stands in the file where this chain has been before."""
        self._file, self._line = name, self.sequence - self.file_first

    def break_here(self, name: str, reason: str) -> None:
        """The chain is broken for another reason than a record's content."""
        self.broken = Break(file=name, line=self._line + 1, reason=reason)

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on from here later, as JSON."""
        return {
            "sequence": self.sequence,
            "head": self.head,
            "writer": self.writer,
            "file_first": self.file_first,
            "good_bytes": self.good_bytes,
            "version": self.version,
            "next_epoch": self.seals.next_epoch,
            "last_ended_ms": self.seals.last_ended_ms,
            "last_count": self.seals.last_count,
            "first": self.retirements.first,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], seal_check: SealCheck | None = None, *, form: bool = True
    ) -> Chain:
        """The chain that `state` was taken from. KeyError or TypeError when it is none."""
        chain = cls(
            sequence=state["sequence"],
            head=state["head"],
            writer=state["writer"],
            seal_check=seal_check,
            form=form,
        )
        chain.file_first, chain.good_bytes = state["file_first"], state["good_bytes"]
        chain.version = state["version"]
        chain.seals.next_epoch = state["next_epoch"]
        chain.seals.last_ended_ms = state["last_ended_ms"]
        chain.seals.last_count = state["last_count"]
        chain.retirements.first = state["first"]
        return chain

    def check(self, lines: Sequence[bytes]) -> list[bytes]:
        """Check lines of the file; the hashes of the sound ones, as leaves of the Merkle log."""
        if not lines or self.broken:
            return []
        if self.version == 0:
            self.version = 2 if lines[0].startswith(START) else 1
        if self.version == 1:
            self._check_slowly(lines)
            return []
        with _without_gc():
            return self._check_quickly(lines)

    def _check_quickly(self, lines: Sequence[bytes]) -> list[bytes]:
        """Each record's place and hash; whatever looks odd is looked at closely."""
        decode, special = _decode_line, _SPECIAL
        block = b"".join(lines)
        wide = not block.isascii() and canonical.has_wide(block)
        form = self._form or not _is_text(block)
        hashes: list[bytes] = []
        head, sequence, writer = self.head, self.sequence, self.writer
        for line in lines:
            digest = sha256(b"\0" + line[:-TAIL_BYTES] + b"}").digest()
            found = digest.hex()
            try:
                record = decode(line)
                sound = (
                    record.hash == found
                    and record.after == head
                    and record.seq == sequence
                    and record.writer == writer
                    and record.v == VERSION
                    and record.type not in special
                    and line[-TAIL_BYTES:-67] == _TAIL
                )
                if form and sound:
                    sound = not wide and _is_canonical(record, line)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                sound = False
            if not sound:
                self.head, self.sequence = head, sequence
                reason, future = self._look_closely(line)
                if reason:
                    torn = 0 if line.endswith(b"\n") else len(line)
                    number = self._line + len(hashes) + 1
                    self.broken = Break(
                        file=self._file, line=number, reason=reason, torn_bytes=torn, future=future
                    )
                    lines = lines[: len(hashes)]
                    break
                writer = self.writer
            hashes.append(digest)
            head = found
            sequence += 1
        self.head, self.sequence = head, sequence
        self._line += len(hashes)
        self.good_bytes += len(block) if not self.broken else sum(map(len, lines))
        return hashes

    def _check_slowly(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            reason, future = self._look_closely(line)
            if reason:
                torn = 0 if line.endswith(b"\n") else len(line)
                self.broken = Break(
                    file=self._file,
                    line=self._line + 1,
                    reason=reason,
                    torn_bytes=torn,
                    future=future,
                )
                return
            self.sequence += 1
            self._line += 1
            self.good_bytes += len(line)

    def _look_closely(self, line: bytes) -> tuple[str, bool]:
        """What is wrong with the next line, and whether it is merely of a later version."""
        if not line.endswith(b"\n"):
            return "the last line is torn", False
        try:
            record = parse(line)
        except FutureVersionError as error:
            # Only a whole file can be of a later version.
            first = self._line == 0 and self.version == 1
            return (str(error), True) if first else ("it is of another version", False)
        except RecordError as error:
            return str(error), False
        if record.version != self.version:
            return "it is of another version than the lines before it", False
        reason = _misplaced(record.sequence, record.prev, self.sequence, self.head)
        if not reason and self.writer not in (None, record.writer):
            reason = f"it was written by {record.writer!r}, the others by {self.writer!r}"
        if reason:
            return reason, False
        self.writer = record.writer
        reason = self._special(record.event)
        if self.version == 1:
            self.head = record.hash
        return reason, False

    def _special(self, event: Event) -> str:
        type_, fields = event.type, event.fields
        if self.version == 1 or type_ not in _SPECIAL:
            return ""
        if type_ == seals.SEAL:
            writer = self.writer or ""
            return self.seals.seal(fields, writer=writer, count=self.sequence, head=self.head)
        if type_ == seals.ROTATED:
            return self.seals.rotated(fields, writer=self.writer or "")
        if type_ == RETIRED:
            self.retirements.see(event, self.seals, self.writer or "")
        else:
            self.log_keys.append(fields)
        return ""

    def verdict(self) -> Verdict:
        """What has been found so far."""
        found = self.broken
        if found is None and not self.retirements.vouched:
            reason = (
                f"the journal begins with record {self.retirements.first}, and nothing on record "
                "says that the ones before were retired"
            )
            if self.retirements.refused:
                reason += f" but a record that is not to be believed: {self.retirements.refused}"
            found = Break(file=self._file, line=1, reason=reason)
        common = {"records": self.sequence, "head": self.head, "good_bytes": self.good_bytes}
        first = self.retirements.first
        if found is None:
            return Verdict(ok=True, first=first, **common)  # type: ignore[arg-type]
        return Verdict(
            ok=False,
            first=first,
            line=found.line,
            reason=found.reason,
            file=found.file,
            torn_bytes=found.torn_bytes,
            future=found.future,
            **common,  # type: ignore[arg-type]
        )


def _is_text(block: bytes) -> bool:
    """Whether this is UTF-8, which the JSON reader does not look at in what it passes over."""
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_canonical(record: _Line, line: bytes) -> bool:
    """Whether a record that was read from a line is written as that line; False when unsure."""
    raw = bytes(record.fields)
    fields = _decode_fields(raw)
    for value in fields.values():
        kind = value.__class__
        if kind is float:
            if value % 1 == 0 or not 1e-3 < value < 1e12:
                return False
        elif kind is int:
            if not -_MAX_INTEGER < value < _MAX_INTEGER:
                return False
        elif (kind is dict or kind is list) and not canonical.is_plain(value):
            return False
    named = f',"id":"{record.id}"' if record.id else ""
    front = f'{{"after":"{record.after}","call_id":"{record.call_id}","fields":'
    back = (
        f'{named},"seq":{record.seq},"time_unix_ms":{record.time_unix_ms},"type":"{record.type}",'
        f'"v":{record.v},"writer":"{record.writer}","~hash":"{record.hash}"}}\n'
    )
    return (
        canonical.encode_plain(fields) == raw
        and b"%b%b%b" % (front.encode(), raw, back.encode()) == line
    )


@contextmanager
def _without_gc() -> Iterator[None]:
    """Reading a million records makes no cycles, and looking for them took a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _misplaced(sequence: int, prev: str, expected: int, head: str) -> str:
    if sequence != expected:
        return f"it is number {sequence} where number {expected} belongs"
    return "" if prev == head else "it does not follow the record before it"
