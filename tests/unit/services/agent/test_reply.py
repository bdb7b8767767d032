from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.agent.clients.llm import Done, LlmEvent, LlmUnavailableError, Text
from services.agent.config import LlmConfig
from services.agent.conversation import Conversation, Piece, SpokenWord, ToolCall, keypad
from services.agent.reply import Outcome, ReplyMaker
from services.agent.tools.runner import ToolBox, ToolRunner
from services.common import agent_file
from services.common.clock import ManualClock
from tests.fakes.audit import FakeAudit

AGENT = """
name = "shop"
prompt = "Be brief."
[speech]
disclosure = "I am a machine."
greeting = "Hello."
not_understood = ["Sorry?"]
goodbye = "Bye."
[slots.number]
kind = "digits"
length = 2
ask = "Number?"
[tools.check]
description = "identity"
effect = "read"
python = "tools:check"
parameters = { type = "object" }
[tools.order]
description = "order"
effect = "write"
python = "tools:order"
confirm = "Order {item}?"
parameters = { type = "object", required = ["item"] }
[tools.crash]
description = "fails"
effect = "read"
python = "tools:crash"
parameters = { type = "object" }
[transfers.desk]
description = "a person"
target = "sip:desk@127.0.0.1"
announce = "Connecting."
[identity]
slot = "number"
tool = "check"
verified = "Thanks."
failed = "No."
"""
TOOLS = """
async def check(arguments, context):
    return {"status": "ok" if arguments.get("number") == "42" else "not_found"}

async def order(arguments, context):
    with (context.data_dir / "orders").open("a") as file:
        file.write(arguments["item"] + " " + context.idempotency_key + "\\n")
    return {"status": "ok", "item": arguments["item"]}

async def crash(arguments, context):
    raise RuntimeError("secret detail")
"""


class FakeLlm:
    """Answers with the rounds it was given, and keeps what it was asked."""

    def __init__(self) -> None:
        self.rounds: list[list[LlmEvent]] = []
        self.break_off = False
        self.asked: list[list[dict[str, Any]]] = []

    async def chat(self, request: dict[str, Any]) -> AsyncIterator[LlmEvent]:
        self.asked.append(request["messages"])
        for event in self.rounds.pop(0):
            yield event
        if self.break_off:
            raise LlmUnavailableError("gone")


class Rig:
    def __init__(self, folder: Path) -> None:
        (folder / "agent.toml").write_text(AGENT)
        (folder / "tools.py").write_text(TOOLS)
        agent = agent_file.load(folder / "agent.toml")
        self.orders = folder / "orders"
        self.llm = FakeLlm()
        self.audit = FakeAudit()
        self.said: list[str] = []
        self.pieces: list[Piece] = []
        self.conversation = Conversation(agent.prompt)
        self.replies = ReplyMaker(
            agent=agent,
            conversation=self.conversation,
            llm=self.llm,  # type: ignore[arg-type]
            llm_config=LlmConfig(),
            tools=ToolRunner(ToolBox(agent, [], folder), self.audit, ManualClock(), "c1"),  # type: ignore[arg-type]
            clock=ManualClock(),
            say=self._say,
            filler=self.said.append,
        )

    def _say(self, text: str) -> Piece:
        self.said.append(text)
        piece = Piece(f"m{len(self.said)}", text, finished=True)
        self.pieces.append(piece)
        return piece

    async def answer(self, text: str, *rounds: list[LlmEvent]) -> Outcome:
        self.llm.rounds = list(rounds)
        outcome = await self.replies.answer(text, None)
        assert self.llm.rounds == []
        return outcome

    async def verify(self) -> None:
        await self.answer("forty two", calls(call("check", number="42")), [Done((), ())])


