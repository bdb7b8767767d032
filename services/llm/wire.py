"""OpenAI's chat completions as JSON: requests read strictly, answers written faithfully.

Source: OpenAI API reference, "Chat Completions" and "Streaming". Answers carry one field of our
own, top-level `landline`: {"expect": [slot names], "understood": {...}}.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.llm.engine import ChatRequest, Finished, Message, Role, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_MESSAGES = 4_096


class RequestError(Exception):
    """A request that cannot be served, as OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        type_ = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        if self.status >= 500:
            type_ = "server_error"
        error = {"message": str(self), "type": type_, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A valid request, and how its answer is to be sent."""

    chat: ChatRequest
    stream: bool
    include_usage: bool


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Function(_Lenient):
    name: str = Field(min_length=1, max_length=64)
    arguments: str = "{}"


class _ToolCall(_Lenient):
    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: _Function


class _Part(_Lenient):
    type: Literal["text"]
    text: str


class _Message(_Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _ToolName(_Lenient):
    name: str = Field(min_length=1, max_length=64)


class _Tool(_Lenient):
    type: Literal["function"]
    function: _ToolName


class _StreamOptions(_Lenient):
    include_usage: bool = False


class _Request(_Lenient):
    model: str
    messages: list[_Message] = Field(min_length=1, max_length=_MAX_MESSAGES)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    n: int | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)


def parse(body: bytes) -> Parsed:
    """A request body; RequestError says what is wrong with it."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not valid JSON: {error}") from None
    try:
        request = _Request.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"])) or None
        raise RequestError(400, f"{param or 'body'}: {first['msg']}", param=param) from None
    if request.n not in (None, 1):
        raise RequestError(400, "n: only one choice is made", param="n")
    chat = ChatRequest(
        model=request.model,
        messages=tuple(_messages(request.messages)),
        tools=_offered(request),
        max_tokens=request.max_completion_tokens or request.max_tokens,
    )
    usage = request.stream_options is not None and request.stream_options.include_usage
    return Parsed(chat=chat, stream=request.stream, include_usage=usage)


def _messages(messages: list[_Message]) -> Iterator[Message]:
    asked: set[str] = set()
    for index, item in enumerate(messages):
        calls = tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in item.tool_calls or ()
        )
        if calls and item.role != "assistant":
            raise RequestError(
                400, "only assistant messages have tool_calls", param=f"messages.{index}.role"
            )
        asked.update(call.id for call in calls)
        if item.role == "tool" and item.tool_call_id not in asked:
            raise RequestError(
                400,
                "a tool message must answer a tool call of a message before it",
                param=f"messages.{index}.tool_call_id",
            )
        role = Role.SYSTEM if item.role == "developer" else Role(item.role)
        yield Message(
            role=role,
            content=_text(item.content),
            tool_calls=calls,
            tool_call_id=item.tool_call_id,
        )


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


def _offered(request: _Request) -> frozenset[str]:
    """Names of the tools that may be called."""
    names = frozenset(tool.function.name for tool in request.tools or ())
    match request.tool_choice:
        case None | "auto":
            return names
        case "none":
            return frozenset()
        case _:
            raise RequestError(
                400,
                'tool_choice: this model decides itself when to call a tool; use "auto" or "none"',
                param="tool_choice",
                code="unsupported_value",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all parts of one answer have in common."""

    id: str
    created_s: int
    model: str

    def chunk(self, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._object("chat.completion.chunk", [choice])

    def last_chunk(self, finished: Finished) -> dict[str, Any]:
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finished.reason}
        return self._object("chat.completion.chunk", [choice]) | _extra(finished)

    def usage_chunk(self, finished: Finished) -> dict[str, Any]:
        return self._object("chat.completion.chunk", []) | {"usage": _usage(finished)}

    def completion(self, text: str, calls: list[ToolCall], finished: Finished) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finished.reason,
        }
        answer = self._object("chat.completion", [choice])
        return answer | {"usage": _usage(finished)} | _extra(finished)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "choices": choices,
        }


def tool_call_deltas(index: int, call: ToolCall) -> Iterator[dict[str, Any]]:
    """A tool call as a stream tells it: the name first, then the arguments."""
    head = {
        "index": index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    yield {"tool_calls": [head]}
    yield {"tool_calls": [{"index": index, "function": {"arguments": call.arguments}}]}


def sse(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


SSE_DONE = b"data: [DONE]\n\n"


def _usage(finished: Finished) -> dict[str, int]:
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
    }


def _extra(finished: Finished) -> dict[str, Any]:
    extra = {"expect": list(finished.expect), "understood": dict(finished.understood)}
    return {"landline": extra}
