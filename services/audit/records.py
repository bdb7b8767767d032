"""One record of the journal: its fields, its canonical line and its hash.

A line is the record as canonical JSON (RFC 8785) with its own hash. The hash is SHA-256 over the
canonical JSON without it, and `prev` is the hash of the record before, so that no record can be
changed, removed, added or moved without breaking every hash that follows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import rfc8785

GENESIS = "0" * 64
VERSION = 1


class RecordError(ValueError):
    """A line that is no record of this journal; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, before it has its place in the journal."""

    type: str
    time_unix_ms: int
    call_id: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event in its place."""

    sequence: int
    writer: str
    prev: str
    event: Event
    hash: str

    def line(self) -> bytes:
        """The journal's line, with its end of line."""
        return rfc8785.dumps({**_body(self), "hash": self.hash}) + b"\n"


def chain(event: Event, *, sequence: int, writer: str, prev: str) -> Record:
    """Put an event behind the record whose hash is `prev`; RecordError when JSON cannot hold it."""
    unsigned = Record(sequence=sequence, writer=writer, prev=prev, event=event, hash="")
    return Record(
        sequence=sequence, writer=writer, prev=prev, event=event, hash=_digest(_body(unsigned))
    )


def parse(line: bytes) -> Record:
    """Read a line and check its own hash; RecordError when it is not exactly what was written."""
    try:
        data = json.loads(line, parse_int=_number)
        claimed = data.pop("hash")
        if data.pop("v") != VERSION:
            raise RecordError("it is of another version of the journal")
        event = Event(
            type=data["type"],
            time_unix_ms=data["time_unix_ms"],
            call_id=data["call_id"],
            fields=data["fields"],
        )
        record = Record(
            sequence=data["seq"],
            writer=data["writer"],
            prev=data["prev"],
            event=event,
            hash=claimed,
        )
        canonical = record.line()
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"it is no record: {error!r}") from error
    if canonical != line:
        raise RecordError("it is not in canonical form")
    if _digest(_body(record)) != record.hash:
        raise RecordError("its hash does not fit its content")
    return record


def _body(record: Record) -> dict[str, Any]:
    return {
        "v": VERSION,
        "seq": record.sequence,
        "writer": record.writer,
        "prev": record.prev,
        "call_id": record.event.call_id,
        "type": record.event.type,
        "time_unix_ms": record.event.time_unix_ms,
        "fields": record.event.fields,
    }


def _number(digits: str) -> int | float:
    """RFC 8785 writes large floating point numbers without a point; they are not integers."""
    value = int(digits)
    return value if abs(value) < 2**53 else float(value)


def _digest(body: dict[str, Any]) -> str:
    try:
        return hashlib.sha256(rfc8785.dumps(body)).hexdigest()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise RecordError(f"it cannot be written as canonical JSON: {error}") from error
