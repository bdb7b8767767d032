"""Talks to a chat engine as the conversation does: the clinic's real gate, tools and database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.agent.tools import builtin, gate
from services.agent.tools.runner import idempotency_key, load_function
from services.common import agent_file
from services.common.agent_file import AgentFile
from services.common.tools import ToolContext
from services.llm.engine import ChatRequest, Engine, Finished, Message, Role, Text, ToolCall

CLINIC = Path(__file__).parents[2] / "services" / "agent" / "examples" / "clinic" / "clinic.toml"
SATURDAY_MS = 1_795_248_000_000  # 21 November 2026
_MAX_ROUNDS = 6


def clinic() -> AgentFile:
    return agent_file.load(CLINIC)


@dataclass(slots=True)
class Turn:
    """What one turn of the caller led to."""

    said: str = ""
    expect: tuple[str, ...] = ()
    tools: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    asked_to_confirm: str = ""
    over: str = ""  # the tool that ended the conversation


class ClinicCaller:
    def __init__(self, engine: Engine, data_dir: Path) -> None:
        self.agent = clinic()
        self.messages: list[Message] = [Message(role=Role.SYSTEM, content=self.agent.prompt)]
        self._engine = engine
        self._data_dir = data_dir
        self._functions = {
            name: load_function(self.agent.folder, tool.python)
            for name, tool in self.agent.tools.items()
            if tool.python is not None
        }
        self._identity = gate.IdentityState()
        self._pending: tuple[str, dict[str, Any]] | None = None
        self._calls = 0

    async def say(self, text: str) -> Turn:
        turn = Turn()
        pending, self._pending = self._pending, None
        self.messages.append(Message(role=Role.USER, content=text))
        if pending is not None and agent_file.is_yes(text):
            self._keep(*pending, await self._run(turn, *pending))
        for _ in range(_MAX_ROUNDS):
            call = await self._ask(turn)
            if call is None:
                return turn
            arguments = json.loads(call.arguments)
            if call.name in (builtin.TRANSFER, builtin.HANG_UP):
                turn.tools.append((call.name, arguments))
                turn.over = call.name
                return turn
            refused = gate.refuse(self.agent, call.name, arguments, self._identity)
            if refused is None and gate.needs_confirmation(self.agent, call.name):
                self._pending = (call.name, arguments)
                turn.asked_to_confirm = gate.confirmation(self.agent, call.name, arguments)
                result = {"status": "needs_confirmation", "asked": turn.asked_to_confirm}
                self._keep(call.name, arguments, result)
                return turn
            result = refused or await self._run(turn, call.name, arguments)
            self._keep(call.name, arguments, result)
        raise AssertionError(f"no end of tool calls after {text!r}: {turn.tools}")

    async def _ask(self, turn: Turn) -> ToolCall | None:
        asked: ToolCall | None = None
        offered = [tool["function"]["name"] for tool in builtin.offered_tools(self.agent)]
        request = ChatRequest(
            model="clinic", messages=tuple(self.messages), tools=frozenset(offered)
        )
        async for piece in self._engine.chat(request):
            match piece:
                case Text(text):
                    turn.said += text
                case ToolCall():
                    asked = piece
                case Finished():
                    turn.expect = piece.expect
        return asked

    async def _run(self, turn: Turn, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        turn.tools.append((name, arguments))
        context = ToolContext(
            call_id="call",
            data_dir=self._data_dir,
            idempotency_key=idempotency_key("call", name, arguments),
            now_wall_ms=SATURDAY_MS,
        )
        result = await self._functions[name](arguments, context)
        self._identity = gate.after(self.agent, name, arguments, result, self._identity)
        turn.results.append(result)
        return result

    def _keep(self, name: str, arguments: dict[str, Any], result: dict[str, Any]) -> None:
        self._calls += 1
        call = ToolCall(id=f"kept_{self._calls}", name=name, arguments=json.dumps(arguments))
        self.messages.append(Message(role=Role.ASSISTANT, tool_calls=(call,)))
        answer = Message(role=Role.TOOL, tool_call_id=call.id, content=json.dumps(result))
        self.messages.append(answer)
