"""The tools of the clinic: patients and appointments in one SQLite file.

Each tool is `async def name(arguments, context) -> result`. A result is a dict with a "status", and
with texts that are spoken as they stand. Replace the SQL by your own system's interface and keep
the statuses, and clinic.toml need not change.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing, contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from services.common.tools import ToolContext

    Work = Callable[[sqlite3.Connection, dict[str, Any], date], dict[str, Any]]

Result = dict[str, Any]

DATABASE = "clinic.sqlite3"
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OPEN_DAYS = WEEKDAYS[:5]
HOURS = ("nine", "ten", "eleven", "two", "three", "four")
TIMES = tuple(
    f"{hour} {minutes}".strip()
    for hour in HOURS
    for minutes in ("", "fifteen", "thirty", "forty five")
)
PATIENTS = (
    ("1234", "Mary Brown"),
    ("2718", "Peter Miller"),
    ("4271", "Susan Clark"),
    ("5050", "John Baker"),
    ("8864", "Linda Green"),
)
_ALTERNATIVES = 3
# Shorter than the tools' timeout, so that a busy database has an answer of its own.
_LOCK_WAIT_S = 2.0
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS patients (
        number TEXT PRIMARY KEY,
        name TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS appointments (
        patient_number TEXT NOT NULL REFERENCES patients (number),
        day TEXT NOT NULL,   -- ISO date
        time TEXT NOT NULL,  -- one of TIMES
        UNIQUE (day, time)
    ) STRICT""",
    """CREATE INDEX IF NOT EXISTS appointments_by_patient ON appointments (patient_number, day)""",
    """CREATE TABLE IF NOT EXISTS writes_done (
        idempotency_key TEXT PRIMARY KEY,
        result TEXT NOT NULL
    ) STRICT""",
)


async def check_patient(arguments: Result, context: ToolContext) -> Result:
    """Whether the number is a patient's: ok {name}, or not_found."""
    return await asyncio.to_thread(_read, context, _check_patient, arguments)


async def find_appointment(arguments: Result, context: ToolContext) -> Result:
    """The patient's next appointment: ok {when}, or none."""
    return await asyncio.to_thread(_read, context, _find, arguments)


async def book_appointment(arguments: Result, context: ToolContext) -> Result:
    """ok {when}, unavailable {when, alternatives}, full, closed, has_appointment {when}."""
    return await asyncio.to_thread(_write, context, _book, arguments)


async def move_appointment(arguments: Result, context: ToolContext) -> Result:
    """ok {when}, unavailable {when, alternatives}, full, closed, none."""
    return await asyncio.to_thread(_write, context, _move, arguments)


async def cancel_appointment(arguments: Result, context: ToolContext) -> Result:
    """ok {when}, or none."""
    return await asyncio.to_thread(_write, context, _cancel, arguments)


# What each tool does, inside one transaction. `today` is the clinic's date.


def _check_patient(database: sqlite3.Connection, arguments: Result, today: date) -> Result:
    del today
    row = database.execute(
        "SELECT name FROM patients WHERE number = ?", (arguments["patient_number"],)
    ).fetchone()
    return {"status": "not_found"} if row is None else {"status": "ok", "name": row[0]}


def _find(database: sqlite3.Connection, arguments: Result, today: date) -> Result:
    found = _appointment(database, arguments["patient_number"], today)
    return {"status": "none"} if found is None else {"status": "ok", "when": _spoken(*found)}


def _book(database: sqlite3.Connection, arguments: Result, today: date) -> Result:
    patient = arguments["patient_number"]
    existing = _appointment(database, patient, today)
    if existing is not None:
        return {"status": "has_appointment", "when": _spoken(*existing)}
    day = resolve_day(arguments["day"], today)
    refused = _refuse(database, day, arguments["time"])
    if refused is not None:
        return refused
    database.execute(
        "INSERT INTO appointments (patient_number, day, time) VALUES (?, ?, ?)",
        (patient, day.isoformat(), arguments["time"]),
    )
    return {"status": "ok", "when": _spoken(day, arguments["time"])}


def _move(database: sqlite3.Connection, arguments: Result, today: date) -> Result:
    patient = arguments["patient_number"]
    existing = _appointment(database, patient, today)
    if existing is None:
        return {"status": "none"}
    day = resolve_day(arguments["day"], today)
    if (day, arguments["time"]) != existing:
        refused = _refuse(database, day, arguments["time"])
        if refused is not None:
            return refused
    database.execute(
        "UPDATE appointments SET day = ?, time = ?"
        " WHERE patient_number = ? AND day = ? AND time = ?",
        (day.isoformat(), arguments["time"], patient, existing[0].isoformat(), existing[1]),
    )
    return {"status": "ok", "when": _spoken(day, arguments["time"])}


