from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from services.common.clock import ManualClock
from services.llm.engine import (
    ChatRequest,
    Finished,
    FinishReason,
    Message,
    Piece,
    Role,
    Text,
    ToolCall,
)
from services.llm.service import BusyError, ChatService, UnknownModelError


class TalkingEngine:
    """Says a word for ever, or calls a tool at once."""

    models = ("m",)

    def __init__(self, tool: str | None = None) -> None:
        self.closed = False
        self._tool = tool

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        del request
        try:
            if self._tool is not None:
                yield ToolCall(id="t", name=self._tool, arguments="{}")
                yield Finished(reason=FinishReason.TOOL_CALLS, prompt_tokens=0, completion_tokens=0)
                return
            while True:
                yield Text("word ")
        finally:
            self.closed = True


def request(*, model: str = "m", tools: frozenset[str] = frozenset()) -> ChatRequest:
    return ChatRequest(model=model, messages=(Message(role=Role.USER),), tools=tools)


async def test_a_reader_that_goes_away_stops_the_engine() -> None:
    engine = TalkingEngine()
    service = ChatService(engine, ManualClock(), max_requests=1)
    async with aclosing(service.chat(request())) as pieces:
        async for _ in pieces:
            break
    assert engine.closed
    service.check(request())


async def test_a_tool_that_was_not_offered_is_never_called() -> None:
    service = ChatService(TalkingEngine("f"), ManualClock(), max_requests=1)
    withheld = [piece async for piece in service.chat(request())]
    assert not any(isinstance(piece, ToolCall) for piece in withheld)
    called = [piece async for piece in service.chat(request(tools=frozenset({"f"})))]
    assert any(isinstance(piece, ToolCall) for piece in called)


async def test_one_request_too_many_and_an_unknown_model_are_refused() -> None:
    service = ChatService(TalkingEngine(), ManualClock(), max_requests=1)
    with pytest.raises(UnknownModelError, match="'other'; served here: m"):
        service.check(request(model="other"))
    async with aclosing(service.chat(request())) as pieces:
        await anext(pieces)
        with pytest.raises(BusyError):
            service.check(request())
    service.check(request())
