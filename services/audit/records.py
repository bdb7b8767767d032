"""One record of the journal: its fields, its canonical line and its hash.

A line is the record as canonical JSON (RFC 8785). The names are chosen so that `after`, the hash
of the record before, comes first and `~hash`, the record's own, last, both at fixed places. The
hash is SHA-256 over a zero byte and the canonical JSON without `~hash`: the leaf hash of RFC 6962,
so that the record is a leaf of the Merkle log as it stands. No record can be changed, removed,
added or moved without breaking every hash that follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from services.audit import canonical, records_v1

GENESIS = "0" * 64
VERSION = 2
START = b'{"after":"'
TAIL_BYTES = 77  # ,"~hash":"<64>"} and the end of the line
_MAX_INTEGER = 2**53


class RecordError(ValueError):
    """A line that is no record of this journal; the message says why."""


class FutureVersionError(RecordError):
    """A line that a later version of Landline wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, before it has its place in the journal.

    `id` is chosen by the sender: the same one sent again is recorded once. Empty: never the same.
    """

    type: str
    time_unix_ms: int
    call_id: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An event with the parts of its line that do not depend on its place."""

    event: Event
    front: bytes
    back: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event in its place. `version` is the one that its line is written in."""

    sequence: int
    writer: str
    prev: str
    event: Event
    hash: str
    encoded: bytes = field(repr=False)
    version: int = VERSION

    def line(self) -> bytes:
        """The journal's line, with its end of line."""
        return self.encoded


def prepare(event: Event) -> Prepared:
    """Encode an event once, before its place is known; RecordError when JSON cannot hold it."""
    if not -_MAX_INTEGER < event.time_unix_ms < _MAX_INTEGER:
        raise RecordError("its time is out of range")
    try:
        named = b',"id":' + canonical.text(event.id) if event.id else b""
        front = b'","call_id":%b,"fields":%b%b,"seq":' % (
            canonical.text(event.call_id),
            canonical.dumps(event.fields),
            named,
        )
        back = b',"time_unix_ms":%d,"type":%b,"v":2,"writer":' % (
            event.time_unix_ms,
            canonical.text(event.type),
        )
    except canonical.CanonicalError as error:
        raise RecordError(f"it cannot be written as canonical JSON: {error}") from error
    return Prepared(event, front, back)


def chain(event: Event | Prepared, *, sequence: int, writer: str, prev: str) -> Record:
    """Put an event behind the record whose hash is `prev`; RecordError when JSON cannot hold it."""
    parts = event if isinstance(event, Prepared) else prepare(event)
    body = b"%b%b%b%d%b%b" % (
        START,
        prev.encode(),
        parts.front,
        sequence,
        parts.back,
        canonical.text(writer),
    )
    digest = sha256(b"\0" + body + b"}").hexdigest()
    return Record(
        sequence=sequence,
        writer=writer,
        prev=prev,
        event=parts.event,
        hash=digest,
        encoded=b'%b,"~hash":"%b"}\n' % (body, digest.encode()),
    )


def parse(line: bytes) -> Record:
    """Read a line and check its own hash; RecordError when it is not exactly what was written."""
    try:
        data = canonical.loads(line)
        version = data["v"]
        if version == 1:
            return _parse_v1(data, line)
        if version != VERSION:
            raise _of_another_version(version)
        if set(data) - {"id"} != _NAMES:
            raise RecordError("it is no record: it has other names than a record has")
        if not all(isinstance(data[name], str) for name in ("call_id", "type", "writer")):
            raise RecordError("it is no record: a name in it is no text")
        if not isinstance(data["fields"], dict):
            raise RecordError("it is no record: its fields are no object")
        record = chain(
            Event(
                type=data["type"],
                time_unix_ms=data["time_unix_ms"],
                call_id=data["call_id"],
                fields=data["fields"],
                id=data.get("id", ""),
            ),
            sequence=data["seq"],
            writer=data["writer"],
            prev=data["after"],
        )
        claimed = data["~hash"]
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"it is no record: {error!r}") from error
    if record.hash != claimed:
        digest = sha256(b"\0" + line[:-TAIL_BYTES] + b"}").hexdigest()
        if digest != claimed:
            raise RecordError("its hash does not fit its content")
    if record.encoded != line:
        raise RecordError("it is not in canonical form")
    return record


_NAMES = {"after", "call_id", "fields", "seq", "time_unix_ms", "type", "v", "writer", "~hash"}


def _of_another_version(version: object) -> RecordError:
    if isinstance(version, int) and version > VERSION:
        return FutureVersionError(
            f"it is of version {version} of the journal, written by a later Landline; "
            f"this one reads up to version {VERSION}"
        )
    return RecordError("it is of another version of the journal")


def _parse_v1(data: dict[str, Any], line: bytes) -> Record:
    try:
        claimed = records_v1.parse(data, line)
    except canonical.CanonicalError as error:
        raise RecordError(f"it is no record: {error}") from error
    except records_v1.RecordV1Error as error:
        raise RecordError(str(error)) from error
    return Record(
        sequence=data["seq"],
        writer=data["writer"],
        prev=data["prev"],
        event=Event(
            type=data["type"],
            time_unix_ms=data["time_unix_ms"],
            call_id=data["call_id"],
            fields=data["fields"],
        ),
        hash=claimed,
        encoded=line,
        version=1,
    )
