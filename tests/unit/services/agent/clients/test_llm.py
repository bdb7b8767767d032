from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.agent.clients.llm import Done, LlmClient, LlmEvent, LlmUnavailableError, Text
from services.agent.conversation import ToolCall
from services.common.addresses import PublicAddressError
from services.common.clock import SystemClock
from services.common.errors import LandlineError

STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(delta: dict[str, Any] | None = None, **extra: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta}]
    return "data: " + json.dumps({"choices": choices, **extra}) + "\n\n"


class Server:
    """Answers each request with the next of `answers`, byte for byte."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split()[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(self.answers.pop(0).encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield made


async def ask(server: Server, *answers: str, retry_s: float = 2.0) -> list[LlmEvent]:
    server.answers = list(answers)
    client = LlmClient(server.url, None, SystemClock(), retry_s=retry_s)
    try:
        return [event async for event in client.chat({"model": "m", "messages": []})]
    finally:
        await client.close()


async def test_text_comes_as_it_is_written(server: Server) -> None:
    events = await ask(
        server,
        STREAM
        + ": a comment\n\n"
        + chunk({"role": "assistant"})
        + chunk({"content": "Good "})
        + chunk({"content": "day."})
        + chunk(None, usage={"total_tokens": 3}, landline={"expect": ["day"]})
        + "data: [DONE]\n\n",
    )
    assert events == [Text("Good "), Text("day."), Done((), ("day",))]
    assert server.bodies[0] == {"model": "m", "messages": [], "stream": True}


async def test_a_tool_call_is_put_together_from_its_fragments(server: Server) -> None:
    def fragment(**function: str) -> str:
        return chunk({"tool_calls": [{"index": 0, "function": function}]})

    events = await ask(
        server,
        STREAM
        + chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "book"}}]})
        + fragment(arguments='{"day": ')
        + fragment(arguments='"monday"}')
        + "data: [DONE]\n\n",
    )
    assert events == [Done((ToolCall(id="c", name="book", arguments='{"day": "monday"}'),), ())]


async def test_a_busy_server_is_asked_again(server: Server) -> None:
    busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    events = await ask(server, busy, busy, STREAM + chunk({"content": "Yes."}) + "data: [DONE]\n\n")
    assert events[0] == Text("Yes.")
    assert len(server.bodies) == 3


async def test_what_was_begun_is_not_begun_again(server: Server) -> None:
    with pytest.raises(LlmUnavailableError, match="ended before"):
        await ask(server, STREAM + chunk({"content": "I was about"}))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("broken", ["data: {\n\n", "data: [1]\n\n", 'data: {"choices": 3}\n\n'])
async def test_a_broken_chunk_is_a_named_error(server: Server, broken: str) -> None:
    with pytest.raises(LlmUnavailableError, match="broken chunk"):
        await ask(server, STREAM + chunk({"content": "So"}) + broken)


async def test_a_refused_request_is_not_repeated(server: Server) -> None:
    body = '{"error": {"message": "no such model"}}'
    refused = f"HTTP/1.1 404 No\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with pytest.raises(LandlineError, match="no such model"):
        await ask(server, refused)
    assert len(server.bodies) == 1


async def test_a_public_address_is_never_contacted() -> None:
    client = LlmClient("http://9.9.9.9:80", None, SystemClock(), retry_s=0.1)
    with pytest.raises(PublicAddressError):
        await anext(client.chat({"model": "m", "messages": []}))
    await client.close()


async def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(LandlineError, match="no http"):
        LlmClient("127.0.0.1:8000", None, SystemClock(), retry_s=0.1)
