"""One record of the journal, and the chain that ties it to the one before it. Pure.

A record is one line of canonical JSON (RFC 8785):
{call_id, fields, hash, prev, seq, time_unix_ms, type, writer}. `hash` is the SHA-256, in hex, of
the canonical JSON of the record without `hash`; `prev` is the hash of the record before it, and 64
zeros in the first.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rfc8785

from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Mapping

GENESIS = "0" * 64
MAX_SAFE_INTEGER = 2**53 - 1  # beyond it JSON numbers are not exact (RFC 8785, section 3.1)
_KEYS = frozenset("call_id fields hash prev seq time_unix_ms type writer".split())


class BrokenRecordError(ValueError):
    """A line that is no record; the message says why."""


class EventRejectedError(LandlineError):
    """An event that cannot be written as canonical JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `fields` holds plain JSON values."""

    type: str
    time_unix_ms: int
    call_id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event at its place in the chain."""

    seq: int
    event: Event
    writer: str
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain: the next record must follow it."""

    seq: int = 0
    hash: str = GENESIS


def chain(link: Link, event: Event, writer: str) -> tuple[Record, bytes]:
    """The event as the record after `link`, and its line. EventRejectedError if it is no JSON."""
    unsigned = {
        "call_id": event.call_id,
        "fields": plain(event.fields),
        "prev": link.hash,
        "seq": link.seq + 1,
        "time_unix_ms": event.time_unix_ms,
        "type": event.type,
        "writer": writer,
    }
    try:
        digest = hashlib.sha256(rfc8785.dumps(unsigned)).hexdigest()
        line = rfc8785.dumps({**unsigned, "hash": digest})
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise EventRejectedError(f"{event.type or 'event'}: {error}") from error
    record = Record(seq=link.seq + 1, event=event, writer=writer, prev=link.hash, hash=digest)
    return record, line + b"\n"


def parse(line: bytes, link: Link) -> Record:
    """A line (without its newline) as the record after `link`; BrokenRecordError says why not."""
    data = _object(line)
    if set(data) != _KEYS:
        raise BrokenRecordError("it does not hold the keys of a record")
    event = Event(
        type=_typed(data, "type", str),
        time_unix_ms=_typed(data, "time_unix_ms", int),
        call_id=_typed(data, "call_id", str),
        fields=_typed(data, "fields", dict),
    )
    if data["seq"] != link.seq + 1:
        raise BrokenRecordError(f"it has number {data['seq']}, expected {link.seq + 1}")
    if data["prev"] != link.hash:
        raise BrokenRecordError("it does not follow from the record before it")
    try:
        record, expected = chain(link, event, _typed(data, "writer", str))
    except EventRejectedError as error:
        raise BrokenRecordError(str(error)) from error
    if record.hash != data["hash"]:
        raise BrokenRecordError("its content does not match its hash")
    if expected[:-1] != line:
        raise BrokenRecordError("it is not written in canonical form")
    return record


def plain(value: Any) -> Any:
    """JSON values with whole floats as ints, as canonical JSON writes them."""
    match value:
        case float() if value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
            return int(value)
        case int() if not isinstance(value, bool) and abs(value) > MAX_SAFE_INTEGER:
            return float(value)
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8"), parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BrokenRecordError(f"it is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise BrokenRecordError("it is no JSON object")
    return data


def _integer(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > MAX_SAFE_INTEGER:
        return value
    return int(text)


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _typed(data: dict[str, Any], key: str, type_: type) -> Any:
    value = data[key]
    if not isinstance(value, type_) or isinstance(value, bool):
        raise BrokenRecordError(f"its {key} is not of the right type")
    return value
