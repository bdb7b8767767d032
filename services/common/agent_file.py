"""The agent file: one TOML file that says what an agent is, says, understands and may do.

The conversation reads the prompt, tools and transfers from it; the recogniser gets its phrase sets;
the scripted engine gets its intents and slots.
"""

from __future__ import annotations

import re
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
ANSWERS_SET = "answers"
YES_SET = "yes"
NO_SET = "no"
YES_NO_SLOT = "yes_no"
_DIGIT_SET = "one_digit"
DIGITS = {
    "zero": "0",
    "oh": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
YES_PHRASES = (
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
NO_PHRASES = ("no", "nope", "no thanks", "no thank you", "wrong", "that is wrong", "that's wrong")
CORRECTION = "[no] [actually|sorry] [i (mean|meant|said)|make it|make that|rather]"


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
    help: str = ""  # added to the question when the answer was not understood
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
    drop: bool = False  # give up what is being done
    about: str = ""  # what it is called when the conversation comes back to it
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
    attended: bool = False  # call the target first, hand over when it answers
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
    help: str = ""  # what can be said
    not_understood: list[str] = Field(min_length=1)  # the first time, the second time, ...
    offer_person: str = "Shall I connect you to a person?"
    how_can_i_help: str = "What can I do for you?"
    anything_else: str = "Is there anything else?"
    what_to_change: str = "What would you like to change?"
    dropped: str = "All right, I leave it as it is."
    resume: str = "Back to {about}."
    failed: str = "I am sorry, that did not work."
    still_there: str = "Are you still there?"
    goodbye: str = "Goodbye."
    apology: str = "I am sorry, I have a technical problem. Please call again later."
    wait: str = "One moment, please."
    line_closing: str = (  # when this line is taken out of service in the middle of a call
        "I am sorry, this line has to close now. Please call again in a few minutes. Goodbye."
    )
    emergency: str = (  # an emergency number was asked for or dialled, and there is no route to one
        "I cannot connect you to the emergency services. "
        "Please hang up now and dial the emergency number from another telephone."
    )


class AgentFile(Section):
    """A whole agent. `folder` is where the file lies; tools are found beside it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    language: str = "en-US"
    voice: str = ""
    prompt: str
    speech: Speech
    slots: dict[str, Slot] = Field(default_factory=dict)
    answers: list[str] = Field(default_factory=list)  # several slots in one answer
    intents: dict[str, Intent] = Field(default_factory=dict)
    tools: dict[str, Tool] = Field(default_factory=dict)
    transfers: dict[str, TransferTarget] = Field(default_factory=dict)
    identity: Identity | None = None
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
    correction); `answers`, several of them at once; `yes`, `no`; and `command`, which is every
    intent.
    """
    sets = [
        PhraseSet(name=YES_SET, phrases=YES_PHRASES),
        PhraseSet(name=NO_SET, phrases=NO_PHRASES),
        PhraseSet(name=_DIGIT_SET, phrases=tuple(DIGITS)),
    ]
    for name, slot in agent.slots.items():
        sets.append(_slot_set(name, slot))
        sets.append(PhraseSet(name=f"answer_{name}", phrases=(f"{CORRECTION} <slot_{name}>",)))
    if agent.answers:
        said = tuple(f"{CORRECTION} {slot_references(answer)}" for answer in agent.answers)
        sets.append(PhraseSet(name=ANSWERS_SET, phrases=said))
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
        # "No, at ten": what was asked to be confirmed may be corrected in the same breath. Digits
        # are not, because a grammar of any digits takes nearly every sound for a number.
        names += [
            f"answer_{name}"
            for name, slot in agent.slots.items()
            if slot.kind is not SlotKind.DIGITS and f"answer_{name}" not in names
        ]
    if agent.answers and slots:
        names.append(ANSWERS_SET)
    return tuple(names)


def is_yes(text: str) -> bool:
    """Whether this is a plain yes, with nothing added that might change what was asked."""
    return text.strip().lower() in YES_PHRASES


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
    keys: dict[str, str] = {}
    for name, intent in agent.intents.items():
        yield from _intent_problems(agent, f"intents.{name}", intent)
        if intent.key is not None:
            if not re.fullmatch(r"[0-9*#]", intent.key):
                yield f"intents.{name}: key {intent.key!r} is not on a telephone"
            if intent.key in keys:
                yield f"intents.{name}: key {intent.key} already means {keys[intent.key]}"
            keys.setdefault(intent.key, name)
    if agent.identity is not None:
        yield from _unknown("identity", [agent.identity.slot], agent.slots, "slot")
        yield from _unknown("identity", [agent.identity.tool], agent.tools, "tool")


def _intent_problems(agent: AgentFile, where: str, intent: Intent) -> Iterator[str]:
    outcomes = [intent.reply, intent.tool, intent.transfer, intent.hang_up or intent.drop or None]
    if all(outcome is None for outcome in outcomes):
        yield f"{where}: needs a reply, tool, transfer, hang_up or drop"
    if intent.tool is not None and intent.reply is None and "ok" not in intent.replies:
        yield f"{where}: needs a reply or replies.ok: what is said when {intent.tool} is done"
    yield from _unknown(where, intent.needs, agent.slots, "slot")
    yield from _unknown(where, [intent.tool], agent.tools, "tool")
    yield from _unknown(where, [intent.transfer], agent.transfers, "transfer")
    for status, slots in intent.clears.items():
        yield from _unknown(f"{where}: clears.{status}", slots, agent.slots, "slot")


def _phrase_problems(agent: AgentFile) -> Iterator[str]:
    said = [(f"intents.{name}", say) for name, item in agent.intents.items() for say in item.say]
    said += [("answers", answer) for answer in agent.answers]
    for where, phrase in said:
        yield from _reference_problems(where, phrase, agent.slots)
    for name, slot in agent.slots.items():
        for way in (way for ways in slot.values.values() for way in ways):
            yield from _reference_problems(f"slots.{name}", way, {})


def _reference_problems(where: str, phrase: str, slots: dict[str, Slot]) -> Iterator[str]:
    try:
        names = phrases.references(phrases.parse(phrase))
    except phrases.PhraseError as error:
        yield f"{where}: {error}"
    else:
        yield from _unknown(where, sorted(names), slots, "slot")


def _unknown(where: str, names: list[Any], known: dict[str, Any], what: str) -> Iterator[str]:
    for name in names:
        if name is not None and name not in known:
            yield f"{where}: there is no {what} {name!r}"
