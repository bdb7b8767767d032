"""Calls as the journal tells them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.audit import segments
from services.audit.records import RecordError, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.audit.records import Event


def journal_path(data_dir: Path) -> Path:
    """Where the journal of this data_dir lies."""
    return data_dir / "audit" / "journal.jsonl"


@dataclass(slots=True, kw_only=True)
class CallSummary:
    """One call. `result` is "running" until its end is on record."""

    call_id: str
    started_unix_ms: int
    caller: str
    agent: str
    trunk: str
    duration_ms: int = 0
    turns: int = 0
    result: str = "running"
    reason: str = ""
    recording_path: str = ""


def events(journal: Path, *names: bytes) -> Iterator[Event]:
    """Every event in order, as far as the journal can be read; RecordError where it cannot.

    With `names`, only records that hold one of these are looked at, which is much quicker. A
    last line that is still being written is left out. FileNotFoundError without a journal.
    """
    found = False
    for segment, file in segments.opened(journal):
        found = True
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            if names and not any(name in line for name in names):
                continue
            try:
                yield parse(line).event
            except RecordError as error:
                raise RecordError(f"{segment.path.name} line {number}: {error}") from error
    if not found:
        raise FileNotFoundError(2, "there is no journal", str(journal))


def calls(journal: Path) -> list[CallSummary]:
    """All calls, the oldest first."""
    found: dict[str, CallSummary] = {}
    for event in events(journal, b'"call_started"', b'"call_ended"'):
        fields: dict[str, Any] = event.fields
        if event.type == "call_started":
            found[event.call_id] = CallSummary(
                call_id=event.call_id,
                started_unix_ms=event.time_unix_ms,
                caller=fields.get("caller", ""),
                agent=fields.get("agent", ""),
                trunk=fields.get("trunk", ""),
            )
        elif event.type == "call_ended" and (call := found.get(event.call_id)) is not None:
            call.duration_ms = fields.get("duration_ms", 0)
            call.turns = fields.get("turns", 0)
            call.result = fields.get("result", "")
            call.reason = fields.get("reason", "")
            call.recording_path = fields.get("recording_path", "")
    return list(found.values())


def events_of(journal: Path, call_id: str) -> list[Event]:
    """Every event of one call."""
    named = b'"call_id":%b' % json.dumps(call_id).encode()
    return [event for event in events(journal, named) if event.call_id == call_id]
