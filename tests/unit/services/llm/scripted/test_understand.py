from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.agent_file import AgentFile
from services.common.errors import ConfigError
from services.llm.engines.scripted.understand import Understanding
from services.llm.engines.scripted.words import normalise
from tests.fakes.clinic_caller import clinic

CLINIC = Understanding(clinic())
ANOTHER = Understanding(clinic())
WORDS = sorted({"pizza", "weather", "no", "yes", *normalise(" ".join(
    phrase for intent in clinic().intents.values() for phrase in intent.say
))})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Half past TEN, please!", "half past ten please"),
        ("at 10:30", "at ten thirty"),
        ("at 10:00", "at ten"),
        ("my number is 4271", "my number is four two seven one"),
        ("45 minutes", "forty five minutes"),
        ("I\u2019d like", "i'd like"),
        ("... ?", ""),
    ],
)
def test_text_becomes_the_words_of_a_grammar(text: str, words: str) -> None:
    assert " ".join(normalise(text)) == words


@pytest.mark.parametrize(
    ("text", "expect", "intent", "slots"),
    [
        ("what are your opening hours", (), "hours", {}),
        ("book an appointment on tuesday at ten", (), "book", {"day": "tuesday", "time": "ten"}),
        ("quarter to ten", ("time",), None, {"time": "nine forty five"}),
        ("two in the afternoon", ("time",), None, {"time": "two"}),
        ("no at ten thirty", ("yes_no",), None, {"time": "ten thirty"}),
        ("i mean wednesday", ("time",), None, {"day": "wednesday"}),
        ("tuesday at ten", ("day", "time"), None, {"day": "tuesday", "time": "ten"}),
        ("four two oh one", ("patient_number",), None, {"patient_number": "4201"}),
    ],
)
def test_what_stands_in_the_grammar_is_understood_exactly(
    text: str, expect: tuple[str, ...], intent: str | None, slots: dict[str, str]
) -> None:
    meaning = CLINIC.understand(text, expect)
    assert (meaning.intent, dict(meaning.slots), meaning.score) == (intent, slots, 1.0)


@pytest.mark.parametrize(
    ("text", "expect", "intent", "slots"),
    [
        ("cancel appointment", (), "cancel", {}),
        ("i wanna cancel my appointment", (), "cancel", {}),
        ("book an appointment for tusday at 10:30", (), "book",
         {"day": "tuesday", "time": "ten thirty"}),
        ("uh ten thirty please", ("time",), None, {"time": "ten thirty"}),
        ("my number is 4271", ("patient_number",), None, {"patient_number": "4271"}),
        ("on tuesday no wednesday", ("day",), None, {"day": "wednesday"}),
        ("no cancel my appointment", ("yes_no",), "cancel", {}),
    ],
)  # fmt: skip
def test_recognition_errors_are_tolerated(
    text: str, expect: tuple[str, ...], intent: str | None, slots: dict[str, str]
) -> None:
    meaning = CLINIC.understand(text, expect)
    assert (meaning.intent, dict(meaning.slots)) == (intent, slots)


@pytest.mark.parametrize(
    "text",
    [
        "do you repair old bicycles in the winter",
        "can i order a pizza",
        "i would like two appointments for my dog",
        "what is the weather",
        "the to of",
        "four two seven",
        "",
    ],
)
def test_what_is_outside_the_grammar_is_not_understood(text: str) -> None:
    assert CLINIC.understand(text, ()).nothing


def test_one_wrong_verb_does_not_turn_one_wish_into_another() -> None:
    assert CLINIC.understand("move my appointment", ()).intent == "move"
    assert CLINIC.understand("cancel my appointment", ()).intent == "cancel"
    assert CLINIC.understand("paint my appointment", ()).intent not in ("move", "cancel", "book")


def test_yes_and_no_are_told_from_yes_and_no_with_something_added() -> None:
    assert CLINIC.understand("yes please", ()).polarity is True
    assert CLINIC.understand("no thanks", ()).polarity is False
    changed = CLINIC.understand("yes on tuesday", ("yes_no",))
    assert (changed.polarity, dict(changed.slots)) == (True, {"day": "tuesday"})


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.sampled_from([(), ("day",), ("yes_no",)]))
def test_any_words_have_one_meaning_with_slots_of_the_agent(
    words: list[str], expect: tuple[str, ...]
) -> None:
    text = " ".join(words)
    meaning = CLINIC.understand(text, expect)
    assert meaning == ANOTHER.understand(text, expect)
    assert meaning.intent is None or meaning.intent in clinic().intents
    for name, value in meaning.slots:
        slot = clinic().slots[name]
        assert value in slot.values or (value.isdecimal() and len(value) == slot.length)


@given(st.text(max_size=200))
def test_no_text_whatever_breaks_it(text: str) -> None:
    CLINIC.understand(text, ("day", "nonsense"))


def test_a_slot_with_endless_ways_to_say_it_stops_the_start() -> None:
    data = clinic().model_dump()
    data["slots"]["day"]["values"] = {"monday": ["(a|b|c|d) " * 8]}
    with pytest.raises(ConfigError, match=r"slots\.day"):
        Understanding(AgentFile.model_validate(data))
