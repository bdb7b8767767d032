"""What an agent file lets callers say, and when."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.common import phrases
from services.common.agent_file import (
    YES_NO_SLOT,
    AgentFile,
    Intent,
    Slot,
    SlotKind,
    Speech,
    expected_sets,
    phrase_sets,
)
from services.common.phrases import PhraseSet

SPEECH = Speech(disclosure="This call is recorded.", greeting="Hello.", not_understood=["Pardon?"])
NAMES = st.sampled_from(["day", "time", "number", "doctor"])
SAYINGS = st.lists(
    st.sampled_from(["monday", "[at] ten", "half past (nine|ten)", "doctor smith"]),
    min_size=1,
    max_size=3,
)
SLOTS = st.one_of(
    st.builds(
        Slot, ask=st.just("Which?"), values=st.dictionaries(st.just("value"), SAYINGS, min_size=1)
    ),
    st.builds(Slot, ask=st.just("Which?"), kind=st.just(SlotKind.DIGITS), length=st.integers(1, 9)),
)


@st.composite
def agents(draw: st.DrawFn) -> AgentFile:
    slots = draw(st.dictionaries(NAMES, SLOTS, max_size=4))
    says = ["opening hours", *(f"[book] <{name}> please" for name in slots)]
    intents = {"hours": Intent(say=says, reply="Always.")} if draw(st.booleans()) else {}
    return AgentFile(name="agent", prompt="Be kind.", speech=SPEECH, slots=slots, intents=intents)


def by_name(sets: tuple[PhraseSet, ...]) -> dict[str, PhraseSet]:
    found = {item.name: item for item in sets}
    assert len(found) == len(sets)
    return found


@given(agents())
def test_every_reference_leads_to_a_set(agent: AgentFile) -> None:
    sets = by_name(phrase_sets(agent))
    referred = {
        name
        for item in sets.values()
        for phrase in item.phrases
        for name in phrases.references(phrases.parse(phrase))
    }
    assert referred <= set(sets)
    assert all(item.phrases for item in sets.values())


@given(agents(), st.booleans())
def test_everything_that_may_be_expected_is_a_set(agent: AgentFile, confirming: bool) -> None:
    sets = by_name(phrase_sets(agent))
    for count in range(len(agent.slots) + 1):
        for slots in itertools.combinations(agent.slots, count):
            asked = (*slots, YES_NO_SLOT) if confirming else slots
            expected = expected_sets(agent, asked)
            assert set(expected) <= set(sets)
            assert len(set(expected)) == len(expected)
            assert ("command" in expected) == bool(agent.intents)
            assert {f"answer_{name}" for name in slots} <= set(expected)
            assert ("yes" in expected) == confirming


@given(agents())
def test_a_slot_takes_its_own_values_and_digits_as_many_as_they_are(agent: AgentFile) -> None:
    sets = by_name(phrase_sets(agent))
    for name, slot in agent.slots.items():
        item = sets[f"slot_{name}"]
        if slot.kind is SlotKind.DIGITS:
            assert (item.min_repeats, item.max_repeats) == (slot.length, slot.length)
        else:
            assert list(item.phrases) == [way for ways in slot.values.values() for way in ways]
            assert (item.min_repeats, item.max_repeats) == (1, 1)


def test_an_answer_may_be_a_correction() -> None:
    slot = Slot(ask="When?", values={"monday": ["[on] monday"]})
    agent = AgentFile(name="agent", prompt="Be kind.", speech=SPEECH, slots={"day": slot})
    (answer,) = by_name(phrase_sets(agent))["answer_day"].phrases
    ways = {" ".join(way) for way in phrases.expand(phrases.parse(answer))}
    assert {"<slot_day>", "no <slot_day>", "sorry i meant <slot_day>"} <= ways
