"""Follows the journal while it is being written, to show a call as it happens."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """Records as they are written, for ever; whole lines only."""
    with journal.open("rb") as file:
        if from_end:
            file.seek(0, 2)
        pending = b""
        while True:
            pending += file.read()
            *lines, pending = pending.split(b"\n")
            for line in lines:
                record = json.loads(line)
                yield JournalEvent(record["call_id"], record["type"], record["fields"])
            if not lines:
                await asyncio.sleep(_POLL_S)


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
