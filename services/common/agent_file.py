"""The agent file: one TOML file that says what an agent is, says, understands and may do.

The conversation reads the prompt, tools and transfers from it; the recogniser gets its phrase sets;
the scripted engine gets its intents and slots.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from services.common import phrases
from services.common.config import Section, explain
from services.common.errors import ConfigError
from services.common.phrases import PhraseSet

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_SET = "command"
YES_SET = "yes"
NO_SET = "no"
YES_NO_SLOT = "yes_no"
_DIGIT_SET = "one_digit"
_DIGIT_WORDS = [
    "zero",
    "oh",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
]
_YES = (
    "yes",
    "yes please",
    "yeah",
    "yep",
    "correct",
    "that is right",
    "that's right",
    "sure",
    "ok",
)
_NO = ("no", "nope", "no thanks", "no thank you", "wrong", "that is wrong", "that's wrong")
_CORRECTION = "[no] [actually|sorry] [i (mean|meant|said)|make it|make that|rather]"


class SlotKind(StrEnum):
    CHOICE = "choice"
    DIGITS = "digits"


class Effect(StrEnum):
    """What running a tool twice would do."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    WRITE = "write"


class Slot(Section):
    """One thing that the agent asks for."""

    kind: SlotKind = SlotKind.CHOICE
    ask: str
    values: dict[str, list[str]] = Field(default_factory=dict)  # value -> ways to say it
    length: int | None = None  # digits: how many

    @model_validator(mode="after")
    def _complete(self) -> Slot:
        if self.kind is SlotKind.CHOICE and not self.values:
            raise ValueError("a choice needs values: the ways in which each can be said")
        if self.kind is SlotKind.DIGITS and not self.length:
            raise ValueError("digits need a length")
        return self


class Intent(Section):
    """One thing that a caller may want."""

    say: list[str]
    key: str | None = None  # the telephone key that means the same
    needs: list[str] = Field(default_factory=list)  # slots, asked for in this order
    tool: str | None = None
    transfer: str | None = None
    hang_up: bool = False
    reply: str | None = None  # may use {slot}
    replies: dict[str, str] = Field(
        default_factory=dict
    )  # by the tool's "status"; {field} of its result
    clears: dict[str, list[str]] = Field(default_factory=dict)  # status -> slots to ask for again


class Tool(Section):
    """Something that the agent can do, in this process or over HTTP."""

    description: str
    effect: Effect
    parameters: dict[str, Any]  # JSON Schema of the arguments
    python: str | None = None  # "module:function", module beside the agent file
    http: str | None = None  # URL that takes the arguments as a JSON POST
    confirm: str | None = None  # asked before a write; {argument}
    personal: bool = False  # reads personal data: only after the identity check, as writes are
    filler: str = "One moment, please."
    timeout_s: float = 5.0

    @model_validator(mode="after")
    def _complete(self) -> Tool:
        if (self.python is None) == (self.http is None):
            raise ValueError('a tool is either python = "module:function" or http = "http://..."')
        if self.effect is Effect.WRITE and self.confirm is None:
            raise ValueError('a write needs confirm = "...": the question asked before it is done')
        return self


class TransferTarget(Section):
    """A person or desk that calls can be handed to."""

    description: str
    target: str  # SIP URI
    announce: str = "I will connect you now."
    failed: str = "I am sorry, nobody can take the call at the moment."


class Identity(Section):
    """The check that makes a claim of identity good enough for personal data and writes."""

    slot: str
    tool: str  # called with {slot: value}; a result with status "ok" passes
    verified: str  # said after it has passed; may use the result's fields
    failed: str
    attempts: int = 3


class Speech(Section):
    """What the agent says of itself, whatever the caller wants."""

    disclosure: str  # said first; cannot be interrupted
    greeting: str
    not_understood: list[str] = Field(min_length=1)
    still_there: str = "Are you still there?"
    goodbye: str = "Goodbye."
    apology: str = "I am sorry, I have a technical problem. Please call again later."
    wait: str = "One moment, please."


