from __future__ import annotations

import pytest

from services.agent.endpointing import EndpointPolicy, silence_needed_ms

POLICY = EndpointPolicy()


@pytest.mark.parametrize(
    ("partial", "yes_no", "digits", "needed"),
    [
        ("", False, False, POLICY.unknown_ms),
        ("", False, True, POLICY.digits_ms),
        ("four two", False, True, POLICY.digits_ms),
        ("yes", True, False, POLICY.short_answer_ms),
        ("Yes please", True, False, POLICY.short_answer_ms),
        ("i want an appointment on", False, False, POLICY.unfinished_ms),
        ("book an appointment on monday", False, False, POLICY.finished_ms),
    ],
)
def test_the_delay_suits_what_was_said(
    partial: str, yes_no: bool, digits: bool, needed: float
) -> None:
    assert (
        silence_needed_ms(partial, expects_yes_no=yes_no, expects_digits=digits, policy=POLICY)
        == needed
    )
