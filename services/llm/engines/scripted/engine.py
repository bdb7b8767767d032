"""The scripted engine: answers from the agent file alone, without a model."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from services.llm.engine import Finished, FinishReason, Role, Text, ToolCall
from services.llm.engines.scripted.dialogue import CallerSaid, Dialogue, ToolReturned
from services.llm.engines.scripted.state import State
from services.llm.engines.scripted.understand import Understanding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from services.common.agent_file import AgentFile
    from services.llm.engine import ChatRequest, Message, Piece
    from services.llm.engines.scripted.dialogue import Event, Reply
    from services.llm.engines.scripted.understand import Meaning

_WORDS_PER_DELTA = 3


class ScriptedEngine:
    """Serves each agent as a model of the agent's name. A token of it is a word."""

    def __init__(self, agents: list[AgentFile]) -> None:
        self._dialogues = {agent.name: Dialogue(agent, Understanding(agent)) for agent in agents}

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._dialogues)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        dialogue = self._dialogues[request.model]
        state = State()
        for event in events(request.messages):
            state = dialogue.after(state, event)
        reply = dialogue.reply(state, request.tools)
        words = reply.text.split()
        limit = len(words) if request.max_tokens is None else request.max_tokens
        for delta in deltas(words[:limit]):
            yield Text(delta)
            await asyncio.sleep(0)
        cut = limit < len(words)
        if reply.tool is not None and not cut:
            yield _tool_call(request, reply)
        yield Finished(
            reason=_finish_reason(reply, cut=cut),
            prompt_tokens=sum(len(message.content.split()) for message in request.messages),
            completion_tokens=min(limit, len(words)),
            expect=reply.expect,
            understood=_understood(state.heard),
        )


def events(messages: tuple[Message, ...]) -> Iterator[Event]:
    """What callers said and tools returned; what the agent said does not matter."""
    calls = {call.id: call for message in messages for call in message.tool_calls}
    for message in messages:
        if message.role is Role.USER:
            yield CallerSaid(message.content)
        elif message.role is Role.TOOL and (call := calls.get(message.tool_call_id or "")):
            yield ToolReturned(
                name=call.name,
                arguments=_object(call.arguments),
                result=_object(message.content),
            )


def deltas(words: list[str]) -> Iterator[str]:
    """The words in small groups that join to the text."""
    for start in range(0, len(words), _WORDS_PER_DELTA):
        group = " ".join(words[start : start + _WORDS_PER_DELTA])
        yield group if start == 0 else f" {group}"


def _object(text: str) -> dict[str, Any]:
    """A JSON object; anything else counts as a failed tool."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"status": "error"}


def _tool_call(request: ChatRequest, reply: Reply) -> ToolCall:
    """The id is unique in the conversation and the same for the same request."""
    return ToolCall(
        id=f"call_{len(request.messages)}",
        name=reply.tool or "",
        arguments=json.dumps(dict(reply.arguments)),
    )


def _finish_reason(reply: Reply, *, cut: bool) -> FinishReason:
    if cut:
        return FinishReason.LENGTH
    return FinishReason.STOP if reply.tool is None else FinishReason.TOOL_CALLS


def _understood(meaning: Meaning) -> dict[str, Any]:
    return {
        "intent": meaning.intent,
        "slots": dict(meaning.slots),
        "polarity": meaning.polarity,
        "score": round(meaning.score, 3),
    }
