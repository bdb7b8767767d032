"""Whole conversations with the clinic: the engine, the gate, the tools and a real database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.llm.engine import ChatRequest, Finished, FinishReason, Message, Role, Text, ToolCall
from services.llm.engines.scripted.engine import ScriptedEngine
from tests.fakes.clinic_caller import ClinicCaller, clinic

ENGINE = ScriptedEngine([clinic()])
TOOLS = (*clinic().tools, "transfer_call", "hang_up")


@pytest.fixture
def caller(tmp_path: Path) -> ClinicCaller:
    return ClinicCaller(ENGINE, tmp_path)


async def test_a_question_a_booking_with_a_correction_and_a_goodbye(caller: ClinicCaller) -> None:
    assert "nine to twelve" in (await caller.say("what are your opening hours")).said
    asked = await caller.say("i would like to book an appointment on tuesday at ten")
    assert asked.expect == ("patient_number",)
    checked = await caller.say("[keypad] 4271")
    assert checked.said == "Thank you, Susan Clark."
    assert checked.asked_to_confirm == "I am booking you in tuesday at ten. Is that right?"
    corrected = await caller.say("no make it half past ten")
    assert "tuesday at ten thirty" in corrected.asked_to_confirm
    assert corrected.results == []
    booked = await caller.say("yes please")
    assert booked.results == [{"status": "ok", "when": "on tuesday at ten thirty"}]
    assert booked.said.startswith("You are booked in on tuesday at ten thirty.")
    assert booked.expect == ("yes_no",)
    assert (await caller.say("no")).over == "hang_up"


async def test_missing_slots_are_asked_for_in_order(caller: ClinicCaller) -> None:
    await caller.say("book an appointment")
    assert (await caller.say("four two seven one")).expect[0] == "day"
    assert (await caller.say("friday")).expect[0] == "time"
    assert "friday at nine" in (await caller.say("nine o'clock")).asked_to_confirm


async def test_a_question_in_the_middle_is_answered_and_the_booking_goes_on(
    caller: ClinicCaller,
) -> None:
    await caller.say("book an appointment")
    await caller.say("1234")
    turn = await caller.say("where are you")
    assert "twelve Maple Street" in turn.said
    assert turn.said.endswith("Now back to your appointment. Which day would you like?")
    await caller.say("monday")
    turn = await caller.say("when is my appointment")
    assert turn.tools == [("find_appointment", {"patient_number": "1234"})]
    assert turn.said.endswith("At what time?")
    assert "monday at two" in (await caller.say("at two")).asked_to_confirm


async def test_a_bare_no_asks_what_to_change_and_another_drops_it(caller: ClinicCaller) -> None:
    await caller.say("book an appointment on monday at nine")
    await caller.say("1234")
    changing = await caller.say("no")
    assert changing.said == clinic().speech.what_to_change
    assert {"day", "time"} <= set(changing.expect)
    assert "wednesday at nine" in (await caller.say("wednesday")).asked_to_confirm
    await caller.say("no")
    assert clinic().speech.dropped in (await caller.say("no")).said


@pytest.mark.parametrize("noise", ["[not understood]", "[silence]", "where are you"])
async def test_what_was_to_be_confirmed_is_asked_again(caller: ClinicCaller, noise: str) -> None:
    await caller.say("book an appointment on monday at nine")
    await caller.say("1234")
    again = await caller.say(noise)
    assert "monday at nine" in again.asked_to_confirm
    assert again.results == []


async def test_a_taken_time_is_refused_with_alternatives(
    caller: ClinicCaller, tmp_path: Path
) -> None:
    other = ClinicCaller(ENGINE, tmp_path)
    for text in ("book an appointment on tuesday at ten", "1234", "yes"):
        await other.say(text)
    for text in ("book an appointment on tuesday at ten", "4271"):
        await caller.say(text)
    refused = await caller.say("yes")
    assert "nine thirty, nine forty five or ten fifteen" in refused.said
    assert refused.expect[0] == "time"
    assert "ten fifteen" in (await caller.say("ten fifteen")).asked_to_confirm


async def test_three_wrong_numbers_lead_to_a_person(caller: ClinicCaller) -> None:
    await caller.say("cancel my appointment")
    assert (await caller.say("1111")).expect == ("patient_number",)
    await caller.say("2222")
    last = await caller.say("3333")
    assert last.tools[-1] == ("transfer_call", {"target": "reception"})


async def test_not_understood_varies_and_then_offers_a_person(caller: ClinicCaller) -> None:
    turns = [await caller.say("[not understood]") for _ in range(3)]
    assert len({turn.said for turn in turns}) == 3
    assert "opening hours" in turns[0].said
    assert turns[2].expect == ("yes_no",)
    assert (await caller.say("yes")).over == "transfer_call"


async def test_keys_choose_from_the_menu(caller: ClinicCaller) -> None:
    assert "nine to twelve" in (await caller.say("[keypad] 1")).said
    assert (await caller.say("[keypad] 0")).over == "transfer_call"


async def test_silence_before_any_wish_is_answered_briefly(caller: ClinicCaller) -> None:
    assert (await caller.say("[silence]")).said == clinic().speech.still_there


def messages_of(script: list[Any]) -> tuple[Message, ...]:
    """A history of caller texts and of tool results in the order given."""
    messages = [Message(role=Role.SYSTEM, content="prompt")]
    for index, item in enumerate(script):
        if isinstance(item, str):
            messages.append(Message(role=Role.USER, content=item))
            continue
        name, arguments, result = item
        call = ToolCall(id=f"t{index}", name=name, arguments=arguments)
        messages.append(Message(role=Role.ASSISTANT, tool_calls=(call,)))
        messages.append(Message(role=Role.TOOL, tool_call_id=call.id, content=result))
    return tuple(messages)


async def answer(request: ChatRequest) -> tuple[str, ToolCall | None, Finished]:
    text, call, finished = "", None, None
    async for piece in ENGINE.chat(request):
        match piece:
            case Text(more):
                text += more
            case ToolCall():
                call = piece
            case Finished():
                finished = piece
    assert finished is not None
    return text, call, finished


said = st.sampled_from(
    ["book an appointment", "monday", "nine", "yes", "no", "4271", "[keypad] 1234", "[keypad] 1",
     "[not understood]", "[silence]", "never mind", "where are you", "when is my appointment",
     "cancel my appointment", "move my appointment friday", "operator", "goodbye", "pizza"]
) | st.text(max_size=20)  # fmt: skip
status = st.sampled_from(
    ["ok", "needs_confirmation", "identity_required", "identity_mismatch", "locked", "error",
     "timeout", "unknown_tool", "running", "unavailable", "not_found", "surprise"]
)  # fmt: skip
result = status.map(lambda value: json.dumps({"status": value})) | st.text(max_size=10)
returned = st.tuples(
    st.sampled_from([*TOOLS, "unheard_of"]),
    st.sampled_from(["{}", '{"patient_number": "4271"}', "[]", "no json", '{"day": 3}']),
    result,
)
scripts = st.lists(said | returned, min_size=1, max_size=14)


@settings(max_examples=150, deadline=None)
@given(scripts, st.frozensets(st.sampled_from(TOOLS)))
async def test_any_history_gets_a_sound_answer(script: list[Any], tools: frozenset[str]) -> None:
    request = ChatRequest(model="clinic", messages=messages_of(script), tools=tools)
    text, call, finished = await answer(request)
    assert call is None or call.name in tools
    assert text or call is not None
    assert set(finished.expect) <= {*clinic().slots, "yes_no"}
    assert (finished.reason is FinishReason.TOOL_CALLS) == (call is not None)
    assert (text, call, finished) == await answer(request)


@settings(max_examples=60, deadline=None)
@given(st.lists(said, max_size=6), status)
async def test_a_turn_ends_whatever_its_tools_return(texts: list[str], value: str) -> None:
    script: list[Any] = [*texts, "cancel my appointment", "4271"]
    for _ in range(6):
        request = ChatRequest(model="clinic", messages=messages_of(script), tools=frozenset(TOOLS))
        _, call, _ = await answer(request)
        if call is None or call.name in ("transfer_call", "hang_up"):
            return
        script.append((call.name, call.arguments, json.dumps({"status": value})))
        if value == "needs_confirmation" and call.name != "check_patient":
            return
    raise AssertionError(f"the turn does not end: {script}")


async def test_text_is_cut_at_the_limit_and_no_tool_follows() -> None:
    messages = messages_of(["goodbye"])
    request = ChatRequest(model="clinic", messages=messages, tools=frozenset(TOOLS), max_tokens=2)
    text, call, finished = await answer(request)
    assert (text, call, finished.reason) == ("Thank you", None, FinishReason.LENGTH)


async def test_what_the_agent_is_said_to_have_said_does_not_matter() -> None:
    script: list[Any] = ["book an appointment", "4271"]
    plain = messages_of(script)
    spoken = (*plain[:2], Message(role=Role.ASSISTANT, content="You are boo"), *plain[2:])
    tools = frozenset(TOOLS)
    with_none = await answer(ChatRequest(model="clinic", messages=plain, tools=tools))
    with_some = await answer(ChatRequest(model="clinic", messages=spoken, tools=tools))
    assert with_none[0] == with_some[0]
    assert with_none[1] is not None
    assert with_some[1] is not None
    assert with_none[1].arguments == with_some[1].arguments
    assert with_none[2].expect == with_some[2].expect