def _cancel(database: sqlite3.Connection, arguments: Result, today: date) -> Result:
    existing = _appointment(database, arguments["patient_number"], today)
    if existing is None:
        return {"status": "none"}
    database.execute(
        "DELETE FROM appointments WHERE patient_number = ? AND day = ? AND time = ?",
        (arguments["patient_number"], existing[0].isoformat(), existing[1]),
    )
    return {"status": "ok", "when": _spoken(*existing)}


# Days and times.


def resolve_day(said: str, today: date) -> date:
    """The date that a caller means: "tomorrow", or the next such weekday after today."""
    if said == "tomorrow":
        return today + timedelta(days=1)
    ahead = (WEEKDAYS.index(said) - today.weekday()) % 7
    return today + timedelta(days=ahead or 7)


def _refuse(database: sqlite3.Connection, day: date, time: str) -> Result | None:
    """Why nobody can come then, or None when the time is free."""
    weekday = WEEKDAYS[day.weekday()]
    if weekday not in OPEN_DAYS:
        return {"status": "closed", "when": f"on {weekday}"}
    rows = database.execute("SELECT time FROM appointments WHERE day = ?", (day.isoformat(),))
    taken = {row[0] for row in rows}
    free = [item for item in TIMES if item not in taken]
    if time in free:
        return None
    if not free:
        return {"status": "full", "when": f"on {weekday}"}
    wanted = TIMES.index(time) if time in TIMES else 0
    nearest = sorted(free, key=lambda item: abs(TIMES.index(item) - wanted))[:_ALTERNATIVES]
    return {
        "status": "unavailable",
        "when": _spoken(day, time),
        "alternatives": _either(sorted(nearest, key=TIMES.index)),
    }


def _spoken(day: date, time: str) -> str:
    return f"on {WEEKDAYS[day.weekday()]} at {time}"


def _either(times: list[str]) -> str:
    *first, last = times
    return f"{', '.join(first)} or {last}" if first else last


# The database.


def _appointment(
    database: sqlite3.Connection, patient: str, today: date
) -> tuple[date, str] | None:
    """The patient's appointment from today on."""
    row = database.execute(
        "SELECT day, time FROM appointments"
        " WHERE patient_number = ? AND day >= ? ORDER BY day LIMIT 1",
        (patient, today.isoformat()),
    ).fetchone()
    return None if row is None else (date.fromisoformat(row[0]), row[1])


def _read(context: ToolContext, work: Work, arguments: Result) -> Result:
    try:
        with _transaction(context.data_dir, "BEGIN") as database:
            return work(database, arguments, _today(context))
    except sqlite3.OperationalError as error:
        return {"status": "error", "message": f"{DATABASE}: {error}"}


def _write(context: ToolContext, work: Work, arguments: Result) -> Result:
    """Do the work once per idempotency key; a repetition gets the first result."""
    try:
        with _transaction(context.data_dir, "BEGIN IMMEDIATE") as database:
            row = database.execute(
                "SELECT result FROM writes_done WHERE idempotency_key = ?",
                (context.idempotency_key,),
            ).fetchone()
            if row is not None:
                return dict(json.loads(row[0]))
            result = work(database, arguments, _today(context))
            if result["status"] == "ok":
                database.execute(
                    "INSERT INTO writes_done (idempotency_key, result) VALUES (?, ?)",
                    (context.idempotency_key, json.dumps(result)),
                )
            return result
    except sqlite3.OperationalError as error:
        return {"status": "error", "message": f"{DATABASE}: {error}"}


@contextmanager
def _transaction(data_dir: Path, begin: str) -> Iterator[sqlite3.Connection]:
    """The database inside one transaction; everything or nothing is kept."""
    path = data_dir / DATABASE
    with closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)) as database:
        database.execute("PRAGMA foreign_keys = ON")
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'patients'").fetchone():
            with _all_or_nothing(database, "BEGIN IMMEDIATE"):
                _create(database)
        with _all_or_nothing(database, begin):
            yield database


@contextmanager
def _all_or_nothing(database: sqlite3.Connection, begin: str) -> Iterator[None]:
    database.execute(begin)
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _create(database: sqlite3.Connection) -> None:
    """The tables, with a few patients to try it with."""
    for statement in _SCHEMA:
        database.execute(statement)
    database.executemany("INSERT OR IGNORE INTO patients VALUES (?, ?)", PATIENTS)


def _today(context: ToolContext) -> date:
    return datetime.fromtimestamp(context.now_wall_ms / 1000).astimezone().date()
