"""`landline`: run the stack, place calls, look at what happened, verify the record.

Each command imports what it needs when it runs, so that the small ones stay quick.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from services.common import config, logging
from services.common.errors import ConfigError, LandlineError
from services.common.process import EXIT_CONFIG
from services.stack import state_path

app = typer.Typer(
    help="Phone voice agents that run wholly on your own machines.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
audit = typer.Typer(help="Check the local record of what happened.", no_args_is_help=True)
app.add_typer(audit, name="audit")

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
    target = folder / DEFAULT_CONFIG
    if target.exists():
        raise LandlineError(f"{target} is there already; nothing was written")
    agents = folder / "agents" / "clinic"
    shutil.copytree(EXAMPLES / "clinic", agents, ignore=shutil.ignore_patterns("__*"))
    shutil.copy(EXAMPLES / DEFAULT_CONFIG, target)
    console.print(f"wrote {target} and {agents}")
    console.print("Next: landline up")


@app.command()
def up(
    config_path: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run everything on this machine until Ctrl-C.

    Example: landline up --set sip.listen=0.0.0.0:5060
    """
    file = config.load(config_path, overrides or ())
    logging.configure("up", level=file.shared.log_level)
    asyncio.run(_up(file, tuple(overrides or ()), as_json=as_json))


async def _up(file: config.ConfigFile, overrides: tuple[str, ...], *, as_json: bool) -> None:
    from services.stack import Stack

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def show(name: str, what: str) -> None:
        errors.print(f"{name:>8}  {what}", highlight=False, markup=False)

    starting = asyncio.create_task(stop.wait())
    async with Stack(file, overrides, show) as stack:
        if as_json:
            parts = {
                name: {"address": str(part.address), "pid": part.pid}
                for name, part in stack.running.items()
            }
            print(json.dumps({"parts": parts, "logs": str(stack.logs)}), flush=True)
        else:
            sip = stack.running["gateway"].address
            console.print(f"Ready. Dial sip:agent@{sip}, or: landline call sip:agent@{sip}")
            console.print(f"Logs: {stack.logs}. Ctrl-C stops everything.")
        await starting
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
    from services.eval import terminal
    from services.stack import address_of

    file = config.load(config_path) if uri is None or config_path.exists() else None
    journal = file.shared.data_dir / "audit" / "journal.jsonl" if file else None
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


def _show(who: str, what: str) -> None:
    console.print(Text.assemble((f"{who:>8}  ", _COLOURS.get(who, "dim")), what))


_COLOURS = {"you": "bold", "agent": "cyan", "heard": "green", "trouble": "red", "delay": "dim"}


if __name__ == "__main__":
    main()
