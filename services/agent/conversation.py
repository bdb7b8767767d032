"""The history of one call: what was really said and what was really heard.

The agent's words enter it as they are spoken; when a reply is cut, only the words whose sound had
been played are kept, so that the model never believes it said something that nobody heard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Message: TypeAlias = dict[str, Any]

NOT_UNDERSTOOD = "[not understood]"
SILENCE = "[silence]"


def keypad(digits: str) -> str:
    """How keyed digits stand in the history."""
    return f"[keypad] {digits}"


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of a piece of speech: where it ends in the text, and when its sound begins."""

    text_end: int
    start_ms: int


@dataclass(slots=True)
class Piece:
    """One clause on its way to the caller; `mark` names it on the line."""

    mark: str
    text: str
    turn: int = 0  # the caller's turn that it answers
    filler: bool = False  # said while the caller waits, and no part of the answer
    words: list[SpokenWord] = field(default_factory=list)
    made_ms: int = 0
    played_ms: int = 0
    finished: bool = False
    cut: bool = False

    def heard(self) -> str:
        """The text whose sound has been played; whole words only."""
        if self.finished or not self.cut:
            return self.text
        end = max((w.text_end for w in self.words if w.start_ms < self.played_ms), default=0)
        if not self.words and self.made_ms:
            end = self._estimated_end()
        return self.text[:end].rstrip()

    def _estimated_end(self) -> int:
        share = min(1.0, self.played_ms / self.made_ms)
        reached = int(len(self.text) * share)
        if reached == len(self.text):
            return reached
        return max(0, self.text.rfind(" ", 0, reached + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A request of the model to run a tool; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> Mapping[str, Any] | None:
        """The arguments, or None when they are no JSON object."""
        try:
            value = json.loads(self.arguments or "{}")
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, dict) else None


@dataclass(slots=True)
class CallerEntry:
    text: str

    def messages(self) -> list[Message]:
        return [{"role": "user", "content": self.text}]


@dataclass(slots=True)
class AgentEntry:
    """One message of the model: clauses said, then tools asked for, with their results."""

    pieces: list[Piece] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)

    def heard(self) -> str:
        return " ".join(text for piece in self.pieces if (text := piece.heard()))

    def messages(self) -> list[Message]:
        calls = [call for call in self.tool_calls if call.id in self.results]
        heard = self.heard()
        if not calls:
            return [{"role": "assistant", "content": heard}] if heard else []
        request: Message = {
            "role": "assistant",
            "content": heard or None,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ],
        }
        answers = [
            {"role": "tool", "tool_call_id": call.id, "content": self.results[call.id]}
            for call in calls
        ]
        return [request, *answers]


class Conversation:
    """The entries of one call, in order, and their form as chat messages."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._entries: list[CallerEntry | AgentEntry] = []

    def add_caller(self, text: str) -> None:
        self._entries.append(CallerEntry(text))

    def add_agent(self) -> AgentEntry:
        """A new entry for what the agent is about to say or do."""
        entry = AgentEntry()
        self._entries.append(entry)
        return entry

    def messages(self) -> list[Message]:
        """OpenAI chat messages, the prompt first."""
        messages: list[Message] = [{"role": "system", "content": self._prompt}]
        for entry in self._entries:
            messages += entry.messages()
        return messages
