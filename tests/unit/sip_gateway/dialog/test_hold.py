"""When a re-INVITE that collided is sent again."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import LandlineError
from sip_gateway.dialog import hold
from sip_gateway.dialog.hold import Hold, retry_delay_s
from sip_gateway.events import ReinviteRefused

PENDING = ReinviteRefused(sip_status=491)


@given(st.booleans(), st.floats(min_value=0, max_value=1))
def test_the_two_sides_of_a_collision_never_wait_alike(we_called: bool, chance: float) -> None:
    """RFC 3261, 14.1: 2.1 to 4 s for who owns the Call-ID, up to 2 s for the other."""
    delay_s = retry_delay_s(we_called=we_called, chance=chance)
    assert (2.1 <= delay_s <= 4.0) if we_called else (0.0 <= delay_s <= 2.0)
    assert round(delay_s * 100) == pytest.approx(delay_s * 100)  # in steps of 10 ms


class Line:
    """Keeps what was asked; `fails` makes PJSIP refuse."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.fails = False

    async def hold(self, on: bool) -> None:
        self.asked.append(on)
        if self.fails:
            raise LandlineError("another transaction is pending")


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(hold, "retry_delay_s", lambda **_: 0.0)
    return Line()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_after_491_it_asks_again_for_what_is_wanted_now(line: Line) -> None:
    holding = Hold(line, we_called=False, log=structlog.get_logger())
    await holding.set(True)
    holding.refused(PENDING)
    await settle()
    assert line.asked == [True, True]
    holding.refused(PENDING)
    await holding.set(False)
    await settle()
    assert line.asked == [True, True, False]


async def test_another_refusal_is_the_end_of_it(line: Line) -> None:
    holding = Hold(line, we_called=False, log=structlog.get_logger())
    await holding.set(True)
    holding.refused(ReinviteRefused(sip_status=488))
    await settle()
    assert line.asked == [True]


async def test_it_does_not_ask_for_ever(line: Line) -> None:
    line.fails = True
    holding = Hold(line, we_called=False, log=structlog.get_logger())
    await holding.set(True)
    for _ in range(20):
        await settle()
    assert line.asked == [True] * 5


async def test_a_call_that_has_ended_asks_nothing(line: Line) -> None:
    holding = Hold(line, we_called=False, log=structlog.get_logger())
    await holding.set(True)
    holding.refused(PENDING)
    holding.close()
    await settle()
    assert line.asked == [True]


async def test_refusals_of_what_it_never_asked_are_none_of_its_business(line: Line) -> None:
    holding = Hold(line, we_called=True, log=structlog.get_logger())
    holding.refused(PENDING)
    await settle()
    assert line.asked == []
