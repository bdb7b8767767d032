"""The commands of the README and the guides, run as a newcomer would run them."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANDLINE = Path(sys.executable).parent / "landline"


async def run(folder: Path, *command: str | Path, expect: int = 0) -> str:
    """Standard output of a command that ends with this status."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    async with asyncio.timeout(170):
        output, errors = await process.communicate()
    shown = output.decode() + errors.decode()
    if process.returncode != expect:
        pytest.fail(f"{command} ended with {process.returncode}:\n{shown}")
    return shown


@asynccontextmanager
async def up(folder: Path) -> AsyncIterator[None]:
    """`landline up` on a free port, from its first line to its clean stop."""
    process = await asyncio.create_subprocess_exec(
        *(str(LANDLINE), "up", "--set", "sip.listen=127.0.0.1:0"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert (await process.stdout.readline()).startswith(b"Ready. Dial sip:agent@127.0.0.1:")
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            status = await process.wait()
    assert status == 0


async def test_from_init_to_a_verified_call(tmp_path: Path) -> None:
    await run(tmp_path, LANDLINE, "init", "my-clinic")
    folder = tmp_path / "my-clinic"
    assert "nothing was written" in await run(tmp_path, LANDLINE, "init", "my-clinic", expect=1)
    assert "nothing runs from" in await run(folder, LANDLINE, "call", expect=1)
    async with up(folder):
        hours = ROOT / "scripts" / "caller" / "hours.wav"
        steps = ("--step", f"@{hours}", "--step", "#5", "--record", "answer.wav")
        shown = await run(folder, LANDLINE, "call", *steps)
        assert "what are your opening hours  (" in shown
        assert "from nine to twelve" in shown
        assert "[keypad] 5" in shown
        with wave.open(str(folder / "answer.wav")) as file:
            assert file.getnchannels() == 2
            assert file.getnframes() > 10 * file.getframerate()
    (call,) = json.loads(await run(folder, LANDLINE, "calls", "--json"))
    assert call["result"] == "completed"
    assert call["call_id"] in await run(folder, LANDLINE, "calls")
    assert "Maple Street" in await run(folder, LANDLINE, "calls", call["call_id"])
    assert "unbroken" in await run(folder, LANDLINE, "audit", "verify")

    journal = folder / "var" / "audit" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"opening hours", b"opening hats", 1))
    assert "BROKEN at line" in await run(folder, LANDLINE, "audit", "verify", expect=3)
    verdict = json.loads(await run(folder, LANDLINE, "audit", "verify", "--json", expect=3))
    assert verdict["ok"] is False


async def test_what_is_typed_is_spoken_and_recognised(tmp_path: Path) -> None:
    await run(tmp_path, LANDLINE, "init")
    async with up(tmp_path):
        step = ("--voice", "rms", "--step", "what are your opening hours")
        shown = await run(tmp_path, LANDLINE, "call", *step)
    assert "what are your opening hours  (" in shown


async def test_a_wrong_configuration_is_explained(tmp_path: Path) -> None:
    await run(tmp_path, LANDLINE, "init")
    shown = await run(tmp_path, LANDLINE, "up", "--set", "sip.listn=x", expect=78)
    assert "listn: unknown key; did you mean 'listen'?" in shown
    assert "cannot read" in await run(tmp_path, LANDLINE, "up", "-c", "none.toml", expect=78)


async def test_the_demo_passes(tmp_path: Path) -> None:
    """The main job: a whole call, from the greeting to the appointment in the database."""
    folder = tmp_path / "demo"
    turns = tmp_path / "turns.json"
    shown = await run(ROOT, "scripts/demo", "--folder", folder, "--json", turns)
    assert "The demo passed." in shown
    assert len(json.loads(turns.read_text())) == 7
    with sqlite3.connect(folder / "var" / "clinic.sqlite3") as database:
        rows = database.execute("SELECT patient_number, time FROM appointments").fetchall()
    database.close()
    assert rows == [("4271", "ten thirty")]
