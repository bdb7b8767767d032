"""Follows the journal while it is being written, to show a call as it happens."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from services.audit import segments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """One record of the journal, without its chain."""

    call_id: str
    type: str
    fields: dict[str, Any]


async def follow(journal: Path, *, from_end: bool = True) -> AsyncIterator[JournalEvent]:
    """Records as they are written, for ever; whole lines only, and on into the next file."""
    file: BinaryIO = journal.open("rb")
    try:
        if from_end:
            file.seek(0, 2)
        pending = b""
        while True:
            # Asked before reading: once the file is full, nothing more is written into it.
            full = _is_full(file, journal)
            pending += file.read()
            *lines, pending = pending.split(b"\n")
            for line in lines:
                record = json.loads(line)
                yield JournalEvent(record["call_id"], record["type"], record["fields"])
            if full:
                following = _after(file, journal)
                file.close()
                file, pending = following, b""
            elif not lines:
                await asyncio.sleep(_POLL_S)
    finally:
        file.close()


def _is_full(file: BinaryIO, journal: Path) -> bool:
    """Whether the journal goes on in another file than the one that is open."""
    try:
        return not os.path.samestat(os.fstat(file.fileno()), journal.stat())
    except FileNotFoundError:
        return False  # between two files


def _after(file: BinaryIO, journal: Path) -> BinaryIO:
    """The file after this one; the oldest there is when this one has been retired."""
    ours = os.fstat(file.fileno())
    while True:
        full = segments.closed(journal)
        paths = [segment.path for segment in full]
        at = next((n for n, path in enumerate(paths) if os.path.samestat(path.stat(), ours)), -1)
        following = [*paths, journal][at + 1].open("rb")
        if segments.closed(journal) == full:
            return following
        following.close()  # it became full in between, and another is the live one now


def describe(event: JournalEvent) -> tuple[str, str] | None:
    """Who said what, for a person to read; None for records that are not part of the talk."""
    fields = event.fields
    match event.type:
        case "caller_said":
            return "heard", _caller(fields)
        case "agent_said":
            return "agent", fields["text"] + ("" if fields["complete"] else " — (cut)")
        case "tool_called":
            return "tool", f"{fields['tool']} {json.dumps(fields['arguments'])}"
        case "tool_returned":
            return "tool", f"{fields['tool']} -> {fields['result']['status']}"
        case "turn_measured":
            return "delay", (
                f"{fields['total_ms']} ms: end of turn {fields['endpointing_ms']}, "
                f"stt {fields['stt_ms']}, llm {fields['llm_ms']}, tts {fields['tts_ms']}, "
                f"framework {fields['framework_ms']}"
            )
        case "reply_failed" | "speech_failed" | "transfer_failed":
            return "trouble", f"{event.type}: {fields['reason']}"
        case "call_ended":
            return "end", f"{fields['result']}: {fields['reason']}"
        case _:
            return None


def _caller(fields: dict[str, Any]) -> str:
    if fields["rejected"]:
        guess = fields.get("rejected_text") or "nothing that can be said here"
        return f"(rejected: {guess}; {fields.get('reason') or 'not sure enough'})"
    return f"{fields['text']}  ({fields['confidence']:.0%} sure)"
