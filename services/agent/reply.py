"""Makes one reply: asks the model, speaks its clauses as they come, runs the tools it asks for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from services.agent.clauses import ClauseCutter
from services.agent.clients.llm import Done, LlmUnavailableError, Text
from services.agent.conversation import ToolCall, keypad
from services.agent.tools import builtin, gate
from services.common.agent_file import YES_NO_SLOT, is_yes
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.agent.clients.llm import LlmClient
    from services.agent.config import LlmConfig
    from services.agent.conversation import AgentEntry, Conversation, Piece
    from services.agent.timing import TurnTiming
    from services.agent.tools.gate import IdentityState, Result
    from services.agent.tools.runner import ToolRunner
    from services.common.agent_file import AgentFile
    from services.common.clock import Clock

_BROKEN_OFF = Counter("landline_agent_answers_broken_off", "Answers that the model did not end")
_log = structlog.get_logger()
_MAX_ROUNDS = 6
_FILLER_AFTER_S = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWrite:
    """A write that waits for the caller's yes to `question`."""

    name: str
    arguments: dict[str, Any]
    question: Piece

    def was_heard(self) -> bool:
        """Whether the caller heard what is to be done, even if not the question's last words."""
        text = self.question.text
        values = [str(value) for value in self.arguments.values()]
        ends = [text.find(value) + len(value) for value in values if value in text]
        return len(self.question.heard()) >= max(ends, default=len(text))


@dataclass(slots=True, kw_only=True)
class ReplyState:
    """What carries over from one reply to the next."""

    identity: IdentityState = field(default_factory=gate.IdentityState)
    pending: PendingWrite | None = None
    expect: tuple[str, ...] = ()  # slots that the last reply asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the caller of a reply must still do on the line."""

    transfer: str | None = None
    hang_up: str | None = None


