"""What the service asks of an engine: chat requests in, pieces of an answer out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that an assistant message asks for; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One request. Only the tools named in `tools` may be called; `max_tokens` bounds the text."""

    model: str
    messages: tuple[Message, ...]
    tools: frozenset[str] = frozenset()
    max_tokens: int | None = None


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Text:
    """The next words of the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of the answer. `expect` names the slots that it asks the caller for."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    expect: tuple[str, ...] = ()
    understood: Mapping[str, Any] = field(default_factory=dict)


Piece: TypeAlias = Text | ToolCall | Finished


class Engine(Protocol):
    """Answers chat requests for the models that it names.

    `chat` yields Text, then ToolCall, then exactly one Finished. Closing the iterator stops the
    work. The same request gives the same answer.
    """

    @property
    def models(self) -> tuple[str, ...]: ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Piece, None]: ...
