"""`landline`: run the stack, place calls, look at what happened, verify the record.

Each command imports what it needs when it runs, so that the small ones stay quick.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.audit.commands import app as audit
from services.common import config, logging
from services.common.errors import ConfigError, LandlineError
from services.common.process import EXIT_CONFIG, Stop
from services.model_store.commands import app as models
from services.stack import state_path

if TYPE_CHECKING:
    from services.audit.records import Event

app = typer.Typer(
    help="Phone voice agents that run wholly on your own machines.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(audit, name="audit")
app.add_typer(models, name="models")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The landline.toml to use.", show_default=True)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key of the file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DEFAULT_CONFIG = Path("landline.toml")
EXAMPLES = Path(__file__).parent / "agent" / "examples"
console = Console()
errors = Console(stderr=True)


def main() -> None:
    """Entry point: plain errors instead of tracebacks for what a person can mend."""
    try:
        app()
    except ConfigError as error:
        errors.print(Text.assemble(("configuration: ", "red"), str(error)))
        sys.exit(EXIT_CONFIG)
    except LandlineError as error:
        errors.print(Text.assemble(("error: ", "red"), str(error)))
        sys.exit(1)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path(),
) -> None:
    """Write a landline.toml and an example agent to start from.

    Example: landline init my-clinic && cd my-clinic && landline up
    """
    console.print(f"wrote {write_example(folder)} and its agent")
    console.print("Next: landline up")


def write_example(folder: Path) -> Path:
    """Write the example configuration and its clinic; the path of landline.toml."""
    target = folder / DEFAULT_CONFIG
    if target.exists():
        raise LandlineError(f"{target} is there already; nothing was written")
    clinic = folder / "agents" / "clinic"
    shutil.copytree(EXAMPLES / "clinic", clinic, ignore=shutil.ignore_patterns("__*"))
    shutil.copy(EXAMPLES / DEFAULT_CONFIG, target)
    return target


@app.command()
def up(
    config_path: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    calls: Annotated[
        int | None, typer.Option(min=1, help="How many calls at a time; overrides sip.calls.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run everything on this machine until Ctrl-C, which lets live calls finish; twice ends them.

    Example: landline up --calls 40
    """
    overrides = list(overrides or ())
    if calls is not None:
        overrides.append(f"sip.calls={calls}")
    file = config.load(config_path, overrides)
    logging.configure("up", level=file.shared.log_level)
    asyncio.run(_up(file, tuple(overrides), as_json=as_json))