class ReplyMaker:
    """One call's replies. `say` queues a clause; `filler` says something outside the history."""

    def __init__(
        self,
        *,
        agent: AgentFile,
        conversation: Conversation,
        llm: LlmClient,
        llm_config: LlmConfig,
        tools: ToolRunner,
        clock: Clock,
        say: Callable[[str], Piece],
        filler: Callable[[str], None],
    ) -> None:
        self._agent = agent
        self._conversation = conversation
        self._llm = llm
        self._config = llm_config
        self._tools = tools
        self._clock = clock
        self._say = say
        self._filler = filler
        self._offered = builtin.offered_tools(agent)
        self._confirmed = 0
        self.state = ReplyState()

    def forget_identity(self) -> None:
        """Whoever proved who they are has left; attempts that failed still count."""
        self.state.identity = replace(self.state.identity, verified=None)
        self.state.pending = None

    async def answer(self, text: str, timing: TurnTiming | None) -> Outcome:
        """Answer the caller's words. LlmUnavailableError when no model answers."""
        pending, self.state.pending = self.state.pending, None
        self._conversation.add_caller(text)
        if pending is not None and (is_yes(text) or text == keypad("1")):
            if not pending.was_heard():
                self._ask(pending.name, pending.arguments)
                return Outcome()
            await self._run_confirmed(pending)
        for _ in range(_MAX_ROUNDS):
            outcome = await self._round(timing)
            if outcome is not None:
                return outcome
        self._speak(self._conversation.add_agent(), self._agent.speech.not_understood[0])
        return Outcome()

    async def _round(self, timing: TurnTiming | None) -> Outcome | None:
        """One answer of the model; None when it must be asked again with the tools' results."""
        messages = self._conversation.messages()
        entry = self._conversation.add_agent()
        done = await self._listen_to_model(messages, entry, timing)
        self.state.expect = done.expect
        if not done.tool_calls:
            if not entry.pieces:
                self._speak(entry, self._agent.speech.not_understood[0])
            return Outcome()
        outcomes = [await self._tool(entry, call) for call in done.tool_calls]
        decided = [outcome for outcome in outcomes if outcome is not None]
        return decided[0] if decided else None

    async def _listen_to_model(
        self, messages: list[dict[str, Any]], entry: AgentEntry, timing: TurnTiming | None
    ) -> Done:
        cutter = ClauseCutter()
        done = Done((), ())
        if timing is not None and timing.asked_llm_ms is None:
            timing.asked_llm_ms = self._clock.now_ms()
        try:
            async for event in self._llm.chat(self._request(messages)):
                match event:
                    case Text(text):
                        for clause in cutter.push(text):
                            self._speak(entry, clause, timing)
                    case Done():
                        done = event
        except LlmUnavailableError as error:
            if not entry.pieces:
                raise
            # Whole clauses have been said: the caller can answer them, or ask again.
            _BROKEN_OFF.inc()
            _log.warning("answer_broken_off", reason=str(error))
            return done
        for clause in cutter.flush():
            self._speak(entry, clause, timing)
        return done

    def _request(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "model": self._config.model or self._agent.name,
            "messages": messages,
            "tools": self._offered,
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
        }

    def _speak(self, entry: AgentEntry, text: str, timing: TurnTiming | None = None) -> Piece:
        if timing is not None and timing.first_text_ms is None:
            timing.first_text_ms = self._clock.now_ms()
        piece = self._say(text)
        entry.pieces.append(piece)
        return piece

    async def _tool(self, entry: AgentEntry, call: ToolCall) -> Outcome | None:
        """Run one tool call, or refuse it; None when the model is to speak about the result."""
        arguments = call.parsed()
        entry.tool_calls.append(call)
        if call.name == builtin.HANG_UP:
            entry.results[call.id] = json.dumps({"status": "ok"})
            if not entry.pieces:
                self._speak(entry, self._agent.speech.goodbye)
            return Outcome(hang_up="agent_hung_up")
        if call.name == builtin.TRANSFER:
            return self._transfer(entry, call, (arguments or {}).get("target"))
        refused = gate.refuse(self._agent, call.name, arguments, self.state.identity)
        if refused is not None or arguments is None:
            entry.results[call.id] = json.dumps(refused)
            return None
        if gate.needs_confirmation(self._agent, call.name):
            return self._ask_confirmation(entry, call, dict(arguments))
        await self._run(entry, call, dict(arguments))
        return None

    def _transfer(self, entry: AgentEntry, call: ToolCall, target: object) -> Outcome | None:
        known = self._agent.transfers.get(str(target))
        if known is None:
            message = f"there is no transfer target {target}"
            entry.results[call.id] = json.dumps({"status": "error", "message": message})
            return None
        entry.results[call.id] = json.dumps({"status": "ok"})
        if not entry.pieces:
            self._speak(entry, known.announce)
        return Outcome(transfer=str(target))

    def _ask_confirmation(
        self, entry: AgentEntry, call: ToolCall, arguments: dict[str, Any]
    ) -> Outcome:
        if self.state.pending is not None:
            message = "one change at a time: another one waits for the caller's yes"
            entry.results[call.id] = json.dumps({"status": "error", "message": message})
            return Outcome()
        question = self._ask(call.name, arguments)
        entry.results[call.id] = json.dumps({"status": "needs_confirmation", "asked": question})
        return Outcome()

    def _ask(self, name: str, arguments: dict[str, Any]) -> str:
        """Ask the caller to confirm a write; what was asked."""
        text = gate.confirmation(self._agent, name, arguments)
        question = self._speak(self._conversation.add_agent(), text)
        self.state.pending = PendingWrite(name=name, arguments=arguments, question=question)
        self.state.expect = (YES_NO_SLOT,)
        return text

    async def _run_confirmed(self, pending: PendingWrite) -> None:
        """Run a write that the caller has said yes to, and put it into the history."""
        self._confirmed += 1
        entry = self._conversation.add_agent()
        call = ToolCall(
            id=f"confirmed_{self._confirmed}",
            name=pending.name,
            arguments=json.dumps(pending.arguments),
        )
        entry.tool_calls.append(call)
        # Should the caller interrupt, the model must still learn that the write was begun.
        entry.results[call.id] = json.dumps({"status": "running"})
        refused = gate.refuse(self._agent, pending.name, pending.arguments, self.state.identity)
        if refused is not None:
            entry.results[call.id] = json.dumps(refused)
            return
        await self._run(entry, call, pending.arguments, occasion=self._confirmed)

    async def _run(
        self, entry: AgentEntry, call: ToolCall, arguments: dict[str, Any], occasion: int = 0
    ) -> None:
        """Run the tool, saying something when it is slow.

        What it gave is noted also when the caller interrupts and nobody waits for it any more.
        """
        task = asyncio.ensure_future(self._tools.run(call.name, arguments, occasion))
        task.add_done_callback(partial(self._note, entry, call, arguments))
        done, _ = await asyncio.wait([task], timeout=_FILLER_AFTER_S)
        if not done:
            self._filler(self._agent.tools[call.name].filler)
        await asyncio.shield(task)

    def _note(
        self,
        entry: AgentEntry,
        call: ToolCall,
        arguments: dict[str, Any],
        task: asyncio.Future[Result],
    ) -> None:
        if task.cancelled() or task.exception() is not None:
            return
        result = task.result()
        entry.results[call.id] = json.dumps(result)
        self.state.identity = gate.after(
            self._agent, call.name, arguments, result, self.state.identity
        )
