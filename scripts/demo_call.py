"""Starts the whole stack on loopback and has a synthetic caller phone the clinic's reception.

The caller is a real SIP phone that plays recorded WAVs over G.711. Both sides are shown as they
speak, with the delay that the caller notices. At the end: where the recording, the transcript and
the journal lie, whether the journal verifies, and whether the appointment is in the database.

Exit code 0 when everything that the script of the call expects has happened, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from services.audit.reader import journal_path
from services.cli import write_example
from services.common import config, logging
from services.common.clock import SystemClock
from services.common.errors import LandlineError
from services.eval.caller import Caller, NoAnswerError
from services.eval.watch import JournalEvent, describe, follow
from services.stack import Stack, address_of
from sip_gateway.softphone import Softphone, read_wav

ROOT = Path(__file__).resolve().parent.parent
VOICES = ROOT / "scripts" / "caller"
MARKER = ".landline-demo"
COLOURS = {"caller": "bold yellow", "agent": "cyan", "heard": "green", "trouble": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that the caller does: speak a WAV or press keys, perhaps while the agent talks."""

    wav: str = ""
    text: str = ""
    keys: str = ""
    interrupt_after_s: float | None = None


SCRIPT = (
    Step(wav="hours", text="what are your opening hours"),
    Step(wav="book", text="i would like to book an appointment on tuesday at ten"),
    Step(keys="4271"),
    Step(
        wav="correct",
        text="no make it half past ten",
        interrupt_after_s=1.2,
    ),
    Step(wav="bicycles", text="do you repair old bicycles in the winter"),
    Step(wav="yes", text="yes please"),
    Step(wav="goodbye", text="that is all thank you"),
)


@dataclass(slots=True)
class Turn:
    """One turn as the caller noticed it."""

    said: str
    delay_ms: int | None = None
    measured: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Protocol:
    """All that the demo saw."""

    events: list[JournalEvent] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    cut_after_ms: int | None = None
    problems: list[str] = field(default_factory=list)

    def of(self, type_: str) -> list[JournalEvent]:
        return [event for event in self.events if event.type == type_]


class Screen:
    """The terminal: who said what, with seconds since the call began."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._start = time.monotonic()

    def start_clock(self) -> None:
        self._start = time.monotonic()

    def line(self, who: str, what: str) -> None:
        seconds = time.monotonic() - self._start
        style = COLOURS.get(who, "dim")
        self._console.print(f"{seconds:6.1f}s  [{style}]{who:>8}[/]  ", end="")
        self._console.print(what, style=style if who != "delay" else "dim", markup=False)

    def title(self, text: str) -> None:
        self._console.rule(text)

    def table(self, table: Table) -> None:
        self._console.print(table)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def prepare(folder: Path) -> Path:
    """A fresh folder with the example configuration; the path of its landline.toml.

    Only a folder that an earlier demo made is emptied, and only when nothing runs from it.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise LandlineError(f"{folder} is not empty and not the demo's: name another --folder")
        if running_from(folder):
            raise LandlineError(f"a demo runs from {folder}: stop it, or name another --folder")
        shutil.rmtree(folder)
    path = write_example(folder)
    (folder / MARKER).touch()
    return path


def running_from(folder: Path) -> bool:
    """Whether a stack runs from this folder."""
    try:
        address_of(config.load(folder / "landline.toml"), "gateway")
    except LandlineError:
        return False
    return True


async def phone(uri: str, screen: Screen, protocol: Protocol, watcher: asyncio.Task[None]) -> None:
    """Place the call and act the script."""
    async with Softphone() as softphone:
        screen.line("caller", f"dials {uri}")
        call = await softphone.dial(uri)
        screen.line("gateway", f"{call.sip_status} OK, {call.codec}")
        caller = Caller(call, SystemClock())
        for step in SCRIPT:
            await act(step, caller, screen, protocol)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15.0):
                await call.ended()
        if call.state != "ended":
            protocol.problems.append("the agent did not hang up after the goodbye")
    async with asyncio.timeout(10.0):
        await watcher


async def act(step: Step, caller: Caller, screen: Screen, protocol: Protocol) -> None:
    """Wait for the right moment, speak or press keys, and wait for the agent to begin."""
    if step.interrupt_after_s is None:
        await caller.until_quiet()
    else:
        await asyncio.sleep(step.interrupt_after_s)
    turn = Turn(said=step.text or f"keys {step.keys}")
    protocol.turns.append(turn)
    screen.line("caller", turn.said + (" — (interrupting)" if step.interrupt_after_s else ""))
    if step.keys:
        said = await caller.key(step.keys)
    else:
        pcm = await asyncio.to_thread(read_wav, VOICES / f"{step.wav}.wav")
        began_ms = SystemClock().now_ms()
        speaking = asyncio.create_task(caller.say(pcm))
        if step.interrupt_after_s is not None:
            silent_ms = await caller.until_silenced()
            protocol.cut_after_ms = round(silent_ms - began_ms)
            screen.line("caller", f"agent fell silent {protocol.cut_after_ms} ms after I began")
        said = await speaking
    voice_ms = await caller.until_voice(after_ms=said.ended_ms)
    turn.delay_ms = round(voice_ms - said.ended_ms)


