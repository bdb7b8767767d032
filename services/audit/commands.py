"""`landline audit …`: check the local record of what happened, and hand out evidence of it.

Each command imports what it needs when it runs, so that the small ones stay quick.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from services.common import config
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from services.audit.layout import AuditFolder
    from services.audit.notes import VerifierKey
    from services.audit.report import Evidence, Report, Witnessed

EXIT_ERROR = 1
EXIT_TAMPERED = 3
_LONG_BYTES = 20 * 1024 * 1024
app = typer.Typer(help="Check the local record of what happened.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys of seals and checkpoints.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
console = Console()
errors = Console(stderr=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The landline.toml to use.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
LogKeyOption = Annotated[
    str | None,
    typer.Option(
        "--log-key", help="The log's verifier key (or a file with it) as noted elsewhere."
    ),
]
DEFAULT_CONFIG = Path("landline.toml")


@app.command()
def verify(
    journal: Annotated[
        Path | None,
        typer.Argument(help="One journal, or an audit folder; left out: that of landline.toml."),
    ] = None,
    config_path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    state: Annotated[
        Path | None,
        typer.Option(help="Go on where the last check ended, and remember where this one does."),
    ] = None,
    verification_key: Annotated[
        list[Path] | None, typer.Option(help="First keys of the seals, kept on another machine.")
    ] = None,
    log_key: LogKeyOption = None,
    form: Annotated[
        bool, typer.Option("--form", help="Check also that every line is canonical JSON.")
    ] = False,
    witness: Annotated[list[Path] | None, typer.Option(help="A witness's state file.")] = None,
    root: Annotated[list[str] | None, typer.Option(help="A printed root.")] = None,
) -> None:
    """Check every record, seal and checkpoint, and say what no check can find.

    Exit status 0: unbroken. 1: something cannot be read or checked. 3: tampered with or damaged.
    (2 is kept for controls that fail.)

    Example: landline audit verify --witness /mnt/witness/state.json --json
    """
    from services.audit import report as reports
    from services.audit import witness as witnesses
    from services.audit.check import Check

    witnessed = [witnesses.witnessed(path) for path in witness or ()]
    witnessed += [witnesses.printed(text) for text in root or ()]
    evidence = _evidence(journal, config_path, verification_key or (), log_key, witnessed)
    before = reports.load_check_state(state) if state else None
    with _progress(evidence, quiet=as_json or before is not None) as on_bytes:
        checking = Check(evidence, state=before, form=form, on_bytes=on_bytes)
        report = checking.run()
    if state is not None and report.ok:
        reports.save_check_state(state, checking.state())
    if as_json:
        print(json.dumps(_as_json(report)))
    else:
        _show(report)
    if report.tampered:
        raise typer.Exit(EXIT_TAMPERED)
    if not report.ok:
        raise typer.Exit(EXIT_ERROR)


@app.command()
def evidence(
    call_id: Annotated[str, typer.Argument(help="The call.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; left out: CALL.json.")
    ] = None,
    script: Annotated[
        bool, typer.Option("--script", help="Write the script that verifies it, too.")
    ] = False,
    config_path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write one call's records, with proofs, into one file that can be verified offline.

    Example: landline audit evidence 7f3a --script && python3 verify_evidence.py 7f3a.json
    """
    from services.audit import evidence as collecting
    from services.audit.segments import write_whole

    folder, settings = _folder(config_path)
    journals = [folder.journal, *(other / folder.journal.name for other in settings.also)]
    found = collecting.collect(journals, folder.log, call_id)
    target = output or Path(f"{call_id}.json")
    write_whole(target, json.dumps(found, ensure_ascii=False, indent=1).encode() + b"\n", 0o600)
    console.print(f"{target}: {len(found['records'])} records of call {call_id}")
    if script:
        source = Path(__file__).parent / "verify_evidence.py"
        copy = target.parent / source.name
        write_whole(copy, source.read_bytes())
        console.print(f"Verify it anywhere with: python3 {copy} {target}")