async def _up(file: config.ConfigFile, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Run the stack until a first signal; a second one, or one while it starts, ends it at once."""
    stop, started = Stop(), asyncio.Event()
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(_run_stack(file, overrides, stop, started, as_json=as_json))

    def on_signal() -> None:
        stop.ask()
        if not started.is_set():
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        await running
    except asyncio.CancelledError:
        errors.print("      up  stopped while starting", highlight=False)


async def _run_stack(
    file: config.ConfigFile,
    overrides: tuple[str, ...],
    stop: Stop,
    started: asyncio.Event,
    *,
    as_json: bool,
) -> None:
    from services.stack import Stack

    def show(name: str, what: str) -> None:
        errors.print(f"{name:>8}  {what}", highlight=False, markup=False)

    async with Stack(file, overrides, show) as stack:
        started.set()
        if as_json:
            parts = {
                name: {"address": str(part.address), "pid": part.pid}
                for name, part in stack.running.items()
            }
            print(json.dumps({"parts": parts, "logs": str(stack.logs)}), flush=True)
        else:
            sip = stack.running["gateway"].address
            console.print(f"Ready. Dial sip:agent@{sip}, or: landline call sip:agent@{sip}")
            console.print(
                f"Logs: {stack.logs}. Ctrl-C stops everything once live calls have ended."
            )
        await stop.wait()
        show("up", "draining: live calls may finish; Ctrl-C again ends them now")
        await stack.drain(stop.now)
        show("up", "stopping")


@app.command()
def call(
    uri: Annotated[
        str | None, typer.Argument(help="SIP URI; left out: the stack that runs here.")
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option("--step", help='What to do in turn: "text", "@FILE.wav" or "#4271".'),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write a stereo WAV: you left, the agent right.")
    ] = None,
    voice: Annotated[str, typer.Option(help="Voice of what you type.")] = "",
    config_path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Call from the terminal: type, play a WAV, press keys, interrupt; see what was understood.

    Example: landline call --step "when are you open" --record answer.wav
    """
    from services.audit.reader import journal_path
    from services.eval import terminal
    from services.stack import address_of

    file = config.load(config_path) if uri is None or config_path.exists() else None
    journal = journal_path(file.shared.data_dir) if file else None
    running = file is not None and state_path(file).exists()
    if uri is None and file is not None:
        uri = f"sip:agent@{address_of(file, 'gateway')}"
    settings = terminal.TerminalCall(
        uri=uri or "",
        steps=tuple(steps or ()),
        record=record,
        tts=address_of(file, "tts") if file and running else None,
        tls=file.tls() if file else None,
        journal=journal if journal and journal.exists() else None,
        voice=voice,
    )
    asyncio.run(terminal.run(settings, _show))


@app.command()
def dial(
    number: Annotated[str, typer.Argument(help="Whom to call; [sip.dialling] must allow it.")],
    agent: Annotated[str, typer.Option(help="Who talks; left out: the trunk's agent.")] = "",
    caller_id: Annotated[str, typer.Option(help="One of our own numbers to show.")] = "",
    trunks: Annotated[
        list[str] | None, typer.Option("--trunk", help="Trunks to try, in this order.")
    ] = None,
    ring_s: Annotated[int, typer.Option(help="How long to let it ring; 0: as configured.")] = 0,
    config_path: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the running gateway call a number and an agent talk to who answers. Ctrl-C hangs up.

    Exit code 0: somebody answered. 1: nobody did.

    Example: landline dial +4930901820 --agent reminder
    """
    from landline.gateway.v1 import gateway_pb2

    from services import dial as dialling
    from sip_gateway.config import SipConfig

    file = config.load(config_path, overrides or ())
    listen = file.section("sip", SipConfig).outbound.listen
    if listen is None:
        raise ConfigError(f"{file.path}: calls are not placed: there is no [sip.outbound] listen")
    request = gateway_pb2.DialRequest(
        number=number, agent=agent, caller_id=caller_id, trunks=trunks or (), ring_s=ring_s
    )

    def tell(step: dialling.Step) -> None:
        if as_json:
            print(json.dumps(dataclasses.asdict(step)), flush=True)
            return
        facts = (step.trunk, str(step.sip_status or ""), step.result, step.reason)
        _show(step.state, " ".join(fact for fact in facts if fact))

    if not asyncio.run(dialling.dial(listen, file.tls(), request, tell)):
        raise typer.Exit(1)


@app.command()
def doctor(
    trunk: Annotated[
        str | None, typer.Argument(help="Name of a trunk; left out: all, one after the other.")
    ] = None,
    number: Annotated[
        str,
        typer.Option(
            help="What to dial: a number that leads back to this trunk, or an echo test. "
            "Left out: the trunk's own username."
        ),
    ] = "",
    transfer_to: Annotated[
        str, typer.Option(help="Where REFER points to; left out: the number.")
    ] = "",
    show_ladder: Annotated[
        bool, typer.Option("--ladder", help="Draw the SIP messages, without secrets.")
    ] = False,
    config_path: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a trunk with a real registration and a real call, check by check.

    Run it while Landline is stopped. Exit code 0: nothing failed. 1: something did.

    Example: landline doctor pbx --number 200 --ladder
    """
    from sip_gateway.config import SipConfig
    from sip_gateway.doctor.examination import chosen_trunks, examine_trunk
    from sip_gateway.doctor.findings import Status, worst
    from sip_gateway.doctor.ladder import ladder
    from sip_gateway.doctor.report import line, report, summary

    file = config.load(config_path, overrides or ())
    logging.configure("doctor", level="ERROR")
    settings = file.section("sip", SipConfig)
    reports = []
    failed = False
    for chosen in chosen_trunks(settings, trunk):
        if not as_json:
            console.print(f"trunk {chosen.name}", style="bold")
        findings, messages = asyncio.run(
            examine_trunk(
                settings,
                chosen,
                number=number,
                transfer_to=transfer_to,
                show=(lambda _finding: None)
                if as_json
                else lambda f: console.print(line(f), soft_wrap=True),
            )
        )
        failed = failed or worst(findings) is Status.FAIL
        reports.append(report(chosen.name, findings, messages))
        if not as_json:
            console.print(summary(findings))
        if show_ladder and not as_json:
            console.print(ladder(messages), highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(reports))
    if failed:
        raise typer.Exit(1)


@app.command()
def calls(
    call_id: Annotated[
        str | None, typer.Argument(help="One call: its transcript and delays.")
    ] = None,
    config_path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """List the calls on record, or show one.

    Example: landline calls --json | jq '.[] | select(.result != "completed")'
    """
    from services.audit import reader

    path = _journal(config_path)
    if call_id is not None:
        _show_call(reader.events_of(path, call_id), call_id, as_json=as_json)
        return
    found = reader.calls(path)
    if as_json:
        print(json.dumps([dataclasses.asdict(item) for item in found]))
        return
    table = Table(
        "call", "started (UTC)", "caller", "agent", "seconds", "turns", "result", "reason"
    )
    for item in found:
        started = datetime.fromtimestamp(item.started_unix_ms / 1000, UTC)
        table.add_row(
            item.call_id,
            f"{started:%Y-%m-%d %H:%M:%S}",
            item.caller,
            item.agent,
            f"{item.duration_ms / 1000:.1f}",
            str(item.turns),
            item.result,
            item.reason,
        )
    console.print(table)


def _show_call(events: list[Event], call_id: str, *, as_json: bool) -> None:
    from services.audit.transcripts import readable
    from services.eval.watch import JournalEvent, describe

    if not events:
        raise LandlineError(f"there is no call {call_id} on record")
    if as_json:
        print(json.dumps([dataclasses.asdict(event) for event in events]))
        return
    for event in events:
        line = describe(JournalEvent(event.call_id, event.type, event.fields))
        if line is not None:
            console.print(f"{readable(event)[:8]}", style="dim", end="")
            _show(*line)


def _journal(config_path: Path) -> Path:
    from services.audit.reader import journal_path

    path = journal_path(config.load(config_path).shared.data_dir)
    if not path.exists():
        raise LandlineError(f"there is no journal at {path} yet")
    return path


def _show(who: str, what: str) -> None:
    console.print(Text.assemble((f"{who:>8}  ", _COLOURS.get(who, "dim")), what))


_COLOURS = {"you": "bold", "agent": "cyan", "heard": "green", "trouble": "red", "delay": "dim"}


if __name__ == "__main__":
    main()