def call(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(id=f"call_{name}", name=name, arguments=json.dumps(arguments))


def calls(*tool_calls: ToolCall) -> list[LlmEvent]:
    return [Done(tool_calls, ())]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_clauses_are_spoken_as_they_come(rig: Rig) -> None:
    outcome = await rig.answer(
        "hi", [Text("Good "), Text("day. How"), Text(" are you?"), Done((), ())]
    )
    assert outcome == Outcome()
    assert rig.said == ["Good day.", "How are you?"]
    assert rig.conversation.messages()[-1]["content"] == "Good day. How are you?"


async def test_what_the_reply_asks_for_is_kept(rig: Rig) -> None:
    await rig.answer("hi", [Text("Number?"), Done((), ("number",))])
    assert rig.replies.state.expect == ("number",)


async def test_an_empty_answer_is_never_silence(rig: Rig) -> None:
    await rig.answer("hi", [Done((), ())])
    assert rig.said == ["Sorry?"]


async def test_an_answer_that_breaks_off_keeps_its_whole_clauses(rig: Rig) -> None:
    rig.llm.break_off = True
    assert await rig.answer("hi", [Text("We are open. And the")]) == Outcome()
    assert rig.said == ["We are open."]


async def test_no_answer_at_all_is_an_error(rig: Rig) -> None:
    rig.llm.break_off = True
    with pytest.raises(LlmUnavailableError):
        await rig.answer("hi", [])


async def test_a_write_is_asked_for_and_runs_once_after_a_yes(rig: Rig) -> None:
    await rig.verify()
    await rig.answer("order tea", calls(call("order", item="tea")))
    assert rig.said[-1] == "Order tea?"
    assert rig.replies.state.expect == ("yes_no",)
    assert not rig.orders.exists()
    await rig.answer("yes", [Text("Done."), Done((), ())])
    assert [line.split()[0] for line in rig.orders.read_text().splitlines()] == ["tea"]
    asked = rig.llm.asked[-1]
    assert asked[-2]["tool_calls"][0]["function"]["name"] == "order"
    assert json.loads(asked[-1]["content"]) == {"status": "ok", "item": "tea"}
    assert rig.audit.types().index("tool_called") < rig.audit.types().index("tool_returned")


@pytest.mark.parametrize("reply", ["no", "yes but at ten", "what does it cost"])
async def test_anything_but_a_plain_yes_writes_nothing(rig: Rig, reply: str) -> None:
    await rig.verify()
    await rig.answer("order tea", calls(call("order", item="tea")))
    await rig.answer(reply, [Text("All right."), Done((), ())])
    assert not rig.orders.exists()
    await rig.answer("yes", [Text("What?"), Done((), ())])
    assert not rig.orders.exists()


async def test_key_one_confirms(rig: Rig) -> None:
    await rig.verify()
    await rig.answer("order tea", calls(call("order", item="tea")))
    await rig.answer(keypad("1"), [Text("Done."), Done((), ())])
    assert rig.orders.exists()


async def test_each_yes_is_an_operation_of_its_own(rig: Rig) -> None:
    await rig.verify()
    for _ in range(2):
        await rig.answer("order tea", calls(call("order", item="tea")))
        await rig.answer("yes", [Text("Done."), Done((), ())])
    keys = [line.split()[1] for line in rig.orders.read_text().splitlines()]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(("played_ms", "done"), [(0, False), (40, False), (150, True)])
async def test_a_yes_counts_only_when_what_is_to_be_done_was_heard(
    rig: Rig, played_ms: int, done: bool
) -> None:
    await rig.verify()
    await rig.answer("order tea", calls(call("order", item="tea")))
    question = rig.pieces[-1]
    assert question.text == "Order tea?"
    question.finished, question.cut, question.played_ms = False, True, played_ms
    question.words = [SpokenWord(5, 0), SpokenWord(10, 100)]
    rounds = [[Text("Done."), Done((), ())]] if done else []
    await rig.answer("yes", *rounds)
    assert rig.orders.exists() is done
    assert rig.said[-1] == ("Done." if done else "Order tea?")


async def test_what_a_tool_found_is_kept_when_the_caller_interrupts(rig: Rig) -> None:
    rig.llm.rounds = [calls(call("check", number="42")), [Done((), ())]]
    answering = asyncio.create_task(rig.replies.answer("forty two", None))
    while "tool_called" not in rig.audit.types():  # noqa: ASYNC110
        await asyncio.sleep(0)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    await asyncio.sleep(0.1)
    assert rig.replies.state.identity.verified == "42"


async def test_a_stranger_cannot_write_whatever_the_model_says(rig: Rig) -> None:
    await rig.answer("order tea", calls(call("order", item="tea")), [Text("Who?"), Done((), ())])
    assert "identity_required" in rig.llm.asked[-1][-1]["content"]
    assert rig.said == ["Who?"]


async def test_somebody_else_on_the_line_is_nobody_until_checked_again(rig: Rig) -> None:
    await rig.answer("forty two", calls(call("check", number="42")), [Text("Yes?"), Done((), ())])
    assert rig.replies.state.identity.verified == "42"
    rig.replies.forget_identity()
    await rig.answer("order tea", calls(call("order", item="tea")), [Text("Who?"), Done((), ())])
    assert "identity_required" in rig.llm.asked[-1][-1]["content"]


async def test_a_failing_tool_tells_the_model_no_details(rig: Rig) -> None:
    await rig.answer("x", calls(call("crash")), [Text("Sorry."), Done((), ())])
    result = json.loads(rig.llm.asked[-1][-1]["content"])
    assert result == {"status": "error", "message": "crash failed"}


async def test_a_tool_that_does_not_exist_is_refused(rig: Rig) -> None:
    await rig.answer("x", calls(call("format_disk")), [Text("No."), Done((), ())])
    assert "unknown_tool" in rig.llm.asked[-1][-1]["content"]


async def test_a_model_that_only_calls_tools_is_stopped(rig: Rig) -> None:
    rounds = [calls(call("check", number=str(n))) for n in range(6)]
    assert await rig.answer("x", *rounds) == Outcome()
    assert rig.said == ["Sorry?"]


async def test_transfer_and_hang_up_are_announced(rig: Rig) -> None:
    assert await rig.answer("x", calls(call("transfer_call", target="desk"))) == Outcome(
        transfer="desk"
    )
    assert await rig.answer("bye", calls(call("hang_up"))) == Outcome(hang_up="agent_hung_up")
    assert rig.said == ["Connecting.", "Bye."]


async def test_an_unknown_transfer_target_is_refused(rig: Rig) -> None:
    outcome = await rig.answer(
        "x",
        calls(call("transfer_call", target="sip:evil@example.org")),
        [Text("No."), Done((), ())],
    )
    assert outcome == Outcome()