async def watch(journal: Path, screen: Screen, protocol: Protocol) -> None:
    """Show the stack's own view until the call's end is on record."""
    async for event in follow(journal):
        protocol.events.append(event)
        if (line := describe(event)) is not None:
            screen.line(*line)
        if event.type == "call_ended":
            return


def report(data_dir: Path, protocol: Protocol, screen: Screen) -> bool:
    """Print what is left of the call, and say whether it is what was expected."""
    screen.title("How long the caller waited, and for what (ms)")
    screen.table(delay_table(protocol))
    screen.title("What is left of the call")
    checks = list(expectations(data_dir, protocol))
    for passed, what in checks:
        screen.say(f"  {'✓' if passed else '✗'} {what}")
    return all(passed for passed, _ in checks)


def delay_table(protocol: Protocol) -> Table:
    table = Table("#", Column("caller", no_wrap=True, max_width=28))
    for title in ("waited", "endpoint", "stt", "llm", "tts", "own"):
        table.add_column(title, no_wrap=True, justify="right", min_width=len(title))
    measured = {event.fields["turn"]: event.fields for event in protocol.of("turn_measured")}
    for number, turn in enumerate(protocol.turns, start=1):
        row = measured.get(number, {})
        keys = ("endpointing_ms", "stt_ms", "llm_ms", "tts_ms", "framework_ms")
        cells = [f"{row[key]}" if key in row else "" for key in keys]
        delay = "" if turn.delay_ms is None else f"{turn.delay_ms}"
        table.add_row(str(number), turn.said, delay, *cells)
    return table


def expectations(data_dir: Path, protocol: Protocol) -> list[tuple[bool, str]]:
    """Each thing that must have happened, and whether it did."""
    from services.audit.verify import verify_file

    ended = protocol.of("call_ended")
    fields = ended[0].fields if ended else {}
    recording = Path(fields.get("recording_path", ""))
    call_id = ended[0].call_id if ended else ""
    transcript = data_dir / "transcripts" / f"{call_id}.txt"
    journal = journal_path(data_dir)
    verdict = verify_file(journal)
    booked = appointment(data_dir)
    rejected = [event for event in protocol.of("caller_said") if event.fields["rejected"]]
    cut = [event for event in protocol.of("agent_said") if not event.fields["complete"]]
    return [
        (not protocol.problems, "no trouble" if not protocol.problems else str(protocol.problems)),
        (len(protocol.of("caller_said")) >= 6, f"{len(protocol.of('caller_said'))} turns"),
        (bool(rejected), "what is outside the grammar was rejected, not guessed"),
        (bool(cut), f"the interruption cut the agent ({protocol.cut_after_ms} ms)"),
        (recording.is_file(), f"recording   {recording}"),
        (transcript.is_file(), f"transcript  {transcript}"),
        (verdict.ok, f"journal     {journal} ({verdict.records} records, chain verified)"),
        (booked is not None, f"appointment {booked}"),
    ]


def appointment(data_dir: Path) -> str | None:
    """The appointment in the clinic's database, if it is there."""
    path = data_dir / "clinic.sqlite3"
    if not path.exists():
        return None
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT patient_number, day, time FROM appointments").fetchall()
    return " ".join(str(value) for value in rows[0]) if rows else None


async def main(arguments: argparse.Namespace) -> int:
    screen = Screen()
    path = prepare(arguments.folder.resolve())
    overrides = ("sip.listen=127.0.0.1:0", *arguments.set)
    file = config.load(path, overrides)
    logging.configure("demo", level="warning")
    protocol = Protocol()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    screen.title("Starting every service on this machine")
    async with Stack(file, overrides, screen.line) as stack:
        uri = f"sip:reception@{stack.running['gateway'].address}"
        journal = journal_path(file.shared.data_dir)
        screen.title("The call")
        screen.start_clock()
        watcher = asyncio.create_task(watch(journal, screen, protocol))
        calling = asyncio.create_task(phone(uri, screen, protocol, watcher))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([calling, stopping], return_when=asyncio.FIRST_COMPLETED)
        try:
            if not calling.done():
                return 130
            calling.result()
        except (LandlineError, NoAnswerError, TimeoutError) as error:
            protocol.problems.append(str(error) or type(error).__name__)
        finally:
            for task in (calling, watcher):
                task.cancel()
        passed = report(file.shared.data_dir, protocol, screen)
        screen.say("\nThe demo passed." if passed else "\nThe demo FAILED.")
        if arguments.keep:
            screen.say(f"Still running. Dial {uri} over UDP or TCP, or in another terminal:")
            screen.say(f"  .venv/bin/landline call -c {path}")
            screen.say("Ctrl-C stops everything.")
            await stopping
        stopping.cancel()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([vars_of(turn) for turn in protocol.turns]))
    return 0 if passed else 1


def vars_of(turn: Turn) -> dict[str, object]:
    return {"said": turn.said, "delay_ms": turn.delay_ms}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running afterwards")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="as landline up has it",
    )
    parser.add_argument("--json", type=Path, help="write the turns and their delays to this file")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "var" / "demo", help="where the demo keeps its data"
    )
    try:
        sys.exit(asyncio.run(main(parser.parse_args())))
    except LandlineError as error:
        sys.exit(f"demo: {error}")
