"""Where a conversation stands, and the texts that it is spoken from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from services.common.agent_file import SlotKind
from services.llm.engines.scripted.understand import NOTHING, Meaning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.common.agent_file import AgentFile, Intent, Tool
    from services.llm.engines.scripted.alignment import Slots

_FIELD = re.compile(r"\{(\w+)\}")
_MAX_SPOKEN = 300  # characters of one field: nobody listens to more


class Question(Enum):
    """What was asked that is not a slot."""

    NONE = auto()
    CONFIRM = auto()  # the conversation has read a write back to the caller
    CHANGE = auto()  # what is wrong with what was read back
    PERSON = auto()  # whether to be connected to a person
    ANYTHING_ELSE = auto()


class Leaving(Enum):
    """How the call goes on without us."""

    HANG_UP = auto()
    TRANSFER = auto()


@dataclass(frozen=True, slots=True)
class Goal:
    """An intent that is being pursued, with the values found out for it."""

    intent: str
    slots: Slots = ()

    def with_slots(self, slots: Slots) -> Goal:
        return replace(self, slots=merged(self.slots, slots))

    def without(self, names: list[str]) -> Goal:
        return replace(self, slots=tuple(item for item in self.slots if item[0] not in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that the next reply depends on. `notes` are said before the next question."""

    goal: Goal | None = None
    suspended: tuple[Goal, ...] = ()  # goals that a question has interrupted; the latest last
    loose: Slots = ()  # values said before there was a goal
    claimed: str | None = None  # the identity that the caller gives
    verified: str | None = None  # the identity that has passed the check
    failures: int = 0
    question: Question = Question.NONE
    leaving: Leaving | None = None
    transfer: str | None = None
    notes: tuple[str, ...] = ()
    misses: int = 0  # turns in a row that were not understood
    resumed: bool = False
    rounds: int = 0  # tool results since the caller last spoke
    heard: Meaning = NOTHING

    def saying(self, *texts: str | None) -> State:
        return replace(self, notes=self.notes + tuple(text for text in texts if text))


def merged(old: Slots, new: Slots) -> Slots:
    return tuple({**dict(old), **dict(new)}.items())


def intent_of(agent: AgentFile, goal: Goal) -> Intent:
    return agent.intents[goal.intent]


def tool_of(agent: AgentFile, goal: Goal) -> Tool | None:
    name = intent_of(agent, goal).tool
    return None if name is None else agent.tools[name]


def missing_slots(agent: AgentFile, goal: Goal) -> list[str]:
    """Slots still to be asked for, in the author's order."""
    known = dict(goal.slots)
    return [name for name in intent_of(agent, goal).needs if name not in known]


def needs_check(agent: AgentFile, state: State) -> bool:
    """Whether the caller must identify themselves before the goal can go on."""
    if state.goal is None or state.verified is not None:
        return False
    tool = intent_of(agent, state.goal).tool
    return tool is not None and agent.needs_identity(tool)


def arguments_of(agent: AgentFile, state: State, goal: Goal) -> dict[str, str]:
    """The arguments that the goal's tool declares and the conversation knows."""
    tool = tool_of(agent, goal)
    declared = tool.parameters.get("properties", {}) if tool is not None else {}
    known = dict(goal.slots)
    if agent.identity is not None and state.verified is not None:
        known[agent.identity.slot] = state.verified
    return {name: value for name, value in known.items() if name in declared}


def spoken(agent: AgentFile, template: str, values: Mapping[str, Any]) -> str:
    """The template with its {fields} filled in as they are to be spoken; unknown ones are empty."""

    def fill(match: re.Match[str]) -> str:
        return _spoken_value(agent, match[1], values.get(match[1], ""))

    text = " ".join(_FIELD.sub(fill, template).split())
    return text[:1].upper() + text[1:]


def _spoken_value(agent: AgentFile, name: str, value: Any) -> str:
    slot = agent.slots.get(name)
    if slot is not None and slot.kind is SlotKind.DIGITS:
        return " ".join(str(value))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "".join(c if c.isprintable() else " " for c in str(value))[:_MAX_SPOKEN]
