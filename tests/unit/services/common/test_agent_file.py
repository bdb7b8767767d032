from __future__ import annotations

import copy
from typing import Any

import pytest

from services.common.agent_file import AgentFile, expected_sets, phrase_sets

BASE: dict[str, Any] = {
    "name": "test",
    "prompt": "p",
    "speech": {"disclosure": "d", "greeting": "g", "not_understood": ["n"]},
    "slots": {
        "day": {"ask": "which day", "values": {"monday": ["[on] monday"]}},
        "number": {"ask": "which number", "kind": "digits", "length": 4},
    },
    "answers": ["<day> <number>"],
    "intents": {"book": {"say": ["book <day>"], "needs": ["day"], "tool": "book", "reply": "r"}},
    "tools": {
        "book": {"description": "d", "effect": "read", "parameters": {}, "python": "m:f"},
    },
}


def agent(**changes: Any) -> AgentFile:
    """The base with changes at dotted places, as `intents__book__key`."""
    data = copy.deepcopy(BASE)
    for place, value in changes.items():
        *parents, last = place.split("__")
        table = data
        for parent in parents:
            table = table[parent]
        table[last] = value
    return AgentFile.model_validate(data)


def test_answers_with_several_slots_may_be_said_whenever_a_slot_is_asked_for() -> None:
    sets = {item.name: item for item in phrase_sets(agent())}
    assert sets["answers"].phrases[0].endswith("<slot_day> <slot_number>")
    assert "answers" in expected_sets(agent(), ("day",))
    assert "answers" not in expected_sets(agent(), ())
    assert "answers" not in expected_sets(agent(answers=[]), ("day",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": ["<nowhere>"]}, "answers: there is no slot 'nowhere'"),
        ({"answers": ["<day"]}, "answers"),
        ({"slots__day__values": {"monday": ["<number>"]}}, "slots.day: there is no slot 'number'"),
        ({"intents__book__key": "12"}, "key '12' is not on a telephone"),
        ({"intents__book__clears": {"full": ["hour"]}}, "there is no slot 'hour'"),
        ({"intents__book__reply": None}, "what is said when book is done"),
        ({"intents__idle": {"say": ["idle"]}}, "needs a reply, tool, transfer, hang_up or drop"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="AgentFile") as found:
        agent(**changes)
    assert said in str(found.value)


def test_two_intents_cannot_share_a_key() -> None:
    other = {"say": ["other"], "reply": "r", "key": "1"}
    with pytest.raises(ValueError, match="key 1 already means book"):
        agent(intents__book__key="1", intents__other=other)
