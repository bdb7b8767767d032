"""A transcript for each call, made from the journal's records: one to read and one for machines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from services.audit.records import Event, Record

_PARTS = frozenset(
    {"call_started", "caller_said", "agent_said", "tool_called", "tool_returned", "call_ended"}
)


class Transcripts:
    """Writes data_dir/transcripts/CALL.txt and CALL.jsonl as the call goes on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def add(self, records: Iterable[Record]) -> None:
        """Append what belongs to a transcript. OSError when the disk refuses."""
        for record in records:
            event = record.event
            if not event.call_id or event.type not in _PARTS:
                continue
            with (self._folder / f"{event.call_id}.jsonl").open("a", encoding="utf-8") as file:
                body = {"type": event.type, "time_unix_ms": event.time_unix_ms, **event.fields}
                file.write(json.dumps(body, ensure_ascii=False) + "\n")
            with (self._folder / f"{event.call_id}.txt").open("a", encoding="utf-8") as file:
                file.write(readable(event) + "\n")


def readable(event: Event) -> str:
    """One line of a transcript, with the time of day in UTC."""
    time = datetime.fromtimestamp(event.time_unix_ms / 1000, UTC).strftime("%H:%M:%S")
    return f"{time}  {_words(event)}"


def _words(event: Event) -> str:
    fields = event.fields
    match event.type:
        case "call_started":
            day = datetime.fromtimestamp(event.time_unix_ms / 1000, UTC).date()
            return f"call {event.call_id} from {fields.get('caller')} on {day}"
        case "caller_said":
            return f"caller: {_caller(fields)}"
        case "agent_said":
            return f"agent:  {fields.get('text')}{'' if fields.get('complete') else ' — (cut)'}"
        case "tool_called":
            return f"tool:   {fields.get('tool')} {json.dumps(fields.get('arguments'))}"
        case "tool_returned":
            return f"tool:   {fields.get('tool')} gave {json.dumps(fields.get('result'))}"
        case _:
            return f"ended: {fields.get('result')} ({fields.get('reason')})"


def _caller(fields: dict[str, object]) -> str:
    if fields.get("rejected"):
        return f"(not understood; best guess: {fields.get('rejected_text') or 'none'})"
    return str(fields.get("text"))
