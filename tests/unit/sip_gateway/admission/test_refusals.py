"""One line for a refusal, one for a flood."""

from __future__ import annotations

import pytest
import structlog
from pydantic import ValidationError

from services.common.clock import ManualClock
from sip_gateway.admission.config import AdmissionConfig
from sip_gateway.admission.house import WaitingRoom
from sip_gateway.admission.refusals import ADVICE, MISSING, RefusalLog


def refuse(log: RefusalLog, times: int = 1, *, source: str = "192.0.2.1") -> None:
    for _ in range(times):
        log.refused(reason="full", sip_status=503, source=source, missing="every line is in use")


def test_each_line_says_what_was_missing_and_what_to_do() -> None:
    with structlog.testing.capture_logs() as lines:
        refuse(RefusalLog(ManualClock()))
    assert [line["missing"] for line in lines] == ["every line is in use"]
    assert "landline up --calls" in lines[0]["what_to_do"]
    assert set(MISSING) <= set(ADVICE)


def test_a_flood_is_three_lines_and_a_sum_a_minute() -> None:
    clock = ManualClock()
    log = RefusalLog(clock)
    with structlog.testing.capture_logs() as lines:
        refuse(log, 500)
        refuse(log, source="198.51.100.7")
        clock.advance(60_001)
        refuse(log, 2)
        log.sum_up(everything=True)
    assert [line["event"] for line in lines] == [
        *["call_refused"] * 4,
        "calls_refused_in_series",
        *["call_refused"] * 2,
    ]
    assert (lines[4]["calls"], lines[4]["not_logged"]) == (500, 497)


def test_a_thousand_sources_take_neither_memory_nor_log() -> None:
    log = RefusalLog(ManualClock())
    with structlog.testing.capture_logs() as lines:
        for number in range(1_000):
            refuse(log, source=f"10.0.{number // 256}.{number % 256}")
        log.sum_up(everything=True)
    assert len(lines) < 300
    assert lines[-1]["source"] == "many"


def test_the_waiting_room_keeps_its_order() -> None:
    room = WaitingRoom(2)
    first, second = room.enter(), room.enter()
    assert room.enter() is None
    assert (room.position(first), room.position(second)) == (1, 2)
    room.leave(first)
    assert room.position(second) == 1
    room.leave(second)
    assert not room.occupied


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"when_full": "human"}, "whose number"),
        ({"human": "reception"}, "SIP URI"),
        ({"queue_length": 0}, "greater"),
        ({"when_full": "maybe"}, "unavailable"),
    ],
)
def test_contradictions_are_named(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AdmissionConfig.model_validate(settings)