@app.command()
def witness(
    log: Annotated[Path, typer.Argument(help="The log's folder (data_dir/audit/log), or a copy.")],
    state: Annotated[Path, typer.Option(help="What this witness remembers. Keep it elsewhere.")],
    log_key: LogKeyOption = None,
    key: Annotated[
        Path | None, typer.Option(help="This witness's own key; made when it is not there.")
    ] = None,
    name: Annotated[str, typer.Option(help="This witness's name.")] = "witness",
    as_json: JsonOption = False,
) -> None:
    """Remember the log's newest checkpoint on another machine, and refuse one that goes back.

    Exit status 0: the log continues what was seen. 1: it cannot be read. 3: it does not.

    Example: landline audit witness /mnt/gateway/audit/log --state state.json --key witness.key
    """
    from services.audit import witness as witnesses
    from services.common.clock import SystemClock

    before = witnesses.load(state)
    try:
        after = witnesses.visit(
            log,
            before,
            log_key=_key_text(log_key),
            time_s=SystemClock().wall_ms() // 1000,
            name=name,
            key=_witness_key(key) if key else None,
        )
    except witnesses.RolledBackError as error:
        errors.print(f"{log}: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(EXIT_TAMPERED) from None
    witnesses.save(state, after)
    seen = after.checkpoint
    if as_json:
        print(json.dumps({"origin": seen.origin, "size": seen.size, "root": seen.short()}))
        return
    how = "goes on from what was seen" if before else "seen for the first time"
    console.print(f"{seen.origin}: {seen.size} records; {how}")
    console.print(f"root to print: {seen.short()}", highlight=False)
    if before is None and log_key is None:
        console.print(f"its key was believed at first sight: {after.log_key}", highlight=False)


@app.command()
def selftest(
    config_path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Attack a copy of the log in every way that is claimed to be found, and report.

    The last calls on record, or invented ones, are recorded anew in a temporary folder under keys
    of their own; the log itself is only read. Exit status 0: all found. 1: one was missed.

    Example: landline audit selftest --json
    """
    from services.audit import selftest as attacking

    sample = None
    if config_path.exists():
        folder, _ = _folder(config_path)
        sample = folder.journal if folder.journal.exists() else None
    result = attacking.run(sample)
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        _show_selftest(result)
    if not result.passed:
        raise typer.Exit(EXIT_ERROR)


@keys_app.command("show")
def keys_show(config_path: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print the log's verifier key, to be noted elsewhere, and where the seals' keys lie."""
    folder, _ = _folder(config_path)
    if not folder.verifier.exists():
        raise LandlineError(f"there are no keys in {folder.keys} yet")
    print(folder.verifier.read_text(encoding="utf-8").strip())
    if folder.verification_key.exists():
        errors.print(_HERE.format(folder.verification_key), style="yellow", highlight=False)


@keys_app.command("export")
def keys_export(
    target: Annotated[Path, typer.Argument(help="A file on another machine or a removable disk.")],
    config_path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Move the seals' verification key away from this machine.

    Example: landline audit keys export /media/usb/clinic-verification.key
    """
    from services.audit import keys
    from services.audit.segments import write_whole

    folder, _ = _folder(config_path)
    if target.exists():
        raise LandlineError(f"{target} is there already; nothing was moved")
    data = keys.read_private(folder.verification_key)
    write_whole(target, data, 0o600)
    keys.erase(folder.verification_key)
    console.print(f"moved to {target}; give it to landline audit verify --verification-key")


@keys_app.command("rotate")
def keys_rotate(config_path: ConfigOption = DEFAULT_CONFIG) -> None:
    """Begin new keys for seals and checkpoints, and put that on record.

    The stack must be stopped. What was sealed before stays verifiable with the old verification
    key; the new one lies beside the journal until it is exported.
    """
    from services.audit.rotation import rotate
    from services.common.clock import SystemClock

    folder, settings = _folder(config_path)
    if not folder.path.exists():
        raise LandlineError(f"there is no journal in {folder.path} yet")
    new = rotate(
        folder,
        writer=settings.writer,
        origin=settings.origin,
        also=settings.also,
        clock=SystemClock(),
    )
    console.print("new keys are in use. The log's verifier key, to be noted elsewhere:")
    print(new)


_HERE = (
    "{} still lies on this machine: whoever takes the machine can forge every seal. Move it away: "
    "landline audit keys export FILE"
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Settings:
    writer: str
    origin: str
    also: list[Path]


def _folder(config_path: Path) -> tuple[AuditFolder, _Settings]:
    from services.audit.config import AuditConfig
    from services.audit.layout import AuditFolder

    file = config.load(config_path)
    section = file.section("audit", AuditConfig)
    also = [file.resolve(path) for path in section.also]
    origin = section.log_name or f"landline.local/{file.shared.region}"
    return AuditFolder(file.shared.data_dir / "audit"), _Settings(section.writer, origin, also)


def _evidence(
    given: Path | None,
    config_path: Path,
    verification_keys: Sequence[Path],
    log_key: str | None,
    witnesses: Sequence[Witnessed],
) -> Evidence:
    """What to check: one journal by itself, an audit folder, or what landline.toml names."""
    from services.audit import keys
    from services.audit.layout import AuditFolder
    from services.audit.report import Evidence

    also: list[Path] = []
    if given is not None and not given.is_dir():
        if not given.exists():
            raise LandlineError(f"there is no journal at {given}")
        return Evidence(
            journals=[given], verification_keys=keys.load_verification_keys(verification_keys)
        )
    if given is not None:
        folder = AuditFolder(given)
    else:
        folder, settings = _folder(config_path)
        also = settings.also
    if not folder.journal.exists():
        raise LandlineError(f"there is no journal at {folder.journal} yet")
    own = [AuditFolder(path).verification_key for path in (folder.path, *also)]
    paths = list(verification_keys) or [path for path in own if path.exists()]
    return Evidence(
        journals=[folder.journal, *(other / folder.journal.name for other in also)],
        log=folder.log,
        log_key=folder.verifier,
        verifier=_verifier(log_key),
        seal_key=folder.seal_key,
        verification_keys=keys.load_verification_keys(paths),
        key_here=folder.verification_key if folder.verification_key.exists() else None,
        witnesses=witnesses,
    )


def _verifier(text: str | None) -> VerifierKey | None:
    from services.audit.notes import parse_verifier_key

    found = _key_text(text)
    return parse_verifier_key(found) if found else None


def _key_text(text: str | None) -> str | None:
    """A verifier key as it was given: itself, or a file that holds it."""
    if text is None or "+" in text:
        return text
    try:
        return Path(text).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise LandlineError(f"cannot read {text}: {error.strerror}") from error


def _witness_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from services.audit import keys

    if not path.exists():
        keys.save_signing_key(path, Ed25519PrivateKey.generate())
    return keys.load_signing_key(path)


@contextmanager
def _progress(evidence: Evidence, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error while a long check runs."""
    from services.audit import segments

    files = [segment.path for live in evidence.journals for segment in segments.all_of(live)]
    total = sum(path.stat().st_size for path in files)
    if quiet or total < _LONG_BYTES or not errors.is_terminal:
        yield lambda _count: None
        return
    columns = ("verifying", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("verify", total=total)
        yield lambda count: progress.advance(task, count)


def _as_json(report: Report) -> dict[str, Any]:
    """The report with the names that the terminal output speaks of."""
    data = dataclasses.asdict(report)
    data["checkpoint"] = None
    if report.checkpoint is not None:
        data["checkpoint"] = {
            "origin": report.checkpoint.origin,
            "size": report.checkpoint.size,
            "root": report.checkpoint.root.hex(),
            "short": report.checkpoint.short(),
        }
    head = report.journals[0]["head"] if report.journals else ""
    return {"ok": report.ok, "tampered": report.tampered, "head": head, **data}


def _show(report: Report) -> None:
    """The report for a person: what holds, what does not, what cannot be known."""
    from services.audit.report import Kind

    def line(text: str, style: str = "", where: Console = console) -> None:
        where.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for item in report.findings:
        colour = "yellow" if item.kind is Kind.WARNING else "red"
        word = {Kind.TAMPERED: "BROKEN", Kind.ERROR: "ERROR", Kind.WARNING: "warning"}[item.kind]
        place = f" at line {item.line}" if item.line else ""
        line(f"{item.where}: {word}{place}: {item.what}", colour, errors)
    for one in report.journals:
        how = "BROKEN after" if report.tampered else "unbroken,"
        line(f"{one['journal']}: {how} {one['records']} records; head {one['head']}")
        if one["first"]:
            when = _utc(one["retired_unix_ms"])
            line(f"  those before record {one['first']} were retired, as it says, at {when}")
        if one["sealed_until_unix_ms"]:
            line(
                f"  {one['next_epoch']} epochs sealed, the last at "
                f"{_utc(one['sealed_until_unix_ms'])}; {one['not_sealed_yet']} records since"
            )
    line(f"seals: {report.seals_checked} checked, {report.seals_unchecked} without a key for them")
    if report.checkpoint is not None:
        found = report.checkpoint
        line(
            f"log {found.origin}: {found.size} records under the checkpoint, "
            f"{report.not_under_checkpoint} since; root {found.short()}"
        )
    line("This check cannot find:")
    for limit in report.cannot_detect:
        line(f"  - {limit}")


def _utc(unix_ms: int | None) -> str:
    """A time for a person; whatever a forged record says, it does not stop the report."""
    try:
        return f"{datetime.fromtimestamp((unix_ms or 0) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"


def _show_selftest(result: Any) -> None:
    for attack in result.attacks:
        if attack.detected:
            mark, colour = ("found ", "green") if attack.expected else ("FOUND?", "yellow")
        else:
            mark, colour = ("MISSED", "red") if attack.expected else ("hidden", "dim")
        console.print(mark, style=colour, end="  ")
        console.print(f"{attack.name}: {attack.by}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{result.detected} of {result.classes} classes of tampering found; the untouched copy "
        f"{'passes' if result.untouched_passes else 'FAILS'}"
    )
    console.print("Not tried here: " + result.not_tried, highlight=False)
