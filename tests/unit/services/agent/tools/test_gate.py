from __future__ import annotations

from typing import Any

import pytest

from services.agent.tools import gate
from services.agent.tools.gate import IdentityState
from services.common.agent_file import AgentFile

PARAMETERS = {
    "type": "object",
    "properties": {"number": {"type": "string"}, "day": {"enum": ["monday"]}},
    "additionalProperties": False,
}


def agent(*, identity: bool = True) -> AgentFile:
    def tool(effect: str, **more: Any) -> dict[str, Any]:
        return {
            "description": "d",
            "effect": effect,
            "parameters": PARAMETERS,
            "python": "m:f",
            **more,
        }

    data: dict[str, Any] = {
        "name": "test",
        "prompt": "p",
        "speech": {"disclosure": "d", "greeting": "g", "not_understood": ["n"]},
        "slots": {"number": {"kind": "digits", "length": 4, "ask": "?"}},
        "tools": {
            "check": tool("read"),
            "hours": tool("read"),
            "mine": tool("read", personal=True),
            "book": tool("write", confirm="Book {day} for {nobody}?"),
        },
    }
    if identity:
        data["identity"] = {
            "slot": "number",
            "tool": "check",
            "verified": "ok",
            "failed": "no",
            "attempts": 2,
        }
    return AgentFile.model_validate(data)


def status(result: dict[str, Any] | None) -> str | None:
    return None if result is None else result["status"]


def test_unknown_tools_and_wrong_arguments_never_run() -> None:
    nobody = IdentityState()
    assert status(gate.refuse(agent(), "format_disk", {}, nobody)) == "unknown_tool"
    assert status(gate.refuse(agent(), "hours", None, nobody)) == "error"
    assert status(gate.refuse(agent(), "hours", {"day": "sunday"}, nobody)) == "error"
    assert status(gate.refuse(agent(), "hours", {"extra": 1}, nobody)) == "error"
    assert gate.refuse(agent(), "hours", {"day": "monday"}, nobody) is None


@pytest.mark.parametrize("name", ["mine", "book"])
def test_personal_reads_and_writes_need_the_identity_check(name: str) -> None:
    assert status(gate.refuse(agent(), name, {}, IdentityState())) == "identity_required"
    assert gate.refuse(agent(), name, {}, IdentityState(verified="4271")) is None
    assert gate.refuse(agent(identity=False), name, {}, IdentityState()) is None


def test_a_verified_caller_may_not_act_for_somebody_else() -> None:
    verified = IdentityState(verified="4271")
    assert status(gate.refuse(agent(), "book", {"number": "9999"}, verified)) == "identity_mismatch"
    assert gate.refuse(agent(), "book", {"number": "4271"}, verified) is None


def test_guessing_is_locked_after_the_attempts_allowed() -> None:
    state = IdentityState()
    for _ in range(2):
        assert gate.refuse(agent(), "check", {"number": "1"}, state) is None
        state = gate.after(agent(), "check", {"number": "1"}, {"status": "not_found"}, state)
    assert status(gate.refuse(agent(), "check", {"number": "4271"}, state)) == "locked"


def test_passing_the_check_verifies_the_value_that_passed() -> None:
    state = gate.after(
        agent(), "check", {"number": "4271"}, {"status": "ok"}, IdentityState(failures=1)
    )
    assert state == IdentityState(verified="4271", failures=1)
    assert gate.after(agent(), "hours", {}, {"status": "ok"}, IdentityState()) == IdentityState()


def test_a_success_between_guesses_does_not_give_new_ones() -> None:
    state = IdentityState()
    for number in ("1", "4271", "2", "4271"):
        status_ = "ok" if number == "4271" else "not_found"
        state = gate.after(agent(), "check", {"number": number}, {"status": status_}, state)
    assert status(gate.refuse(agent(), "check", {"number": "3"}, state)) == "locked"


@pytest.mark.parametrize("failure", ["error", "timeout"])
def test_a_tool_that_fails_is_not_the_callers_failure(failure: str) -> None:
    state = gate.after(agent(), "check", {}, {"status": failure}, IdentityState(failures=1))
    assert state == IdentityState(failures=1)


def test_writes_are_confirmed_with_their_arguments() -> None:
    assert gate.needs_confirmation(agent(), "book")
    assert not gate.needs_confirmation(agent(), "mine")
    assert gate.confirmation(agent(), "book", {"day": "monday"}) == "Book monday for ?"
