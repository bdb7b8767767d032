"""A transcript per call, for people (.txt) and machines (.jsonl), made from the call's records.

The journal is the truth; a transcript can be made from it again at any time.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from services.audit.record import Event, Record

_KEPT = frozenset(
    "call_started caller_said agent_said tool_called tool_returned call_ended".split()
)
_MAX_ENDED = 256  # ended calls kept for events that come late
_MAX_RUNNING = 10_000  # calls that never ended are forgotten, the oldest first
_MAX_NAME = 120


class Transcripts:
    """Collects records of running calls, and writes a call's transcript when it has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, list[Event]] = {}
        self._ended: dict[str, list[Event]] = {}

    def collect(self, record: Record) -> str | None:
        """Take one more record; the call whose transcript must now be written, if any."""
        event = record.event
        if not event.call_id or event.type not in _KEPT:
            return None
        events = self._ended.get(event.call_id)
        if events is None:
            events = self._running.setdefault(event.call_id, [])
            while len(self._running) > _MAX_RUNNING:
                del self._running[next(iter(self._running))]
        events.append(event)
        if event.type == "call_ended" and event.call_id in self._running:
            self._ended[event.call_id] = self._running.pop(event.call_id)
            while len(self._ended) > _MAX_ENDED:
                del self._ended[next(iter(self._ended))]
        return event.call_id if event.call_id in self._ended else None

    def running(self) -> tuple[str, ...]:
        """Calls without an end so far."""
        return tuple(self._running)

    def write(self, call_id: str) -> None:
        """Write both files of a call, whole or not at all. OSError when the disk does not."""
        events = self._ended.get(call_id) or self._running.get(call_id) or []
        self._folder.mkdir(parents=True, exist_ok=True)
        name = file_name(call_id)
        lines = "".join(f"{json.dumps(entry(event), ensure_ascii=False)}\n" for event in events)
        _replace(self._folder / f"{name}.jsonl", lines)
        _replace(self._folder / f"{name}.txt", text(call_id, events))


def file_name(call_id: str) -> str:
    """A call id as a file name that cannot leave its folder."""
    name = quote(call_id, safe="@+=")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _MAX_NAME:
        name = f"{name[:40]}-{sha256(call_id.encode()).hexdigest()}"
    return name


def entry(event: Event) -> dict[str, Any]:
    """An event as a line of the .jsonl file."""
    return {"time_unix_ms": event.time_unix_ms, "type": event.type, **event.fields}


def text(call_id: str, events: Sequence[Event]) -> str:
    """The transcript for people: who said what, with minutes and seconds since the call began."""
    if not events:
        return ""
    start_ms = events[0].time_unix_ms
    lines = [f"Call {_one_line(call_id)}"]
    for event in events:
        seconds = max(0, event.time_unix_ms - start_ms) / 1000
        stamp = f"{int(seconds // 60):02d}:{seconds % 60:04.1f}"
        lines += (f"{stamp}  {_one_line(line)}" for line in _LINES[event.type](event))
    return "\n".join(lines) + "\n"


def _started(event: Event) -> Iterator[str]:
    when = datetime.fromtimestamp(event.time_unix_ms / 1000, UTC)
    fields = event.fields
    yield (
        f"began   {when:%Y-%m-%d %H:%M:%S} UTC, from {fields.get('caller') or 'unknown'} "
        f"to {fields.get('callee') or 'unknown'}, agent {fields.get('agent') or 'unknown'}"
    )


def _caller(event: Event) -> Iterator[str]:
    fields = event.fields
    said = fields.get("text") or ""
    if fields.get("rejected"):
        guess = fields.get("rejected_text") or "nothing that can be said here"
        yield f"caller  {said} (sounded like: {guess})"
    else:
        yield f"caller  {said}"


def _agent(event: Event) -> Iterator[str]:
    cut = "" if event.fields.get("complete", True) else " --(interrupted)"
    yield f"agent   {event.fields.get('text') or ''}{cut}"


def _called(event: Event) -> Iterator[str]:
    arguments = json.dumps(event.fields.get("arguments") or {}, ensure_ascii=False)
    yield f"tool    {event.fields.get('tool')} {arguments}"


def _returned(event: Event) -> Iterator[str]:
    result = json.dumps(event.fields.get("result") or {}, ensure_ascii=False)
    yield f"tool    {event.fields.get('tool')} returned {result}"


def _ended(event: Event) -> Iterator[str]:
    yield f"ended   {event.fields.get('result')}: {event.fields.get('reason')}"


_LINES: dict[str, Callable[[Event], Iterator[str]]] = {
    "call_started": _started,
    "caller_said": _caller,
    "agent_said": _agent,
    "tool_called": _called,
    "tool_returned": _returned,
    "call_ended": _ended,
}


def _one_line(value: str) -> str:
    """What was said cannot make lines of its own."""
    return "".join(c if c.isprintable() else " " for c in value)


def _replace(path: Path, content: str) -> None:
    fresh = path.with_name(f"{path.name}.tmp")
    fresh.write_text(content, encoding="utf-8")
    os.replace(fresh, path)
