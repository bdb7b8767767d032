"""The dialogue as a fold: (state, event) -> state, and what a state says and does. Pure.

The state is computed anew from the messages of each request, so any process can answer any turn.
What the caller heard of earlier replies does not matter here, only what callers said and what tools
returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from services.common.agent_file import YES_NO_SLOT, Effect, SlotKind
from services.llm.engines.scripted.state import (
    Goal,
    Leaving,
    Question,
    State,
    arguments_of,
    intent_of,
    merged,
    missing_slots,
    needs_check,
    spoken,
)
from services.llm.engines.scripted.understand import NOTHING, Meaning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.common.agent_file import AgentFile, Identity, Intent
    from services.llm.engines.scripted.understand import Understanding

TRANSFER = "transfer_call"
HANG_UP = "hang_up"
NOT_UNDERSTOOD = "[not understood]"
SILENCE = "[silence]"
KEYPAD = "[keypad] "
_MAX_SUSPENDED = 3
_MAX_ROUNDS = 4  # tool results in one turn; more would be a loop
_OFFER_PERSON_AFTER = 3  # turns not understood
_TRANSFER_AFTER = 6
_FAILED = frozenset(("error", "timeout", "unknown_tool"))  # says nothing about the caller
_YES_KEY, _NO_KEY = "1", "2"


@dataclass(frozen=True, slots=True)
class CallerSaid:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    name: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any]


Event: TypeAlias = CallerSaid | ToolReturned


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to say, the one tool to call after it, and the slots that it asks for."""

    text: str = ""
    tool: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    expect: tuple[str, ...] = ()