class AgentFile(Section):
    """A whole agent. `folder` is where the file lies; tools are found beside it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    language: str = "en-US"
    voice: str = ""
    prompt: str
    speech: Speech
    slots: dict[str, Slot] = Field(default_factory=dict)
    intents: dict[str, Intent] = Field(default_factory=dict)
    tools: dict[str, Tool] = Field(default_factory=dict)
    transfers: dict[str, TransferTarget] = Field(default_factory=dict)
    identity: Identity | None = None
    pronunciations: dict[str, str] = Field(default_factory=dict)  # how a word is to be spoken
    folder: Path = Path()

    @model_validator(mode="after")
    def _consistent(self) -> AgentFile:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def needs_identity(self, tool: str) -> bool:
        """Whether the caller must have passed the identity check before this tool may run."""
        found = self.tools[tool]
        return self.identity is not None and (found.personal or found.effect is Effect.WRITE)


def load(path: Path) -> AgentFile:
    """Read an agent file; ConfigError lists every mistake in it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the agent file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return AgentFile.model_validate({**data, "folder": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError(explain(str(path), AgentFile, error)) from None


def phrase_sets(agent: AgentFile) -> tuple[PhraseSet, ...]:
    """All that can be said to this agent.

    For each slot `slot_NAME` (the value itself) and `answer_NAME` (the value as an answer or a
    correction); `yes`, `no`; and `command`, which is every intent.
    """
    sets = [
        PhraseSet(name=YES_SET, phrases=_YES),
        PhraseSet(name=NO_SET, phrases=_NO),
        PhraseSet(name=_DIGIT_SET, phrases=tuple(_DIGIT_WORDS)),
    ]
    for name, slot in agent.slots.items():
        sets.append(_slot_set(name, slot))
        sets.append(PhraseSet(name=f"answer_{name}", phrases=(f"{_CORRECTION} <slot_{name}>",)))
    command = tuple(slot_references(say) for intent in agent.intents.values() for say in intent.say)
    if command:
        sets.append(PhraseSet(name=COMMAND_SET, phrases=command))
    return tuple(sets)


def expected_sets(agent: AgentFile, slots: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the phrase sets that may be said when `slots` were asked for.

    Commands are always allowed, so that nobody is trapped in a question.
    """
    names = [COMMAND_SET] if agent.intents else []
    for slot in slots:
        names += [YES_SET, NO_SET] if slot == YES_NO_SLOT else [f"answer_{slot}"]
    if YES_NO_SLOT in slots:
        # "No, at ten": what was asked to be confirmed may be corrected in the same breath.
        names += [f"answer_{name}" for name in agent.slots if f"answer_{name}" not in names]
    return tuple(names)


def is_yes(text: str) -> bool:
    """Whether this is a plain yes, with nothing added that might change what was asked."""
    return text.strip().lower() in _YES


def slot_references(say: str) -> str:
    """An author's `<day>` as the phrase set `<slot_day>`."""
    return say.replace("<", "<slot_")


def _slot_set(name: str, slot: Slot) -> PhraseSet:
    if slot.kind is SlotKind.DIGITS:
        length = slot.length or 1
        return PhraseSet(
            name=f"slot_{name}",
            phrases=(f"<{_DIGIT_SET}>",),
            min_repeats=length,
            max_repeats=length,
        )
    ways = tuple(way for values in slot.values.values() for way in values)
    return PhraseSet(name=f"slot_{name}", phrases=ways)


def _problems(agent: AgentFile) -> Iterator[str]:
    yield from _phrase_problems(agent)
    for name, intent in agent.intents.items():
        where = f"intents.{name}"
        outcomes = [intent.reply, intent.tool, intent.transfer, intent.hang_up or None]
        if all(outcome is None for outcome in outcomes):
            yield f"{where}: needs a reply, tool, transfer or hang_up"
        yield from _unknown(where, intent.needs, agent.slots, "slot")
        yield from _unknown(where, [intent.tool], agent.tools, "tool")
        yield from _unknown(where, [intent.transfer], agent.transfers, "transfer")
    if agent.identity is not None:
        yield from _unknown("identity", [agent.identity.slot], agent.slots, "slot")
        yield from _unknown("identity", [agent.identity.tool], agent.tools, "tool")


def _phrase_problems(agent: AgentFile) -> Iterator[str]:
    said = [(f"intents.{name}", say) for name, item in agent.intents.items() for say in item.say]
    said += [
        (f"slots.{name}", way)
        for name, slot in agent.slots.items()
        for ways in slot.values.values()
        for way in ways
    ]
    for where, phrase in said:
        try:
            names = phrases.references(phrases.parse(phrase))
        except phrases.PhraseError as error:
            yield f"{where}: {error}"
        else:
            yield from _unknown(where, sorted(names), agent.slots, "slot")


def _unknown(where: str, names: list[Any], known: dict[str, Any], what: str) -> Iterator[str]:
    for name in names:
        if name is not None and name not in known:
            yield f"{where}: there is no {what} {name!r}"
