"""Reads calls from the journal, for people and reports. Does not verify; that is verify.py's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.audit.record import Event
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSummary:
    """One call as the journal tells it; `result` is None while it has no end."""

    call_id: str
    started_unix_ms: int
    caller: str = ""
    callee: str = ""
    agent: str = ""
    duration_ms: int | None = None
    result: str | None = None
    reason: str | None = None
    turns: int = 0


@dataclass(slots=True)
class _Seen:
    started: Event
    ended: Event | None = None
    caller_turns: set[Any] = field(default_factory=set)


def events(journal: Path) -> Iterator[Event]:
    """Every event in order. LandlineError when the journal is missing or a line is no record."""
    try:
        with journal.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # is being written
                yield _event(journal, number, line)
    except OSError as error:
        raise LandlineError(f"cannot read the journal {journal}: {error.strerror}") from error


def calls(journal: Path) -> list[CallSummary]:
    """Every call, in the order in which they began."""
    seen: dict[str, _Seen] = {}
    for event in events(journal):
        if not event.call_id:
            continue
        call = seen.setdefault(event.call_id, _Seen(event))
        if event.type == "call_ended":
            call.ended = event
        elif event.type == "caller_said":
            call.caller_turns.add(event.fields.get("turn"))
    return [_summary(call) for call in seen.values()]


def call_events(journal: Path, call_id: str) -> list[Event]:
    """One call's events; empty when the journal does not know it."""
    return [event for event in events(journal) if event.call_id == call_id]


def turn_rows(journal: Path, call_id: str) -> list[dict[str, Any]]:
    """The `turn_measured` rows of a call: {turn, total_ms, endpointing_ms, ...}."""
    measured = (event for event in call_events(journal, call_id) if event.type == "turn_measured")
    return [dict(event.fields) for event in measured]


def _event(journal: Path, number: int, line: bytes) -> Event:
    try:
        record = json.loads(line)
        return Event(
            type=record["type"],
            time_unix_ms=record["time_unix_ms"],
            call_id=record["call_id"],
            fields=record["fields"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LandlineError(
            f"{journal}, line {number} is damaged; see: landline audit verify"
        ) from error


def _summary(call: _Seen) -> CallSummary:
    fields = call.started.fields
    ended = call.ended.fields if call.ended is not None else {}
    duration_ms = ended.get("duration_ms")
    if duration_ms is None and call.ended is not None:
        duration_ms = call.ended.time_unix_ms - call.started.time_unix_ms
    return CallSummary(
        call_id=call.started.call_id,
        started_unix_ms=call.started.time_unix_ms,
        caller=str(fields.get("caller", "")),
        callee=str(fields.get("callee", "")),
        agent=str(fields.get("agent", "")),
        duration_ms=duration_ms,
        result=ended.get("result"),
        reason=ended.get("reason"),
        turns=int(ended.get("turns", len(call.caller_turns))),
    )