class Dialogue:
    """The dialogue of one agent. Holds no state of any call."""

    def __init__(self, agent: AgentFile, understanding: Understanding) -> None:
        self._agent = agent
        self._understanding = understanding
        self._keys = {item.key: name for name, item in agent.intents.items() if item.key}

    # The fold.

    def after(self, state: State, event: Event) -> State:
        """The state after one more event."""
        match event:
            case CallerSaid(text):
                return self._resume(self._after_words(state, text))
            case ToolReturned():
                return self._resume(self._after_tool(state, event))

    def _after_words(self, state: State, text: str) -> State:
        expect = self.reply(state).expect
        asked = state.question
        state = replace(state, notes=(), resumed=False, rounds=0, leaving=None, heard=NOTHING)
        if asked is Question.CONFIRM:
            # Whatever is said now, the write is no longer waiting: it is asked for again.
            state = replace(state, question=Question.NONE)
        if text == SILENCE:
            return self._after_silence(state)
        if text.startswith(KEYPAD):
            return self._after_keys(state, text.removeprefix(KEYPAD).strip(), asked, expect)
        if text == NOT_UNDERSTOOD:
            return self._missed(state)
        return self._after_meaning(state, self._understanding.understand(text, expect), asked)

    def _after_meaning(self, state: State, meaning: Meaning, asked: Question) -> State:
        if meaning.nothing:
            return self._missed(state)
        understood = replace(state, misses=0, heard=meaning, question=Question.NONE)
        if meaning.intent is not None:
            return self._wanted(understood, meaning.intent, meaning.slots)
        if meaning.slots:
            return self._answered(understood, meaning.slots)
        if meaning.polarity:
            return self._after_yes(state, understood, asked)
        return self._after_no(state, understood, asked)

    def _wanted(self, state: State, name: str, slots: tuple[tuple[str, str], ...]) -> State:
        intent = self._agent.intents[name]
        if intent.hang_up:
            return replace(state, leaving=Leaving.HANG_UP).saying(intent.reply)
        if intent.transfer is not None:
            return self._transfer(state.saying(intent.reply), intent.transfer)
        if intent.drop:
            return self._drop(state)
        if intent.tool is None and not intent.needs:
            return replace(state.saying(self._text(intent.reply)), resumed=state.goal is not None)
        return self._pursue(state, name, intent, slots)

    def _pursue(
        self, state: State, name: str, intent: Intent, slots: tuple[tuple[str, str], ...]
    ) -> State:
        """Take up a goal. A mere question suspends what is being done; a new wish replaces it."""
        state, slots = self._take_identity(state, slots)
        if state.goal is not None and state.goal.intent == name:
            return replace(state, goal=state.goal.with_slots(slots))
        suspended = state.suspended
        asks_only = intent.tool is None or self._agent.tools[intent.tool].effect is Effect.READ
        if state.goal is not None and asks_only:
            suspended = (*suspended, state.goal)[-_MAX_SUSPENDED:]
        else:
            suspended = ()
        goal = Goal(name, merged(state.loose, slots))
        return replace(state, goal=goal, suspended=suspended, loose=())

    def _answered(self, state: State, slots: tuple[tuple[str, str], ...]) -> State:
        state, slots = self._take_identity(state, slots)
        if state.goal is None:
            return replace(state, loose=merged(state.loose, slots))
        return replace(state, goal=state.goal.with_slots(slots))

    def _take_identity(
        self, state: State, slots: tuple[tuple[str, str], ...]
    ) -> tuple[State, tuple[tuple[str, str], ...]]:
        """The value of the identity slot is a claim; another claim needs another check."""
        identity = self._agent.identity
        if identity is None or identity.slot not in dict(slots):
            return state, slots
        claimed = dict(slots)[identity.slot]
        rest = tuple(item for item in slots if item[0] != identity.slot)
        if claimed == state.verified:
            return state, rest
        return replace(state, claimed=claimed, verified=None), rest

    def _after_yes(self, state: State, understood: State, asked: Question) -> State:
        match asked:
            case Question.PERSON:
                return self._to_person(understood)
            case Question.ANYTHING_ELSE:
                return understood.saying(self._agent.speech.how_can_i_help)
            case Question.CONFIRM | Question.CHANGE:
                return understood
            case Question.NONE:
                return self._missed(state)

    def _after_no(self, state: State, understood: State, asked: Question) -> State:
        match asked:
            case Question.PERSON:
                return understood.saying(None if state.goal else self._agent.speech.how_can_i_help)
            case Question.ANYTHING_ELSE:
                return replace(understood, leaving=Leaving.HANG_UP)
            case Question.CONFIRM if state.goal and self._changeable(state.goal):
                return replace(understood, question=Question.CHANGE)
            case Question.CONFIRM | Question.CHANGE:
                return self._drop(understood)
            case Question.NONE:
                return self._missed(state)

    def _after_silence(self, state: State) -> State:
        if state.goal is None and state.question is Question.NONE:
            return state.saying(self._agent.speech.still_there)
        return state

    def _after_keys(
        self, state: State, keys: str, asked: Question, expect: tuple[str, ...]
    ) -> State:
        for name in expect:
            slot = self._agent.slots.get(name)
            if slot is not None and slot.kind is SlotKind.DIGITS and len(keys) == slot.length:
                found = Meaning(slots=((name, keys),), score=1.0)
                return self._after_meaning(state, found, asked)
        if asked in (Question.CONFIRM, Question.PERSON) and keys in (_YES_KEY, _NO_KEY):
            found = Meaning(polarity=keys == _YES_KEY, score=1.0)
            return self._after_meaning(state, found, asked)
        if keys in self._keys:
            return self._after_meaning(state, Meaning(intent=self._keys[keys], score=1.0), asked)
        return self._missed(state)

    def _missed(self, state: State) -> State:
        """Not understood: other words each time, then a person."""
        misses = state.misses + 1
        texts = self._agent.speech.not_understood
        state = replace(state, misses=misses).saying(texts[min(misses, len(texts)) - 1])
        if self._agent.transfers and misses >= _TRANSFER_AFTER:
            return self._to_person(state)
        if self._agent.transfers and misses >= _OFFER_PERSON_AFTER:
            return replace(state, question=Question.PERSON)
        return state

    def _after_tool(self, state: State, event: ToolReturned) -> State:
        state = replace(state, rounds=state.rounds + 1)
        if event.name in (TRANSFER, HANG_UP):
            return replace(state, goal=None, suspended=(), leaving=None)
        identity = self._agent.identity
        if identity is not None and event.name == identity.tool:
            return self._after_check(state, identity, event)
        state = self._goal_of_tool(state, event)
        if state.goal is None or state.rounds > _MAX_ROUNDS:
            return self._give_up(state)
        return self._after_work(state, state.goal, event)

    def _goal_of_tool(self, state: State, event: ToolReturned) -> State:
        """The goal that the tool was called for; from another engine's turn it may be unknown."""
        if state.goal is not None and intent_of(self._agent, state.goal).tool == event.name:
            return state
        for name, intent in self._agent.intents.items():
            if intent.tool == event.name:
                known = (item for item in event.arguments.items() if item[0] in intent.needs)
                slots = tuple((slot, str(value)) for slot, value in known)
                return replace(state, goal=Goal(name, slots))
        return replace(state, goal=None)

    def _after_check(self, state: State, identity: Identity, event: ToolReturned) -> State:
        status = event.result.get("status")
        if status == "ok":
            verified = str(event.arguments.get(identity.slot, ""))
            state = replace(state, verified=verified, claimed=None)
            return state.saying(self._text(identity.verified, event.result))
        if status in _FAILED or state.rounds > _MAX_ROUNDS:
            return self._give_up(replace(state, claimed=None))
        state = replace(state, claimed=None, verified=None, failures=state.failures + 1)
        state = state.saying(identity.failed)
        if status == "locked" or state.failures >= identity.attempts:
            return self._to_person(state)
        return state

    def _after_work(self, state: State, goal: Goal, event: ToolReturned) -> State:
        intent = intent_of(self._agent, goal)
        status = str(event.result.get("status"))
        match status:
            case "needs_confirmation":
                tool = self._agent.tools[event.name]
                asked = event.result.get("asked") or self._text(tool.confirm, event.arguments)
                state = replace(state, question=Question.CONFIRM)
                return state.saying(str(asked) or self._agent.speech.how_can_i_help)
            case "identity_required" | "identity_mismatch" if state.rounds < _MAX_ROUNDS:
                return replace(state, verified=None)
            case "locked":
                return self._to_person(state.saying(self._agent.speech.failed))
            case "running":
                return state
        text = intent.replies.get(status) or (intent.reply if status == "ok" else None)
        if text is None:
            return self._give_up(state)
        state = state.saying(self._text(text, dict(goal.slots), event.result))
        if status in intent.clears:
            return replace(state, goal=goal.without(intent.clears[status]))
        return self._done(state)

    def _done(self, state: State) -> State:
        """The goal is reached; go back to what it had interrupted."""
        if state.suspended:
            return replace(
                state, goal=state.suspended[-1], suspended=state.suspended[:-1], resumed=True
            )
        return replace(state, goal=None, question=Question.ANYTHING_ELSE)

    def _drop(self, state: State) -> State:
        state = replace(state, goal=None, suspended=(), loose=(), question=Question.ANYTHING_ELSE)
        return state.saying(self._agent.speech.dropped)

    def _give_up(self, state: State) -> State:
        """A tool could not be used: say so, and offer a person."""
        question = Question.PERSON if self._agent.transfers else Question.ANYTHING_ELSE
        state = replace(state, goal=None, suspended=(), question=question)
        return state.saying(self._agent.speech.failed)

    def _to_person(self, state: State) -> State:
        """The first transfer target; without one the call ends."""
        if not self._agent.transfers:
            return replace(state, goal=None, suspended=(), leaving=Leaving.HANG_UP)
        return self._transfer(state, next(iter(self._agent.transfers)))

    def _transfer(self, state: State, target: str) -> State:
        return replace(
            state,
            goal=None,
            suspended=(),
            question=Question.NONE,
            leaving=Leaving.TRANSFER,
            transfer=target,
        )

    def _resume(self, state: State) -> State:
        """Goals that only say something are said as soon as nothing is missing."""
        while state.goal is not None and state.leaving is None:
            intent = intent_of(self._agent, state.goal)
            if intent.tool is not None or missing_slots(self._agent, state.goal):
                break
            state = self._done(state.saying(self._text(intent.reply, dict(state.goal.slots))))
        return state

    def _changeable(self, goal: Goal) -> bool:
        return bool(intent_of(self._agent, goal).needs)

    def _text(self, template: str | None, *values: Mapping[str, Any]) -> str:
        known: dict[str, Any] = {}
        for more in values:
            known |= more
        return spoken(self._agent, template or "", known)

    # What a state says and does.

    def reply(self, state: State, offered: frozenset[str] | None = None) -> Reply:
        """The reply in this state; only tools in `offered` are called (None: all of them)."""
        reply = self._wanted_reply(state)
        if reply.tool is None or offered is None or reply.tool in offered:
            return reply
        if reply.tool == HANG_UP:
            return Reply(text=reply.text)
        return Reply(text=_joined(*state.notes, self._agent.speech.failed))

    def _wanted_reply(self, state: State) -> Reply:
        speech = self._agent.speech
        if state.leaving is Leaving.HANG_UP:
            text = _joined(*state.notes, speech.goodbye)
            return Reply(text=text, tool=HANG_UP, arguments={"reason": "conversation_finished"})
        if state.leaving is Leaving.TRANSFER and state.transfer is not None:
            text = _joined(*state.notes, self._agent.transfers[state.transfer].announce)
            return Reply(text=text, tool=TRANSFER, arguments={"target": state.transfer})
        match state.question:
            case Question.CONFIRM:
                expect = (YES_NO_SLOT, *self._choices(state.goal))
                return Reply(text=_joined(*state.notes), expect=expect)
            case Question.PERSON:
                return Reply(text=_joined(*state.notes, speech.offer_person), expect=(YES_NO_SLOT,))
            case Question.CHANGE:
                expect = (*self._choices(state.goal), YES_NO_SLOT)
                return Reply(text=_joined(*state.notes, speech.what_to_change), expect=expect)
        if state.goal is not None:
            return self._next_step(state, state.goal)
        if state.question is Question.ANYTHING_ELSE:
            text = _joined(*state.notes, speech.anything_else)
            return Reply(text=text, expect=(YES_NO_SLOT,))
        return self._idle(state)

    def _idle(self, state: State) -> Reply:
        speech = self._agent.speech
        if state.misses:
            return Reply(text=_joined(*state.notes, speech.help or speech.how_can_i_help))
        return Reply(text=_joined(*state.notes) or speech.how_can_i_help)

    def _next_step(self, state: State, goal: Goal) -> Reply:
        """Identity first, then what is missing, then the tool."""
        intent = intent_of(self._agent, goal)
        identity = self._agent.identity
        if identity is not None and needs_check(self._agent, state):
            if state.claimed is None:
                return self._ask(state, goal, identity.slot, ())
            arguments = {identity.slot: state.claimed}
            return Reply(text=_joined(*state.notes), tool=identity.tool, arguments=arguments)
        missing = missing_slots(self._agent, goal)
        if missing:
            return self._ask(state, goal, missing[0], self._choices(goal))
        arguments = arguments_of(self._agent, state, goal)
        return Reply(text=_joined(*state.notes), tool=intent.tool, arguments=arguments)

    def _ask(self, state: State, goal: Goal, name: str, others: tuple[str, ...]) -> Reply:
        slot = self._agent.slots[name]
        about = intent_of(self._agent, goal).about
        resume = ""
        if state.resumed and about:
            resume = self._text(self._agent.speech.resume, {"about": about})
        text = _joined(*state.notes, resume, slot.ask, slot.help if state.misses else "")
        # What has been said already may be corrected in the same breath.
        return Reply(text=text, expect=(name, *(other for other in others if other != name)))

    def _choices(self, goal: Goal | None) -> tuple[str, ...]:
        """The goal's slots that may be said or corrected at any time."""
        needs = intent_of(self._agent, goal).needs if goal is not None else []
        return tuple(n for n in needs if self._agent.slots[n].kind is SlotKind.CHOICE)


def _joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)
