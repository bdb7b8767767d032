from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm import wire
from services.llm.engine import Role

MODEL = {"model": "m"}
ASKED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


def body(**more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}]} | MODEL | more).encode()


def test_a_request_with_tools_and_their_results_is_read() -> None:
    parts = ("be ", "kind")
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": text} for text in parts]},
        {"role": "user", "content": "hi"},
        ASKED,
        {"role": "tool", "tool_call_id": "t", "content": "{}"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    parsed = wire.parse(body(messages=messages, tools=tools, stream=True, max_tokens=9))
    assert [message.role for message in parsed.chat.messages] == [
        Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL,
    ]  # fmt: skip
    assert parsed.chat.messages[0].content == "be kind"
    assert (parsed.chat.tools, parsed.chat.max_tokens, parsed.stream) == ({"f"}, 9, True)


def test_no_tools_are_offered_when_none_may_be_chosen() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert wire.parse(body(tools=tools, tool_choice="none")).chat.tools == frozenset()
    assert wire.parse(body(tools=tools, tool_choice="auto")).chat.tools == {"f"}


@pytest.mark.parametrize(
    ("request_body", "param"),
    [
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (body(messages=[]), "messages"),
        (body(messages=[{"role": "robot", "content": "x"}]), "messages.0.role"),
        (body(messages=[{"role": "tool", "tool_call_id": "x"}]), "messages.0.tool_call_id"),
        (body(messages=[{**ASKED, "role": "user"}]), "messages.0.role"),
        (body(model=3), "model"),
        (body(n=2), "n"),
        (body(max_tokens=0), "max_tokens"),
        (body(tool_choice="required"), "tool_choice"),
        (body(tool_choice={"type": "function", "function": {"name": "f"}}), "tool_choice"),
    ],
)
def test_a_bad_request_is_refused_with_the_name_of_what_is_wrong(
    request_body: bytes, param: str | None
) -> None:
    with pytest.raises(wire.RequestError) as refused:
        wire.parse(request_body)
    assert refused.value.status == 400
    error = refused.value.body()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "messages", "role", "content", "tools", "tool_calls", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_read_or_refused(request_body: bytes) -> None:
    try:
        status = 200 if wire.parse(request_body).chat.messages else 500
    except wire.RequestError as error:
        status = error.status
    assert status in (200, 400)
