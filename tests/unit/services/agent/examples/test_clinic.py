from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pocketsphinx
import pytest

from services.agent.examples.clinic import clinic_tools as tools
from services.common import phrases
from services.common.agent_file import phrase_sets
from services.common.tools import ToolContext
from tests.fakes.clinic_caller import SATURDAY_MS, clinic


def context(data_dir: Path, key: str) -> ToolContext:
    return ToolContext(
        call_id="call", data_dir=data_dir, idempotency_key=key, now_wall_ms=SATURDAY_MS
    )


def wish(patient: str = "4271", day: str = "tuesday", time: str = "ten") -> dict[str, Any]:
    return {"patient_number": patient, "day": day, "time": time}


def rows(data_dir: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(data_dir / tools.DATABASE)) as database:
        return database.execute(
            "SELECT patient_number, day, time FROM appointments ORDER BY patient_number"
        ).fetchall()


def test_every_word_a_caller_may_say_is_in_the_recognisers_dictionary() -> None:
    path = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    known = {line.split()[0] for line in path.read_text().splitlines() if line.strip()}
    said = {
        word
        for phrase_set in phrase_sets(clinic())
        for phrase in phrase_set.phrases
        for word in phrases.words(phrases.parse(phrase))
    }
    assert len(said) > 80
    assert said <= known


def test_the_times_that_can_be_said_are_those_that_can_be_booked() -> None:
    assert tuple(clinic().slots["time"].values) == tools.TIMES


def test_the_statuses_of_the_tools_have_answers() -> None:
    for name in ("book", "move"):
        intent = clinic().intents[name]
        assert {"ok", "unavailable", "full", "closed", "error"} <= set(intent.replies)


@pytest.mark.parametrize(
    ("said", "today", "meant"),
    [
        ("tomorrow", date(2026, 11, 21), date(2026, 11, 22)),
        ("monday", date(2026, 11, 21), date(2026, 11, 23)),
        ("monday", date(2026, 11, 23), date(2026, 11, 30)),
        ("friday", date(2026, 12, 31), date(2027, 1, 1)),
    ],
)
def test_a_weekday_is_the_next_one_after_today(said: str, today: date, meant: date) -> None:
    assert tools.resolve_day(said, today) == meant


async def test_known_and_unknown_patients(tmp_path: Path) -> None:
    found = await tools.check_patient({"patient_number": "4271"}, context(tmp_path, "a"))
    assert found == {"status": "ok", "name": "Susan Clark"}
    unknown = await tools.check_patient({"patient_number": "0000"}, context(tmp_path, "b"))
    assert unknown == {"status": "not_found"}


async def test_book_find_move_and_cancel(tmp_path: Path) -> None:
    who = {"patient_number": "4271"}
    assert (await tools.find_appointment(who, context(tmp_path, "1")))["status"] == "none"
    assert (await tools.book_appointment(wish(), context(tmp_path, "2")))["status"] == "ok"
    assert rows(tmp_path) == [("4271", "2026-11-24", "ten")]
    again = await tools.book_appointment(wish(day="friday"), context(tmp_path, "3"))
    assert again == {"status": "has_appointment", "when": "on tuesday at ten"}
    moved = await tools.move_appointment(wish(time="two"), context(tmp_path, "4"))
    assert moved == {"status": "ok", "when": "on tuesday at two"}
    assert rows(tmp_path) == [("4271", "2026-11-24", "two")]
    gone = await tools.cancel_appointment(who, context(tmp_path, "5"))
    assert gone == {"status": "ok", "when": "on tuesday at two"}
    assert rows(tmp_path) == []
    assert (await tools.cancel_appointment(who, context(tmp_path, "6")))["status"] == "none"


async def test_closed_days_full_days_and_taken_times(tmp_path: Path) -> None:
    closed = await tools.book_appointment(wish(day="tomorrow"), context(tmp_path, "1"))
    assert closed == {"status": "closed", "when": "on sunday"}
    await tools.book_appointment(wish("1234"), context(tmp_path, "2"))
    taken = await tools.book_appointment(wish(), context(tmp_path, "3"))
    assert taken["status"] == "unavailable"
    assert taken["alternatives"] == "nine thirty, nine forty five or ten fifteen"
    with closing(sqlite3.connect(tmp_path / tools.DATABASE)) as database, database:
        database.executemany(
            "INSERT OR IGNORE INTO appointments VALUES ('1234', '2026-11-24', ?)",
            [(time,) for time in tools.TIMES],
        )
    full = await tools.book_appointment(wish(), context(tmp_path, "4"))
    assert full == {"status": "full", "when": "on tuesday"}


async def test_the_same_write_is_done_once(tmp_path: Path) -> None:
    first = await tools.book_appointment(wish(), context(tmp_path, "same"))
    assert first == await tools.book_appointment(wish(), context(tmp_path, "same"))
    assert len(rows(tmp_path)) == 1


async def test_of_many_who_want_one_time_at_once_one_gets_it(tmp_path: Path) -> None:
    patients = [number for number, _ in tools.PATIENTS]
    results = await asyncio.gather(
        *(tools.book_appointment(wish(who), context(tmp_path, who)) for who in patients)
    )
    statuses = sorted(result["status"] for result in results)
    assert statuses == ["ok", *["unavailable"] * (len(patients) - 1)]
    assert len(rows(tmp_path)) == 1


async def test_a_database_locked_by_another_is_an_error_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tools.check_patient({"patient_number": "4271"}, context(tmp_path, "a"))
    monkeypatch.setattr(tools, "_LOCK_WAIT_S", 0.05)
    with closing(sqlite3.connect(tmp_path / tools.DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        result = await tools.book_appointment(wish(), context(tmp_path, "b"))
        other.execute("ROLLBACK")
    assert result["status"] == "error"
    assert "locked" in result["message"]
    assert rows(tmp_path) == []
    assert (await tools.book_appointment(wish(), context(tmp_path, "b")))["status"] == "ok"


async def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = await tools.book_appointment(wish(), context(missing, "a"))
    assert result["status"] == "error"
    assert not missing.exists()
